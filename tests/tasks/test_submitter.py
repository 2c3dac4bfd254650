from __future__ import annotations

import asyncio
import gc
import inspect
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import pytest

from kling_async import KlingClient, Limits, MasterTextToVideo, TaskRef
from kling_async.errors import AnswerLostError, JournalError, KlingError, RefusedError, ServerError
from kling_async.events import (
    Event,
    SubmitFailed,
    Submitted,
    TaskLimitChanged,
    TasksAbandoned,
)
from kling_async.limits.local import LocalLimiter
from kling_async.tasks.task_registry import kind_of
from kling_async.testing import ScriptedTransport, VirtualLoop
from kling_async.testing.transport import answer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from kling_async.testing.transport import Request, Response
    from tests.conftest import Connect, Emulate

pytestmark = pytest.mark.virtual_time

T = TypeVar("T")
Leftovers: TypeAlias = "Callable[[], set[str]]"

FOX = MasterTextToVideo("a fox in fresh snow")
KEY = "sk-a-key"


def now() -> float:
    """Give the loop's time."""
    return asyncio.get_running_loop().time()


class SubmitObserver:
    """Records its calls, and raises or waits where it is instructed to."""

    def __init__(self, *, wait: float = 0.0, **raises: BaseException) -> None:
        self.wait = wait
        self.raises = raises
        self.calls: list[object] = []

    async def before_send(self) -> None:
        self.calls.append("sending")
        await self._do("sending")

    async def on_rejected(self, error: KlingError) -> None:
        self.calls.append(type(error))
        await self._do("refused")

    async def on_accepted(self, ref: TaskRef) -> None:
        self.calls.append(ref)
        await self._do("accepted")

    async def _do(self, step: str) -> None:
        await asyncio.sleep(self.wait)
        if step in self.raises:
            raise self.raises[step]


# --------------------------------------------------------------------- tasks without waiters


async def test_submits_beyond_the_slots_go_on(emulate: Emulate, connect: Connect) -> None:
    """Submits are served as tasks end, though those have no waiters: one after another."""
    emulator = await emulate(concurrent_tasks=2)
    kling = await connect(emulator, limits=Limits(concurrent_tasks=2))
    for _ in range(6):
        await kling.submit(FOX)
    assert len(emulator.ledger) == 6
    assert 120 <= now() < 150
    assert {arrival.status for arrival in emulator.requests} == {200}


async def test_all_at_once_beyond_the_slots(emulate: Emulate, connect: Connect) -> None:
    """Submits are served as tasks end also if all were begun before the first was accepted."""
    emulator = await emulate(concurrent_tasks=2)
    kling = await connect(emulator, limits=Limits(concurrent_tasks=2))
    await asyncio.gather(*(kling.submit(FOX) for _ in range(6)))
    assert now() < 150
    assert {arrival.status for arrival in emulator.requests} == {200}


async def test_a_slot_that_was_lost(emulate: Emulate, connect: Connect) -> None:
    """A lost answer holds a slot, and the end of the other tasks is noticed all the same."""
    emulator = await emulate("submit:1=lost-answer")
    kling = await connect(emulator, limits=Limits(concurrent_tasks=2))
    with pytest.raises(AnswerLostError):
        await kling.submit(FOX)
    await kling.submit(FOX)
    await kling.submit(FOX)
    assert now() < 100


async def test_a_task_factory_is_asked(emulate: Emulate, connect: Connect) -> None:
    """A watcher of the tasks of a loop through its factory sees those of submits, too."""
    emulator = await emulate()
    kling = await connect(emulator)
    loop, seen = asyncio.get_running_loop(), set()

    def factory(
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, T] | Generator[Any, None, T],
        **more: Any,  # noqa: ANN401 - what later versions of Python add
    ) -> asyncio.Future[T]:
        assert inspect.iscoroutine(coroutine)
        seen.add(coroutine.__qualname__)
        return asyncio.Task(coroutine, loop=loop, **more)

    loop.set_task_factory(factory)
    try:
        await kling.submit(FOX)
    finally:
        loop.set_task_factory(None)
    assert "Submitter._send" in seen


async def test_an_answer_without_waiting() -> None:
    """Of a submit that is answered at once, nothing is kept when it has been."""

    def ended() -> int:
        gc.collect()
        return sum(isinstance(one, asyncio.Task) and one.done() for one in gc.get_objects())

    numbers = count()
    transport = ScriptedTransport(lambda _: answer({"taskId": f"task_{next(numbers)}"}))
    kling = KlingClient(KEY, transport=transport)
    before = ended()
    for _ in range(3):
        await kling.submit(FOX)
    assert len(kling.running) == 3
    assert ended() == before


async def test_a_failure_without_a_waiter(emulate: Emulate, connect: Connect) -> None:
    """A task that fails, or cannot be asked after, keeps no submit from its turn."""
    emulator = await emulate("task:2=fail:NSFW", "task:1=stuck", "status:1=401")
    kling = await connect(emulator, limits=Limits(concurrent_tasks=2))
    for _ in range(3):
        await kling.submit(FOX)
    assert now() < 200


async def test_no_poll_without_need(emulate: Emulate, connect: Connect) -> None:
    """As long as there are slots, tasks without waiters are not polled."""
    emulator = await emulate()
    kling = await connect(emulator, limits=Limits(concurrent_tasks=3))
    for _ in range(3):
        await kling.submit(FOX)
    await asyncio.sleep(1000)
    assert {arrival.kind for arrival in emulator.requests} == {"submit"}


async def test_nothing_is_left_of_a_wait(
    emulate: Emulate, connect: Connect, leftovers: Leftovers
) -> None:
    """When no submit waits for a slot any more, the tasks are not polled any more."""
    emulator = await emulate("task:*=stuck")
    kling = await connect(emulator, limits=Limits(concurrent_tasks=1))
    await kling.submit(FOX)
    waiting = [asyncio.create_task(kling.submit(FOX)) for _ in range(3)]
    await asyncio.sleep(30)
    assert {"Submitter._sweep", "poll_unattended"} <= leftovers()
    waiting[0].cancel()
    await asyncio.sleep(1)
    assert "Submitter._sweep" in leftovers()
    for task in waiting:
        task.cancel()
    await asyncio.sleep(1)
    assert not leftovers()
    before = len(emulator.requests)
    await asyncio.sleep(1000)
    assert len(emulator.requests) == before


def test_loops_that_take_turns() -> None:
    """A submit that waits on one loop, and is cancelled there, is no concern of another loop's."""

    def script(request: Request) -> Response:
        if request.kind == "submit":
            return answer({"taskId": f"task_{len(transport.requests)}"})
        return answer({"taskId": "task", "state": "processing"})

    transport = ScriptedTransport(script)
    kling = KlingClient(KEY, transport=transport, limits=Limits(concurrent_tasks=1))
    waiting: list[asyncio.Task[object]] = []

    async def wait() -> None:
        waiting.append(asyncio.create_task(kling.submit(FOX)))
        await asyncio.sleep(5)

    async def stop() -> None:
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])

    async def swept() -> set[object]:
        return {getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()}

    two = asyncio.Runner(loop_factory=VirtualLoop)
    with asyncio.Runner(loop_factory=VirtualLoop) as one, two:
        one.run(kling.submit(FOX))
        one.run(wait())
        assert "Submitter._sweep" in one.run(swept())
        two.run(wait())
        one.run(stop())
        two.run(asyncio.sleep(10))
        assert "Submitter._sweep" in two.run(swept())
        waiting.pop(0)
        two.run(stop())
        two.run(asyncio.sleep(10))
        assert "Submitter._sweep" not in two.run(swept())


async def test_the_sweep_survives_a_foreign_error(caplog: pytest.LogCaptureFixture) -> None:
    """What a transport of the user's raises while tasks are looked after is logged, and no more."""
    ended = False

    def script(request: Request) -> Response:
        if request.kind == "submit":
            return answer({"taskId": f"task_{len(transport.requests)}"})
        if not ended:
            raise ZeroDivisionError
        urls = {"resultUrls": ["https://example.com/a.mp4"]}
        return answer({"state": "success", "resultJson": urls})

    transport = ScriptedTransport(script)
    kling = KlingClient(KEY, transport=transport, limits=Limits(concurrent_tasks=1))
    first = await kling.submit(FOX)
    waiting = asyncio.create_task(kling.submit(FOX))
    await asyncio.sleep(200)
    assert f"polling {first.ref} failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    ended = True
    await asyncio.sleep(0)
    await kling.status(first.ref)
    assert (await waiting).ref != first.ref


# -------------------------------------------------------------------------------- slots that expire


@pytest.mark.parametrize("fault", ["lost-answer", "500", "garbage"])
async def test_the_slot_of_an_unsure_submit(fault: str, emulate: Emulate, connect: Connect) -> None:
    """A submit that may have started a task keeps its slot for a short while, and not an hour."""
    limiter = LocalLimiter()
    kling = await connect(await emulate(f"submit:1={fault}"), limiter=limiter)
    with pytest.raises(KlingError) as caught:
        await kling.submit(FOX)
    assert caught.value.may_have_charged
    lifetime = kling._scheduler.unsure_lifetime(kind_of(FOX))  # noqa: SLF001 - the scheduler decides
    await asyncio.sleep(lifetime - 1)
    assert limiter.slots_in_use == 1
    await asyncio.sleep(2)
    assert limiter.slots_in_use == 0


# What pytest.fail() raises is not an Exception.
@pytest.mark.parametrize("error", [ZeroDivisionError, pytest.fail.Exception])
@pytest.mark.parametrize("when", ["sending", "sent"])
async def test_the_slot_after_a_foreign_error(when: str, error: type[BaseException]) -> None:
    """After a foreign error the slot expires soon if the submit was sent; else it is free."""
    limiter = LocalLimiter()

    def script(_: Request) -> Response:
        raise error

    kling = KlingClient(KEY, transport=ScriptedTransport(script), limiter=limiter)
    observer = SubmitObserver(sending=error()) if when == "sending" else SubmitObserver()
    with pytest.raises(error):
        await kling.submit(FOX, observer=observer)
    assert limiter.slots_in_use == (when == "sent")
    await asyncio.sleep(kling._scheduler.unsure_lifetime(kind_of(FOX)) + 1)  # noqa: SLF001
    assert limiter.slots_in_use == 0


async def test_a_task_whose_slot_expires(emulate: Emulate, connect: Connect) -> None:
    """A task that nothing has seen running for its presumed lifetime leaves the client."""
    limiter = LocalLimiter(Limits(presumed_lifetime=1000.0))
    kling = await connect(await emulate("task:*=stuck"), limiter=limiter)
    await kling.submit(FOX)
    await asyncio.sleep(1001)
    assert kling.running == ()
    assert limiter.slots_in_use == 0


# ---------------------------------------------------------------------------- tasks that are found


async def test_an_attached_task_holds_a_slot(emulate: Emulate, connect: Connect) -> None:
    """A task whose age is known is presumed to run: it is one task, with a slot, till its end."""
    emulator = await emulate()
    ref = (await (await connect(emulator)).submit(FOX)).ref
    limiter = LocalLimiter(Limits(concurrent_tasks=1))
    kling = await connect(emulator, limiter=limiter)
    task = kling.attach(ref, input=FOX, submitted_at=datetime.now(UTC))
    assert kling.attach(str(ref)) is task
    assert kling.attach(ref, submitted_at=datetime.now(UTC)) is task
    assert limiter.slots_in_use == 1
    assert kling.running == (ref,)
    await kling.submit(FOX)
    assert 60 <= now() < 70
    await task
    assert kling.running != (ref,)


async def test_the_age_of_an_attached_task(emulate: Emulate, connect: Connect) -> None:
    """An attached task is first asked after when its kind may have ended, by its age."""
    emulator = await emulate(duration=(90.0, 90.0))
    fox = MasterTextToVideo("a fox", duration=10)
    ref = (await (await connect(emulator)).submit(fox)).ref
    kling = await connect(emulator)
    old = datetime.now(UTC) - timedelta(seconds=50)
    await kling.attach(ref, input=fox, submitted_at=old)
    polls = [arrival.at for arrival in emulator.requests if arrival.kind == "status"]
    assert polls[0] == pytest.approx(40, abs=1)


@pytest.mark.parametrize(("age", "slots"), [(99, 1), (101, 0), (-50, 1)])
async def test_an_attached_task_that_is_old(age: float, slots: int) -> None:
    """A task beyond its presumed lifetime takes no slot; one from the future is new."""
    limiter = LocalLimiter(Limits(presumed_lifetime=100))
    transport = ScriptedTransport(lambda _: answer(1))
    kling = KlingClient(KEY, limiter=limiter, transport=transport)
    kling.attach("kling-2-1/x", submitted_at=datetime.now(UTC) - timedelta(seconds=age))
    assert limiter.slots_in_use == slots
    assert len(kling.running) == slots


# ---------------------------------------------------------------------------------- the observer


async def test_the_calls_of_an_observer(emulate: Emulate, connect: Connect) -> None:
    """An observer is called before each sending, of each refusal, and of the acceptance."""
    emulator = await emulate("submit:1=503", "submit:2=429:7", "submit:3=reset")
    kling = await connect(emulator)
    observer = SubmitObserver()
    with pytest.raises(AnswerLostError):
        await kling.submit(FOX, observer=observer)
    assert len(observer.calls) == 5
    assert observer.calls[::2] == ["sending"] * 3  # it was not refused what was lost
    observer = SubmitObserver()
    task = await kling.submit(FOX, observer=observer)
    assert observer.calls == ["sending", task.ref]


async def test_an_observer_of_a_refusal(emulate: Emulate, connect: Connect) -> None:
    """A submit that is refused for good ends with the refusal."""
    kling = await connect(await emulate("submit:1=503", "submit:2=403"))
    observer = SubmitObserver()
    with pytest.raises(RefusedError):
        await kling.submit(FOX, observer=observer)
    assert observer.calls == ["sending", ServerError, "sending", RefusedError]


async def test_an_observer_is_called_after_the_limits(emulate: Emulate, connect: Connect) -> None:
    """The observer is called before a sending when slot and permit are there, not before."""
    kling = await connect(await emulate(), limits=Limits(requests_per_minute=1))
    await kling.balance()
    observer = SubmitObserver()
    waiting = asyncio.create_task(kling.submit(FOX, observer=observer))
    await asyncio.sleep(50)
    assert observer.calls == []
    await waiting
    assert len(observer.calls) == 2


async def test_cancelled_before_it_is_sent(
    emulate: Emulate, connect: Connect, leftovers: Leftovers
) -> None:
    """Who is cancelled while the observer is called has sent nothing, and the slot is free."""
    emulator = await emulate()
    limiter = LocalLimiter()
    kling = await connect(emulator, limiter=limiter)
    observer = SubmitObserver(wait=10)
    waiting = asyncio.create_task(kling.submit(FOX, observer=observer))
    await asyncio.sleep(5)
    waiting.cancel()
    await asyncio.sleep(100)
    assert waiting.cancelled()
    assert not emulator.requests
    assert limiter.slots_in_use == 0
    assert observer.calls == ["sending"]
    assert not leftovers()


async def test_cancelled_before_it_is_sent_again(emulate: Emulate, connect: Connect) -> None:
    """The same holds for a repetition."""
    emulator = await emulate("submit:1=503")
    limiter = LocalLimiter()
    kling = await connect(emulator, limiter=limiter)
    observer = SubmitObserver(wait=10)
    waiting = asyncio.create_task(kling.submit(FOX, observer=observer))
    await asyncio.sleep(25)
    assert observer.calls == ["sending", ServerError, "sending"]
    waiting.cancel()
    await asyncio.sleep(100)
    assert len(emulator.requests) == 1
    assert limiter.slots_in_use == 0


async def test_an_observer_is_called_though_the_caller_has_gone(
    emulate: Emulate, connect: Connect, leftovers: Leftovers
) -> None:
    """The acceptance is reported completely though the caller was cancelled."""
    emulator = await emulate("submit:1=slow:5")
    kling = await connect(emulator)
    observer = SubmitObserver(wait=1)
    waiting = asyncio.create_task(kling.submit(FOX, observer=observer))
    await asyncio.sleep(3)
    waiting.cancel()
    await kling.close()
    assert waiting.cancelled()
    assert observer.calls == ["sending", *kling.running]
    assert not leftovers()


@pytest.mark.parametrize("patience", [None, 1000.0])
async def test_an_observer_with_patience(
    patience: float | None, emulate: Emulate, connect: Connect
) -> None:
    """An observer may have patience: the submit is repeated for that time, instead of six times."""

    class Patient(SubmitObserver):
        def __init__(self) -> None:
            super().__init__()
            self.patience = patience

    emulator = await emulate("submit:1-10=503:20")
    kling = await connect(emulator)
    if patience is None:
        with pytest.raises(ServerError):
            await kling.submit(FOX, observer=Patient())
    else:
        await kling.submit(FOX, observer=Patient())
        assert now() > 200
    assert len(emulator.requests) == (6 if patience is None else 11)


class MyError(Exception):
    pass


failing = pytest.mark.parametrize("error", [JournalError("the disk is full"), MyError()], ids=type)


@failing
async def test_an_observer_that_forbids(
    error: Exception, emulate: Emulate, connect: Connect
) -> None:
    """What an observer raises before the sending is raised, with nothing sent and the slot free."""
    emulator = await emulate()
    limiter = LocalLimiter()
    kling = await connect(emulator, limiter=limiter)
    with pytest.raises(type(error)) as caught:
        await kling.submit(FOX, observer=SubmitObserver(sending=error))
    assert caught.value is error
    assert not emulator.requests
    assert limiter.slots_in_use == 0
    assert not getattr(error, "may_have_charged", False)


@failing
async def test_an_observer_that_forbids_a_repetition(
    error: Exception, emulate: Emulate, connect: Connect
) -> None:
    """The same holds if it raises before the second sending, after a refusal of the first."""
    emulator = await emulate("submit:1=503")
    limiter = LocalLimiter()
    kling = await connect(emulator, limiter=limiter)

    class Once(SubmitObserver):
        async def on_rejected(self, error: KlingError) -> None:
            await super().on_rejected(error)
            self.raises = {"sending": mine}

    mine = error
    with pytest.raises(type(error)):
        await kling.submit(FOX, observer=Once())
    assert len(emulator.requests) == 1
    assert limiter.slots_in_use == 0


@failing
async def test_an_observer_that_fails_on_a_refusal(
    error: Exception, emulate: Emulate, connect: Connect
) -> None:
    """What an observer raises on a refusal is raised at once; nothing is sent again, or charged."""
    emulator = await emulate("submit:1=503")
    limiter = LocalLimiter()
    kling = await connect(emulator, limiter=limiter)
    async with asyncio.timeout(100):
        with pytest.raises(type(error)):
            await kling.submit(FOX, observer=SubmitObserver(refused=error))
    assert len(emulator.requests) == 1
    assert limiter.slots_in_use == 0


retryable = JournalError("the disk is busy", retryable=True)


@pytest.mark.parametrize("error", [JournalError("full"), retryable, MyError()], ids=repr)
async def test_an_observer_that_fails_on_the_acceptance(
    error: Exception, emulate: Emulate, connect: Connect
) -> None:
    """What on_accepted raises is raised with the reference; nothing is repeated."""
    emulator = await emulate()
    events: list[Event] = []
    limiter = LocalLimiter()
    kling = await connect(emulator, hooks=[events.append], limiter=limiter)
    observer = SubmitObserver(accepted=error)
    async with asyncio.timeout(100):
        with pytest.raises(type(error)) as caught:
            await kling.submit(FOX, observer=observer)
    assert caught.value is error
    (ref,) = kling.running
    assert observer.calls == ["sending", ref]
    assert len(emulator.ledger) == len(emulator.requests) == 1
    assert events == [Submitted(ref, FOX)]
    assert limiter.slots_in_use == 1
    if isinstance(error, KlingError):
        assert (error.ref, error.may_have_charged, error.retryable) == (ref, True, False)
    else:
        assert error.__notes__ == [f"the submit was accepted: {ref}"]


@failing
async def test_what_an_observer_that_forbids_gives_back(error: Exception) -> None:
    """An observer that raises before the sending is asked once, and the permit is given back."""
    transport = ScriptedTransport(lambda _: answer({"taskId": "task_1"}))
    kling = KlingClient(KEY, transport=transport, limits=Limits(requests_per_minute=1))
    observer = SubmitObserver(sending=error)
    with pytest.raises(type(error)):
        await kling.submit(FOX, observer=observer)
    assert observer.calls == ["sending"]
    assert not transport.requests
    await kling.submit(FOX)
    assert now() == pytest.approx(60, abs=1)  # a permit that is never answered is never free


@failing
@pytest.mark.parametrize("step", ["refused", "accepted"])
async def test_an_observer_that_fails_when_the_caller_has_gone(
    error: Exception, step: str, emulate: Emulate, connect: Connect, leftovers: Leftovers
) -> None:
    """What an observer raises when the caller has left is dropped; an accepted task is reported."""
    emulator = await emulate("submit:1=503" if step == "refused" else "task:1=stuck")
    events: list[Event] = []
    limiter = LocalLimiter()
    kling = await connect(emulator, hooks=[events.append], limiter=limiter)
    observer = SubmitObserver(wait=3, **{step: error})
    waiting = asyncio.create_task(kling.submit(FOX, observer=observer))
    await asyncio.sleep(4)
    assert len(observer.calls) == 2
    waiting.cancel()
    await kling.close()
    assert waiting.cancelled()
    assert len(kling.running) == len(emulator.ledger) == (step == "accepted")
    assert limiter.slots_in_use == len(kling.running)
    abandoned = [event for event in events if isinstance(event, TasksAbandoned)]
    assert abandoned == [TasksAbandoned((ref,)) for ref in kling.running]
    assert not leftovers()


async def test_gone_when_it_is_refused(
    emulate: Emulate, connect: Connect, leftovers: Leftovers
) -> None:
    """Who is cancelled while the observer gets a refusal leaves a free slot and an event."""
    emulator = await emulate("submit:1=503")
    events: list[Event] = []
    limiter = LocalLimiter()
    kling = await connect(emulator, hooks=[events.append], limiter=limiter)
    observer = SubmitObserver(wait=3)
    waiting = asyncio.create_task(kling.submit(FOX, observer=observer))
    await asyncio.sleep(4)
    assert len(observer.calls) == 2
    waiting.cancel()
    await kling.close()
    assert [type(event) for event in events] == [SubmitFailed]
    assert limiter.slots_in_use == 0
    assert not leftovers()


@pytest.mark.parametrize("observed", [True, False])
@pytest.mark.parametrize("accepted", [True, False])
async def test_cancelled_in_the_moment_of_the_answer(*, accepted: bool, observed: bool) -> None:
    """An answer that comes in the turn of the cancellation is taken note of all the same.

    A refusal frees the slot. A task is reported, with a note on the exception, unless there is a
    observer, which has the reference.
    """
    events: list[Event] = []
    limiter = LocalLimiter()
    said = answer({"taskId": "task_1"}) if accepted else answer(None, status=403, message="no")
    ref = TaskRef("kling-2-1", "task_1")

    async def script(_: Request) -> Response:
        await asyncio.sleep(1)
        asyncio.get_running_loop().call_soon(stop)  # read, and the caller not yet woken
        return said

    def stop() -> None:
        stopped.append(waiting.cancel())

    stopped: list[bool] = []
    transport = ScriptedTransport(script)
    kling = KlingClient(KEY, transport=transport, hooks=[events.append], limiter=limiter)
    observer = Eager() if observed else None
    waiting = asyncio.create_task(kling.submit(FOX, observer=observer))
    with pytest.raises(asyncio.CancelledError) as caught:
        await waiting
    await asyncio.sleep(1)
    assert stopped == [True]
    assert limiter.slots_in_use == accepted
    if not accepted:
        assert [type(event) for event in events] == [SubmitFailed]
    elif observed:
        assert [type(event) for event in events] == [Submitted]
    else:
        assert [type(event) for event in events] == [Submitted, TasksAbandoned]
        assert str(ref) in caught.value.__notes__[0]


class Eager(SubmitObserver):
    """An observer that takes no turn of the loop."""

    async def _do(self, step: str) -> None:
        if step in self.raises:
            raise self.raises[step]


@failing
async def test_cancelled_in_the_moment_of_a_failed_acceptance(error: Exception) -> None:
    """If the observer could not note a task, that is reported though its caller is cancelled."""
    events: list[Event] = []

    def stop() -> None:
        waiting.cancel()

    async def script(_: Request) -> Response:
        await asyncio.sleep(1)
        asyncio.get_running_loop().call_soon(stop)
        return answer({"taskId": "task_1"})

    kling = KlingClient(KEY, transport=ScriptedTransport(script), hooks=[events.append])
    waiting = asyncio.create_task(kling.submit(FOX, observer=Eager(accepted=error)))
    with pytest.raises(asyncio.CancelledError) as caught:
        await waiting
    ref = TaskRef("kling-2-1", "task_1")
    assert events == [Submitted(ref, FOX), TasksAbandoned((ref,))]
    assert str(ref) in caught.value.__notes__[0]


@pytest.mark.parametrize("refusal", ["429", "429:30"])
async def test_callers_that_leave_before_a_429(
    refusal: str, emulate: Emulate, connect: Connect
) -> None:
    """A 429 counts for all that follow, even if its own caller has left before it came."""
    emulator = await emulate(f"submit:*={refusal}", latency=(1.5, 1.5))
    kling = await connect(emulator, limits=Limits(concurrent_tasks=20))

    async def impatient() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(2):
                await kling.submit(FOX)

    async with asyncio.TaskGroup() as group:
        for _ in range(60):
            group.create_task(impatient())
            await asyncio.sleep(1)
    sent = [arrival.at for arrival in emulator.requests]
    assert len(sent) <= (9 if refusal == "429:30" else 14)
    if refusal == "429:30":
        assert all(late - early < 4 or late - early > 26 for early, late in pairwise(sent))


# ------------------------------------------------------------------------------ the loop's end


@pytest.mark.parametrize(
    ("refused", "kinds", "slots"),
    [
        (0, [Submitted, TasksAbandoned], 1),
        (403, [], 0),
        (403, None, 0),
        (429, [TaskLimitChanged], 0),
    ],
    ids=["accepted", "refused", "refused, without a hook", "busy"],
)
def test_a_loop_that_ends_while_the_observer_records(
    refused: int,
    kinds: list[type[Event]] | None,
    slots: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If the loop ends while the observer notes a task, that is reported; a refusal is free."""
    events: list[Event] = []
    limiter = LocalLimiter()
    said = answer(None, status=refused) if refused else answer({"taskId": "task_1"})
    transport = ScriptedTransport(lambda _: said)
    hooks = [] if kinds is None else [events.append]
    kling = KlingClient(KEY, transport=transport, hooks=hooks, limiter=limiter)
    observer = SubmitObserver(wait=10)

    async def main() -> None:
        task = asyncio.create_task(kling.submit(FOX, observer=observer))
        await asyncio.sleep(15)
        assert not task.done()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
    assert [type(event) for event in events] == (kinds or [])
    assert limiter.slots_in_use == slots
    assert ("kling-2-1/task_1" in caplog.text) is not bool(refused)
