from __future__ import annotations

import asyncio
import gc
import logging
import tracemalloc
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest

from kling_async import (
    KlingClient,
    Limits,
    MasterTextToVideo,
    Outcome,
    Polling,
    Result,
    Retry,
    TaskRef,
)
from kling_async.errors import (
    AnswerLostError,
    AuthenticationError,
    BalanceError,
    ConfigurationError,
    ContractError,
    InputError,
    RateLimitError,
    RefusedError,
    ServerError,
    TaskFailedError,
    TaskTimeoutError,
)
from kling_async.events import Event, Submitted, TasksAbandoned
from kling_async.tasks.abandoned import describe
from kling_async.tasks.fan_out import iterate
from kling_async.testing import ScriptedTransport
from kling_async.testing.transport import answer
from tests.tasks.fan_outs import (
    KEY,
    BrokenError,
    Leftovers,
    Service,
    Watched,
    breaking,
    by_number,
    foxes,
    left_alone,
    refs,
)

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterable,
        AsyncIterator,
        Callable,
        Iterable,
        Iterator,
    )

    from kling_async.inputs.base import Input
    from kling_async.tasks.fan_out import WorkItem
    from kling_async.testing.transport import Request, Response
    from tests.conftest import Connect, Emulate

pytestmark = pytest.mark.virtual_time

Wrap: TypeAlias = "Callable[[Iterable[Input]], Iterable[Input] | AsyncIterable[Input]]"


async def slowly(inputs: Iterable[Input]) -> AsyncIterator[Input]:
    """Give inputs as an async iterable that has to wait for each."""
    for one in inputs:
        await asyncio.sleep(0.1)
        yield one


class Drawn:
    """Counts what is drawn from it."""

    def __init__(self, inputs: Iterable[Input]) -> None:
        self.inputs = iter(inputs)
        self.count = 0

    def __iter__(self) -> Iterator[Input]:
        for one in self.inputs:
            self.count += 1
            yield one


wraps = pytest.mark.parametrize("wrap", [iter, slowly], ids=["iterable", "async iterable"])


# ---------------------------------------------------------------------------------------- outcomes


@wraps
async def test_every_input_has_its_outcome(wrap: Wrap, emulate: Emulate, connect: Connect) -> None:
    """Each input of either kind of iterable is yielded once, with its index, task and result."""
    emulator = await emulate()
    kling = await connect(emulator)
    inputs = list(foxes(30))
    outcomes = [outcome async for outcome in kling.generate_many(wrap(inputs))]
    assert sorted(outcome.index for outcome in outcomes) == list(range(30))
    for outcome in outcomes:
        assert outcome.input is inputs[outcome.index]
        assert outcome.error is None
        assert outcome.result is not None
        assert outcome.result.ref == outcome.task_ref
    assert {outcome.task_ref for outcome in outcomes} == set(refs(emulator))
    assert kling.running == ()


async def test_nothing_at_all(connect: Connect, emulate: Emulate) -> None:
    """No inputs are no outcomes, at once."""
    kling = await connect(await emulate())
    assert [outcome async for outcome in kling.generate_many([])] == []


async def test_as_they_finish(emulate: Emulate, connect: Connect) -> None:
    """What finishes first is yielded first, unless the order of the inputs is asked for."""
    options = {"duration": by_number(90, 60, 30, rest=0)}
    first = {"polling": Polling(first=1.0)}
    kling = await connect(await emulate(**options), **first)
    assert [one.index async for one in kling.generate_many(foxes(3))] == [2, 1, 0]
    kling = await connect(await emulate(**options), **first)
    assert [one.index async for one in kling.generate_many(foxes(3), ordered=True)] == [0, 1, 2]


async def test_no_failure_hides_another(emulate: Emulate, connect: Connect) -> None:
    """Every kind of failure is an outcome that says what it may have cost; the others continue."""
    emulator = await emulate(
        "submit:1=lost-answer",
        "submit:2=403",
        "submit:3=402",
        "submit:4=401",
        "submit:5=503",
        "submit:6=429",
        "submit:7=garbage",
        "task:3=fail:NSFW_DETECTED",
        "task:4=stuck",
        "task:5=no-urls",
    )
    kling = await connect(emulator, retry=Retry(attempts=1))
    inputs: list[Input] = [*foxes(10), "no input", *foxes(1)]  # type: ignore[list-item]
    many = kling.generate_many(inputs, in_flight=1, timeout=200)
    outcomes = [outcome async for outcome in many]
    reported = [(type(one.error), one.error and one.error.may_have_charged) for one in outcomes]
    assert reported == [
        (AnswerLostError, True),
        (RefusedError, False),
        (BalanceError, False),
        (AuthenticationError, False),
        (ServerError, False),
        (RateLimitError, False),
        (ContractError, True),
        (TaskFailedError, True),
        (TaskTimeoutError, True),
        (ContractError, True),
        (InputError, False),
        (type(None), None),
    ]
    accepted = [one.task_ref for one in outcomes if one.task_ref]
    assert accepted == refs(emulator)[2:]
    assert outcomes[-1].result is not None


async def test_a_refused_status_may_have_cost(emulate: Emulate, connect: Connect) -> None:
    """An outcome with a task says that it may have cost money, whatever went wrong then."""
    kling = await connect(await emulate("status:*=401"))
    (outcome,) = [one async for one in kling.generate_many(foxes(1))]
    assert isinstance(outcome.error, AuthenticationError)
    assert outcome.error.may_have_charged
    assert outcome.task_ref in kling.running


@pytest.mark.parametrize("in_flight", [0, -1, 1.5, True])
def test_how_many_in_flight(in_flight: int) -> None:
    """An invalid in_flight is refused before anything is drawn."""
    kling = KlingClient(KEY)
    with pytest.raises(ConfigurationError, match="in_flight"):
        kling.generate_many([], in_flight=in_flight)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
async def test_a_timeout_that_is_none(timeout: float, emulate: Emulate, connect: Connect) -> None:
    """A timeout that makes no sense is refused before anything is paid for."""
    emulator = await emulate()
    kling = await connect(emulator)
    with pytest.raises(ConfigurationError, match="timeout"):
        kling.generate_many(foxes(3), timeout=timeout)
    with pytest.raises(ConfigurationError, match="timeout"):
        await kling.generate(MasterTextToVideo("a fox"), timeout=timeout)
    assert not emulator.requests


# ------------------------------------------------------------------------------------ lazy drawing


@wraps
async def test_drawn_when_there_is_room(wrap: Wrap, emulate: Emulate, connect: Connect) -> None:
    """When the first of a million is yielded, no more are drawn than may be in flight, and one."""
    emulator = await emulate(duration=by_number(60, rest=1e9))
    kling = await connect(emulator)
    drawn = Drawn(foxes())
    async with aclosing(kling.generate_many(wrap(drawn), in_flight=20)) as many:
        outcome = await anext(many)
    assert outcome.index == 0
    assert drawn.count in (20, 21)


async def test_the_limit_of_tasks_is_the_default(emulate: Emulate, connect: Connect) -> None:
    """As many are in work_item as the account may run, and not one is refused."""
    emulator = await emulate(concurrent_tasks=7)
    kling = await connect(emulator, limits=Limits(concurrent_tasks=7))
    drawn = Drawn(foxes(20))
    many = kling.generate_many(drawn)
    first = asyncio.ensure_future(anext(many))
    await asyncio.sleep(50)
    assert drawn.count == len(emulator.ledger) == 7
    rest = [await first] + [one async for one in many]
    assert len(rest) == 20
    assert {arrival.status for arrival in emulator.requests} == {200}


@pytest.mark.slow
async def test_few_stand_before_the_limits(emulate: Emulate, connect: Connect) -> None:
    """With ten requests a minute, only a handful is drawn ahead of what was submitted."""
    emulator = await emulate("task:*=stuck", requests_per_minute=10)
    kling = await connect(emulator, limits=Limits(requests_per_minute=10))
    drawn = Drawn(foxes())
    many = kling.generate_many(drawn)
    first = asyncio.ensure_future(anext(many))
    ahead = []
    for _ in range(5):
        await asyncio.sleep(60)
        ahead.append(drawn.count - len(emulator.ledger))
    assert len(emulator.ledger) > 10
    assert max(ahead) <= 5
    first.cancel()
    await asyncio.wait([first])


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_slow_caller(ordered: bool, emulate: Emulate, connect: Connect) -> None:  # noqa: FBT001
    """What has finished and was not taken is kept, up to as many as may be in flight."""
    emulator = await emulate()
    kling = await connect(emulator)
    drawn = Drawn(foxes())
    many = kling.generate_many(drawn, in_flight=5, ordered=ordered)
    await anext(many)
    await asyncio.sleep(10_000)
    assert drawn.count <= 1 + 2 * 5
    for _ in range(before := drawn.count - 1):
        await anext(many)
    await asyncio.sleep(100)
    assert len(emulator.ledger) >= before + 5
    await many.aclose()


@pytest.mark.repeating
async def test_one_that_lags(emulate: Emulate, connect: Connect) -> None:
    """In order, a first one that lags stops the drawing; out of order it stops nothing."""
    for ordered, most in ((True, 10), (False, 100)):
        emulator = await emulate(duration=by_number(400, rest=60))
        kling = await connect(emulator)
        drawn = Drawn(foxes())
        async with aclosing(kling.generate_many(drawn, in_flight=5, ordered=ordered)) as many:
            async for outcome in many:
                if outcome.index == 0:
                    break
        assert (drawn.count <= most) is True
        assert (drawn.count > 10) is not ordered


class Forgetful(ScriptedTransport):
    """Keeps no requests."""

    async def send(self, request: Request, timeout: float) -> Response:
        answered = await super().send(request, timeout)
        self.requests.clear()
        return answered


async def peak(number: int) -> int:
    """Give the most memory that a run of so many inputs takes beyond what was there, in bytes."""
    kling = KlingClient(KEY, transport=Forgetful(Service()), limits=Limits(concurrent_tasks=50))
    gc.collect()
    tracemalloc.start()
    try:
        async for outcome in kling.generate_many(foxes(number)):
            assert outcome.result is not None
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.repeating
@pytest.mark.slow
async def test_memory_is_flat() -> None:
    """Ten times as many inputs need no more memory."""
    await peak(50)
    few = await peak(200)
    assert await peak(2000) < 1.5 * few


# ------------------------------------------------------------------------------------- ended early


@wraps
async def test_broken_off(
    wrap: Wrap,
    emulate: Emulate,
    connect: Connect,
    leftovers: Leftovers,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Leaving the loop submits nothing more, and reports the references of running tasks."""
    emulator = await emulate(duration=by_number(60, rest=600))
    events: list[Event] = []
    kling = await connect(emulator, hooks=[events.append])
    async with aclosing(kling.generate_many(wrap(foxes()), in_flight=30)) as many:
        outcome = await anext(many)
    assert len(kling.running) >= 29
    await left_alone(emulator, events, leftovers, caplog, [outcome.task_ref])


async def test_broken_off_without_closing(
    emulate: Emulate, connect: Connect, leftovers: Leftovers, caplog: pytest.LogCaptureFixture
) -> None:
    """A loop that is just left ends the fan-out, too, a moment later."""
    emulator = await emulate(duration=by_number(60, rest=600))
    events: list[Event] = []
    kling = await connect(emulator, hooks=[events.append])
    reported = []
    async for outcome in kling.generate_many(foxes(), in_flight=30):
        reported.append(outcome.task_ref)
        break
    await asyncio.sleep(1)
    await left_alone(emulator, events, leftovers, caplog, reported)


async def test_what_had_ended_and_was_not_yielded(
    emulate: Emulate, connect: Connect, leftovers: Leftovers, caplog: pytest.LogCaptureFixture
) -> None:
    """The references of ended tasks are reported, too, if their outcomes had not come yet."""
    emulator = await emulate()
    events: list[Event] = []
    kling = await connect(emulator, hooks=[events.append])
    async with aclosing(kling.generate_many(foxes(5))) as many:
        outcome = await anext(many)
        await asyncio.sleep(1000)
    assert kling.running == ()
    await left_alone(emulator, events, leftovers, caplog, [outcome.task_ref])


async def test_many_are_left(
    emulate: Emulate, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names every task, and says how many there are."""
    emulator = await emulate(duration=by_number(60, rest=600))
    kling = await connect(emulator)
    async with aclosing(kling.generate_many(foxes(), in_flight=50)) as many:
        await anext(many)
    (record,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert record.getMessage().count("kling-2-1/") == len(kling.running)
    assert f"{len(kling.running)} tasks" in record.getMessage()


async def test_nothing_was_left(
    emulate: Emulate, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is logged if all outcomes were yielded when the loop is left."""
    events: list[Event] = []
    kling = await connect(await emulate(), hooks=[events.append])
    async with aclosing(kling.generate_many(foxes(1))) as many:
        await anext(many)
    assert not caplog.records
    assert not [event for event in events if isinstance(event, TasksAbandoned)]


async def test_cancelled(
    emulate: Emulate, connect: Connect, leftovers: Leftovers, caplog: pytest.LogCaptureFixture
) -> None:
    """Cancelling who waits for the next outcome ends all in the same way."""
    emulator = await emulate()
    events: list[Event] = []
    kling = await connect(emulator, hooks=[events.append])

    async def main() -> None:
        async for _ in kling.generate_many(foxes(), in_flight=30):
            raise AssertionError

    waiting = asyncio.create_task(main())
    await asyncio.sleep(30)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert len(kling.running) == 30
    await left_alone(emulator, events, leftovers, caplog)


async def test_cancelled_while_the_service_answers(
    emulate: Emulate, connect: Connect, leftovers: Leftovers, caplog: pytest.LogCaptureFixture
) -> None:
    """The answers to submits under way are read, and their tasks are named."""
    emulator = await emulate("submit:*=slow:5")
    events: list[Event] = []
    kling = await connect(emulator, hooks=[events.append])
    many = kling.generate_many(foxes(), in_flight=10)
    waiting = asyncio.ensure_future(anext(many))
    await asyncio.sleep(2)
    assert kling.running == ()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert len(kling.running) == 10
    assert sum(isinstance(event, Submitted) for event in events) == 10
    await left_alone(emulator, events, leftovers, caplog)


async def test_an_error_of_the_callers(
    emulate: Emulate, connect: Connect, leftovers: Leftovers, caplog: pytest.LogCaptureFixture
) -> None:
    """An error in the body of the loop ends all in the same way."""
    emulator = await emulate(duration=by_number(60, rest=600))
    events: list[Event] = []
    kling = await connect(emulator, hooks=[events.append])
    reported: list[Outcome] = []

    async def main() -> None:
        async with aclosing(kling.generate_many(foxes(), in_flight=30)) as many:
            async for outcome in many:
                reported.append(outcome)
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await main()
    await left_alone(emulator, events, leftovers, caplog, [reported[0].task_ref])


@pytest.mark.slow
@wraps
async def test_an_error_in_the_iterable(
    wrap: Wrap,
    emulate: Emulate,
    connect: Connect,
    leftovers: Leftovers,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error of the iterable is raised, names the running tasks, and ends all."""
    emulator = await emulate("submit:*=slow:5")
    events: list[Event] = []
    kling = await connect(emulator, hooks=[events.append])
    with pytest.raises(BrokenError) as caught:
        await anext(kling.generate_many(wrap(breaking(150))))
    notes = "".join(caught.value.__notes__)
    assert all(notes.count(str(ref)) == 1 for ref in refs(emulator))
    await left_alone(emulator, events, leftovers, caplog)


@pytest.mark.parametrize("where", ["iterable", "work"])
async def test_an_error_that_is_not_an_exception(where: str, leftovers: Leftovers) -> None:
    """What pytest.fail() raises, in the iterable or in the work, ends all like other errors."""
    kling = KlingClient(KEY, transport=ScriptedTransport(lambda _: answer(1)))

    async def work(work_item: WorkItem[int]) -> Outcome | None:
        if where == "work":
            pytest.fail(f"item {work_item.index}")
        await asyncio.sleep(1)
        return None

    def items() -> Iterator[int]:
        yield 0
        if where == "iterable":
            pytest.fail("item 0")

    with pytest.raises(pytest.fail.Exception, match="item 0"):
        await anext(kling.run_many(work, items()))
    assert not leftovers()


@pytest.mark.parametrize("ordered", [False, True])
async def test_what_is_known_is_yielded_before_an_error(
    ordered: bool,  # noqa: FBT001
    emulate: Emulate,
    connect: Connect,
    leftovers: Leftovers,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What has finished is yielded before the error of the iterable is raised, also out of turn."""
    emulator = await emulate(duration=by_number(600, rest=60))
    events: list[Event] = []
    kling = await connect(emulator, hooks=[events.append])

    async def late() -> AsyncIterator[Input]:
        for one in foxes(4):
            yield one
        await asyncio.sleep(200)
        raise BrokenError

    many = kling.generate_many(late(), ordered=ordered)
    reported = [await anext(many) for _ in range(3)]
    with pytest.raises(BrokenError):
        await anext(many)
    assert sorted(one.index for one in reported) == [1, 2, 3]
    await left_alone(emulator, events, leftovers, caplog, [one.task_ref for one in reported])


async def test_an_error_while_the_caller_is_busy(emulate: Emulate, connect: Connect) -> None:
    """From the moment of an error nothing more is submitted, however late the caller gets it."""
    emulator = await emulate("submit:2-=503", duration=by_number(60, rest=600))
    kling = await connect(emulator, retry=Retry(attempts=10**6, deadline=10**6))

    async def late() -> AsyncIterator[Input]:
        for one in foxes(10):
            yield one
        await asyncio.sleep(100)
        raise BrokenError

    many = kling.generate_many(late())
    await anext(many)
    await asyncio.sleep(100)
    before = len(emulator.requests)
    await asyncio.sleep(1000)
    assert len(emulator.requests) == before
    with pytest.raises(BrokenError):
        await anext(many)


@pytest.mark.parametrize(
    "inputs",
    [
        MasterTextToVideo("a fox"),
        "a fox",
        b"a fox",
        {"prompt": "a fox"},
        MasterTextToVideo,
        foxes,
        None,
        3,
    ],
)
def test_not_an_iterable_of_inputs(inputs: Iterable[Input]) -> None:
    """A single input, a text, a mapping, a class, or what is not iterable is refused."""
    with pytest.raises(InputError, match=r"pass an iterable of inputs, such as \["):
        KlingClient(KEY).generate_many(inputs)


async def test_an_old_sequence(emulate: Emulate, connect: Connect) -> None:
    """A sequence that has only ``__getitem__`` is iterated over, as by Python."""

    class Foxes:
        def __getitem__(self, index: int) -> Input:
            return list(foxes(2))[index]

    kling = await connect(await emulate())
    many = kling.generate_many(Foxes())  # type: ignore[arg-type]
    assert len([one async for one in many]) == 2


@pytest.mark.parametrize("ordered", ["yes", 1, None])
def test_an_order_that_is_none(ordered: bool) -> None:  # noqa: FBT001
    """What is neither true nor false is refused at the call."""
    with pytest.raises(ConfigurationError, match="ordered must be True or False"):
        KlingClient(KEY).generate_many([], ordered=ordered)


async def test_an_iterable_that_was_cancelled(
    emulate: Emulate, connect: Connect, leftovers: Leftovers
) -> None:
    """An iterable in which something else was cancelled ends all, instead of hanging."""
    kling = await connect(await emulate())

    async def cancelled() -> AsyncIterator[Input]:
        yield MasterTextToVideo("a fox")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    waiting = asyncio.ensure_future(anext(kling.generate_many(cancelled())))
    await asyncio.wait([waiting], timeout=1000)
    assert waiting.cancelled()
    assert not leftovers()


async def test_a_transport_that_breaks(leftovers: Leftovers) -> None:
    """An error that is not ours ends all, and is raised as it is."""

    def script(_: Request) -> Response:
        raise ZeroDivisionError

    kling = KlingClient(KEY, transport=ScriptedTransport(script))
    with pytest.raises(ZeroDivisionError):
        await anext(kling.generate_many(foxes(3)))
    assert not leftovers()


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("ready", GeneratorExit),
        ("arriving", GeneratorExit),
        ("awaiting", asyncio.CancelledError),
        ("tidying", None),
        ("stubborn", GeneratorExit),
    ],
)
@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_generator_is_closed(
    kind: str,
    how: type[BaseException] | None,
    cancelled: bool,  # noqa: FBT001
    emulate: Emulate,
    connect: Connect,
    leftovers: Leftovers,
) -> None:
    """The caller's generator is closed with the fan-out, wherever it waits at that moment."""
    emulator = await emulate(duration=by_number(60, rest=60))
    kling = await connect(emulator)
    watched = Watched()
    inputs = getattr(watched, kind)()
    async with aclosing(kling.generate_many(inputs, in_flight=3)) as many:
        if cancelled:
            waiting = asyncio.ensure_future(anext(many))
            await asyncio.sleep(30)
            waiting.cancel()
            await asyncio.wait([waiting])
        else:
            await anext(many)
    assert watched.closed == [how]
    assert not leftovers()
    assert len(emulator.ledger) <= 6


async def test_an_iterator_that_was_lent() -> None:
    """Only a generator is closed; an iterator or file of the caller's is left as it is."""
    numbers = iter(range(5))
    async with aclosing(iterate(numbers)) as drawn:
        assert await anext(drawn) == 0
    assert list(numbers) == [1, 2, 3, 4]

    class Slow:
        def __aiter__(self) -> Slow:
            return self

        async def __anext__(self) -> int:
            return 7

        async def aclose(self) -> None:
            raise AssertionError

    async with aclosing(iterate(Slow())) as arriving:
        assert await anext(arriving) == 7


async def test_a_generator_that_fails_to_close(
    emulate: Emulate, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """An error while the generator is closed is logged: the caller has gone."""
    kling = await connect(await emulate())

    def broken() -> Iterator[Input]:
        try:
            yield from foxes()
        finally:
            raise BrokenError

    async with aclosing(kling.generate_many(broken(), in_flight=3)) as many:
        await anext(many)
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[0] is BrokenError


async def test_never_begun(emulate: Emulate, connect: Connect) -> None:
    """An outcome generator that is not iterated draws nothing and sends nothing."""
    emulator = await emulate()
    kling = await connect(emulator)
    drawn = Drawn(foxes())
    many = kling.generate_many(drawn)
    await asyncio.sleep(100)
    await many.aclose()
    await kling.fan_out(lambda _: asyncio.sleep(0)).finished()
    assert drawn.count == 0
    assert not emulator.requests


# ------------------------------------------------------------------------------- work of one's own


async def test_work_that_lands_early() -> None:
    """An item whose task has ended makes room for another, up to as many as may run."""
    kling = KlingClient(KEY, transport=ScriptedTransport(lambda _: answer(1)))
    flying = landed = most_flying = most_landed = 0

    async def work(work_item: WorkItem[int]) -> Outcome | None:
        nonlocal flying, landed, most_flying, most_landed
        flying += 1
        most_flying = max(most_flying, flying)
        work_item.submitted()
        work_item.submitted()
        await asyncio.sleep(10)
        flying, landed = flying - 1, landed + 1
        most_landed = max(most_landed, landed)
        work_item.task_ended()
        work_item.task_ended()
        await asyncio.sleep(25)
        landed -= 1
        return None

    assert [one async for one in kling.run_many(work, range(40), in_flight=4)] == []
    assert most_flying == most_landed == 4


async def test_work_at_the_door() -> None:
    """Work that has not entered keeps others from being drawn."""
    kling = KlingClient(
        KEY,
        transport=ScriptedTransport(lambda _: answer(1)),
        limits=Limits(requests_per_minute=10),
    )
    begun: list[int] = []

    async def work(work_item: WorkItem[int]) -> Outcome | None:
        begun.append(work_item.index)
        await asyncio.sleep(100 if work_item.index < 4 else 0)
        return None

    many = kling.run_many(work, range(100))
    waiting = asyncio.ensure_future(anext(many, None))
    await asyncio.sleep(99)
    assert begun == [0, 1, 2, 3]
    await waiting
    assert len(begun) == 100


async def test_work_that_is_parked() -> None:
    """An item that waits for another worker makes room for others, until it continues."""
    kling = KlingClient(KEY, transport=ScriptedTransport(lambda _: answer(1)))
    started: list[int] = []
    resumed = asyncio.Event()

    async def work(work_item: WorkItem[int]) -> Outcome | None:
        started.append(work_item.index)
        if work_item.index == 0:
            work_item.park()
            await resumed.wait()
            work_item.unpark()
        elif work_item.index == 1:
            resumed.set()
        await asyncio.sleep(10)
        return None

    assert [one async for one in kling.run_many(work, range(3), in_flight=1)] == []
    assert started == [0, 1, 2]


async def test_finished() -> None:
    """A run that was left is finished when the clean-up of its work has ended."""
    kling = KlingClient(KEY, transport=ScriptedTransport(lambda _: answer(1)))
    cleaned = False

    async def work(_: WorkItem[int]) -> Outcome | None:
        nonlocal cleaned
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(5)
            cleaned = True
        return None

    run = kling.fan_out(work)
    await run.finished()  # it has not been left
    first = asyncio.ensure_future(anext(run.outcomes(range(3))))
    await asyncio.sleep(1)
    for _ in range(2):
        first.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await first
    assert not cleaned
    await run.finished()
    assert cleaned


@pytest.mark.parametrize("busy", [False, True])
async def test_work_that_fails(busy: bool, leftovers: Leftovers) -> None:  # noqa: FBT001
    """What work raises ends everything, is raised, and cuts short no tidying of the others."""
    kling = KlingClient(KEY, transport=ScriptedTransport(lambda _: answer(1)))
    tidied: list[int] = []

    async def work(work_item: WorkItem[int]) -> Outcome | None:
        if work_item.index == 0:
            return Outcome(0, MasterTextToVideo("a fox"))
        work_item.ref = TaskRef("m", f"{work_item.index}")
        try:
            await asyncio.sleep(work_item.index)
            raise BrokenError(work_item.index)
        except asyncio.CancelledError:
            await asyncio.sleep(5)
            tidied.append(work_item.index)
            raise BrokenError(work_item.index) from None

    many = kling.run_many(work, range(5))
    await anext(many)
    await asyncio.sleep(3 if busy else 0)
    with pytest.raises(BrokenError) as caught:
        await anext(many)
    assert caught.value.args == (1,)
    named = [TaskRef("m", f"{number}") for number in (1, 2, 3, 4)]
    assert caught.value.__notes__ == [describe(named)]
    assert sorted(tidied) == [2, 3, 4]
    assert not leftovers()


async def test_an_iterable_that_suppresses_the_cancellation(
    emulate: Emulate, connect: Connect
) -> None:
    """What an iterable yields after the loop was left, instead of ending, is not submitted."""

    async def stubborn() -> AsyncIterator[Input]:
        yield MasterTextToVideo("first")
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(1e6)
        yield MasterTextToVideo("second")

    emulator = await emulate()
    kling = await connect(emulator)
    async with aclosing(kling.generate_many(stubborn())) as many:
        await anext(many)
    assert len(emulator.ledger) == 1


def test_text_of_outcomes() -> None:
    """An outcome is one line: its key or index, the prompt, and the files, URLs or error."""
    sent, ref = MasterTextToVideo("a fox\nin snow"), TaskRef("kling-2-1", "a")
    result = Result(ref, ("https://x/1.mp4", "https://x/2.mp4"))
    failed = Outcome(1, sent, error=ServerError("code 400\nno"), key="k", result=result)
    assert str(Outcome(0, sent, ref, result)) == (
        r"0 'a fox\nin snow': https://x/1.mp4 https://x/2.mp4"
    )
    assert str(Outcome(0, sent, ref, result, files=(Path("v/a.mp4"),))).endswith(": v/a.mp4")
    assert repr(failed) == r"<Outcome k 'a fox\nin snow': ServerError: code 400\nno>"
    assert str(Outcome(2, "a fox", error=ServerError("x"))) == "2 'a fox': ServerError: x"  # type: ignore[arg-type]
