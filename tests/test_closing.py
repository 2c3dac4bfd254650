"""Closing a client: what costs nothing ends at once, what may cost is awaited, nothing is left."""

from __future__ import annotations

import asyncio
import gc
import logging
from contextlib import nullcontext
from typing import TYPE_CHECKING, TypeAlias

import anyio
import pytest

from kling_async import KlingClient, Limits, MasterTextToVideo, Polling, Retry, TaskRef
from kling_async.errors import (
    AnswerLostError,
    BadRequestError,
    ClientClosedError,
    KlingError,
)
from kling_async.events import Event, Retrying, SubmitFailed, Submitted, TasksAbandoned
from kling_async.limits.local import LocalLimiter
from kling_async.testing import ScriptedTransport
from kling_async.testing.transport import answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from kling_async.tasks.fan_out import WorkItem
    from kling_async.testing import Emulator
    from kling_async.testing.transport import Request, Response
    from tests.conftest import Emulate

pytestmark = pytest.mark.virtual_time

Leftovers: TypeAlias = "Callable[[], set[str]]"

FOX = MasterTextToVideo("a fox in fresh snow")
POLLED = Polling(first=1.0, shortest=5.0, longest=5.0)


def now() -> float:
    """Give the loop's time."""
    return asyncio.get_running_loop().time()


def client(
    emulator: Emulator, *events: list[Event], limiter: LocalLimiter | None = None
) -> KlingClient:
    """Make a client that the test closes."""
    hooks = [one.append for one in events]
    return KlingClient(
        emulator.key, base_url=emulator.base_url, hooks=hooks, limiter=limiter, polling=POLLED
    )


def refs(emulator: Emulator) -> tuple[TaskRef, ...]:
    """Return the tasks that were started."""
    return tuple(TaskRef("kling-2-1", entry.task_id) for entry in emulator.ledger)


def closed_for_free(error: BaseException | None) -> None:
    """Check the error of a submit that was not sent."""
    assert isinstance(error, ClientClosedError)
    assert (error.may_have_charged, error.retryable, error.ref) == (False, True, None)


# --------------------------------------------------------------------------------- pending submits


@pytest.mark.parametrize(
    ("limits", "fault"),
    [
        (Limits(concurrent_tasks=1), "503:9999"),  # the second waits for a slot
        (Limits(requests_per_minute=1), "503:9999"),  # for a permit
        (Limits(), "503:50"),  # both wait for their next try
        (Limits(), "429"),
        (Limits(), "429:50"),
    ],
)
async def test_pending_submits(
    limits: Limits, fault: str, emulate: Emulate, leftovers: Leftovers
) -> None:
    """Submits that wait for a slot, a permit or their next try fail at once, for free."""
    emulator = await emulate(f"submit:*={fault}")
    limiter, events = LocalLimiter(limits), list[Event]()
    kling = client(emulator, events, limiter=limiter)
    submits = [asyncio.create_task(kling.submit(FOX)) for _ in range(2)]
    await asyncio.sleep(0.2)
    sent, begun = len(emulator.requests), now()
    await kling.close()
    assert now() - begun < 0.1
    assert all(submit.done() for submit in submits)
    for submit in submits:
        closed_for_free(submit.exception())
        assert not submit.cancelling()
    assert sum(isinstance(event, SubmitFailed) for event in events) == 2
    assert limiter.slots_in_use == 0
    assert not leftovers()
    await asyncio.sleep(1000)
    assert len(emulator.requests) == sent
    assert not emulator.ledger


async def test_cancelled_and_closed(emulate: Emulate) -> None:
    """A pending submit that its caller has cancelled as well is cancelled."""
    emulator = await emulate("submit:*=503:100")
    kling = client(emulator)
    submit = asyncio.create_task(kling.submit(FOX))
    await asyncio.sleep(1)
    closing = asyncio.create_task(kling.close())
    await asyncio.sleep(0)
    submit.cancel()
    await closing
    await asyncio.wait([submit])
    assert submit.cancelled()


async def test_closed_within_a_timeout(emulate: Emulate) -> None:
    """A pending submit within `asyncio.timeout` fails with our error, not with a TimeoutError."""
    kling = client(await emulate("submit:*=503:100"))

    async def submit() -> None:
        async with asyncio.timeout(60):
            await kling.submit(FOX)

    pending = asyncio.create_task(submit())
    await asyncio.sleep(1)
    await kling.close()
    await asyncio.wait([pending])
    closed_for_free(pending.exception())
    assert not pending.cancelling()


async def test_a_submit_that_begins_while_it_closes(emulate: Emulate) -> None:
    """A submit that begins while the client is being closed fails for free; a later one is sent."""
    emulator = await emulate("submit:1=slow:5")
    kling = client(emulator)
    first = asyncio.create_task(kling.submit(FOX))
    await asyncio.sleep(1)
    closing = asyncio.create_task(kling.close())
    await asyncio.sleep(1)
    with pytest.raises(ClientClosedError) as caught:
        await kling.submit(FOX)
    closed_for_free(caught.value)
    await closing
    await first
    assert len(emulator.ledger) == 1
    await kling.submit(FOX)
    await kling.close()


async def test_a_submit_that_begins_while_the_connections_are_closed() -> None:
    """It is not sent on what is being closed, and fails at no cost; afterwards it succeeds."""

    class Slow(ScriptedTransport):
        async def close(self) -> None:
            await asyncio.sleep(5)

    transport = Slow(lambda _: answer({"taskId": "task_1"}))
    kling = KlingClient("a-key", transport=transport)
    closings = [asyncio.create_task(kling.close()) for _ in range(2)]
    for seconds in (1, 3):
        await asyncio.sleep(seconds)
        with pytest.raises(ClientClosedError) as caught:
            await kling.submit(FOX)
        closed_for_free(caught.value)
    assert transport.requests == []
    await asyncio.wait(closings)
    assert (await kling.submit(FOX)).ref == TaskRef("kling-2-1", "task_1")


# ------------------------------------------------------------------------------- submits under way


async def test_submits_under_way(
    emulate: Emulate, caplog: pytest.LogCaptureFixture, leftovers: Leftovers
) -> None:
    """Submits that were sent are awaited, which is logged after half a second, and reported."""
    emulator = await emulate("submit:*=slow:5")
    events: list[Event] = []
    kling = client(emulator, events)
    submits = [asyncio.create_task(kling.submit(FOX)) for _ in range(3)]
    await asyncio.sleep(1)
    await kling.close()
    assert now() == pytest.approx(5, abs=0.2)
    got = [(await submit).ref for submit in submits]
    assert sorted(map(str, got)) == sorted(map(str, refs(emulator)))
    (event,) = [event for event in events if isinstance(event, TasksAbandoned)]
    assert set(event.refs) == set(got)
    first, second = (record.getMessage() for record in caplog.records)
    assert "waiting up to 30 s for the answers to submits under way: 3" in first
    assert all(str(ref) in second for ref in got)
    assert not leftovers()


async def test_no_word_about_quick_answers(
    emulate: Emulate, caplog: pytest.LogCaptureFixture
) -> None:
    """If the answers come within half a second, the wait for them is not logged."""
    emulator = await emulate("submit:*=slow:0.4")
    kling = client(emulator)
    submit = asyncio.create_task(kling.submit(FOX))
    await asyncio.sleep(0.1)
    await kling.close()
    assert (await submit).ref in refs(emulator)
    assert not any("waiting" in record.getMessage() for record in caplog.records)


async def test_callers_that_have_left(emulate: Emulate, leftovers: Leftovers) -> None:
    """Submits whose callers were cancelled are awaited, too, and each task reported once."""
    emulator = await emulate("submit:*=slow:5")
    events: list[Event] = []
    async with client(emulator, events) as kling:
        waiting = [asyncio.create_task(kling.submit(FOX)) for _ in range(3)]
        await asyncio.sleep(1)
        for task in waiting:
            task.cancel()
    reported = [event.refs for event in events if isinstance(event, TasksAbandoned)]
    assert set(reported) == {(ref,) for ref in refs(emulator)}
    assert len(reported) == 3
    assert len(kling.running) == 3
    assert not leftovers()


async def test_a_generation_under_way(emulate: Emulate) -> None:
    """A generate whose submit is under way raises an error with the reference."""
    emulator = await emulate("submit:*=slow:5")
    events: list[Event] = []
    kling = client(emulator, events)
    generation = asyncio.create_task(kling.generate(FOX))
    await asyncio.sleep(1)
    await kling.close()
    await asyncio.wait([generation])
    error = generation.exception()
    assert isinstance(error, ClientClosedError)
    (ref,) = refs(emulator)
    assert (error.ref, error.may_have_charged) == (ref, True)
    assert events == [Submitted(ref, FOX), TasksAbandoned((ref,))]


async def test_a_failure_that_is_not_repeated(emulate: Emulate) -> None:
    """A submit that is refused while the client is closed is not sent again."""

    async def script(_: Request) -> Response:
        await asyncio.sleep(5)
        return answer(None, status=503)

    events: list[Event] = []
    transport = ScriptedTransport(script)
    kling = KlingClient("a-key", transport=transport, hooks=[events.append])
    submit = asyncio.create_task(kling.submit(FOX))
    await asyncio.sleep(1)
    await kling.close()
    closed_for_free(submit.exception())
    assert [type(event) for event in events] == [Retrying, SubmitFailed]
    assert len(transport.requests) == 1


async def test_an_observer_that_closes_the_client() -> None:
    """An observer may close the client: its own submit is sent all the same."""

    class Closing:
        async def before_send(self) -> None:
            await kling.close()

        async def on_rejected(self, error: KlingError) -> None:
            raise AssertionError

        async def on_accepted(self, ref: TaskRef) -> None:
            assert ref.task_id == "task_1"

    kling = KlingClient(
        "a-key", transport=ScriptedTransport(lambda _: answer({"taskId": "task_1"}))
    )
    assert (await kling.submit(FOX, observer=Closing())).ref.task_id == "task_1"


@pytest.mark.parametrize("accepted", [True, False])
async def test_an_observer_of_the_answer_that_closes_the_client(
    accepted: bool,  # noqa: FBT001
    leftovers: Leftovers,
) -> None:
    """An observer may close the client when the answer has come: closing waits for the observer."""
    transport = ScriptedTransport(
        lambda _: answer({"taskId": "task_1"}) if accepted else answer(None, status=400)
    )
    kling = KlingClient("a-key", transport=transport)
    steps: list[str] = []

    class Closing:
        async def before_send(self) -> None:
            transport.close = self.note_close  # type: ignore[method-assign]

        async def on_rejected(self, error: KlingError) -> None:
            await self.close_and_record()

        async def on_accepted(self, ref: TaskRef) -> None:
            await self.close_and_record()

        async def close_and_record(self) -> None:
            await kling.close()
            await asyncio.sleep(1)
            steps.append("recorded")

        async def note_close(self) -> None:
            steps.append("closed")

    async with asyncio.timeout(100):
        with nullcontext() if accepted else pytest.raises(BadRequestError):
            assert (await kling.submit(FOX, observer=Closing())).ref.task_id == "task_1"
    await asyncio.sleep(1)
    assert steps == ["recorded", "closed"]
    assert not leftovers()


@pytest.mark.parametrize("where", ["inputs", "work"])
@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_fan_out_that_closes_the_client(
    where: str,
    cancelled: bool,  # noqa: FBT001
    leftovers: Leftovers,
) -> None:
    """The inputs and the work of a fan-out may close the client, also while they are cancelled."""
    kling = KlingClient("a-key", transport=ScriptedTransport(lambda _: answer({"taskId": "1"})))

    async def close(here: str) -> None:
        try:
            await asyncio.sleep(100 if cancelled else 10)
        finally:
            if here == where:
                await kling.close()

    async def inputs() -> AsyncIterator[MasterTextToVideo]:
        yield FOX
        await close("inputs")
        await asyncio.sleep(1000)

    async def work(item: WorkItem[MasterTextToVideo]) -> None:
        await close("work")
        await asyncio.sleep(1000)

    async def consume() -> None:
        async for _ in kling.run_many(work, inputs()):
            pass

    consumer = asyncio.create_task(consume())
    await asyncio.sleep(20)
    consumer.cancel()
    await asyncio.wait([consumer], timeout=100)
    assert now() == pytest.approx(20, abs=0.1)
    assert consumer.cancelled() or isinstance(consumer.exception(), ClientClosedError)
    await kling.close()
    assert not leftovers()


# ------------------------------------------------------------------------------------------ waiters


async def test_waiters(emulate: Emulate, leftovers: Leftovers) -> None:
    """All that wait for a task raise an error with its reference, and the task is reported once."""
    emulator = await emulate("task:*=stuck")
    events: list[Event] = []
    limiter = LocalLimiter()
    kling = client(emulator, events, limiter=limiter)
    task = await kling.submit(FOX)

    async def watch() -> None:
        async for _ in task.watch():
            pass

    waiters = [asyncio.create_task(one) for one in (task.wait(), task.wait(), watch())]
    await asyncio.sleep(10)
    await kling.close()
    await asyncio.wait(waiters)
    for waiter in waiters:
        error = waiter.exception()
        assert isinstance(error, ClientClosedError)
        assert (error.ref, error.may_have_charged) == (task.ref, True)
    assert now() < 10.1
    reported = [event for event in events if isinstance(event, TasksAbandoned)]
    assert reported == [TasksAbandoned((task.ref,))]
    assert kling.running == (task.ref,)
    assert limiter.slots_in_use == 1
    assert not leftovers()


async def test_what_runs_is_reported_once(
    emulate: Emulate, caplog: pytest.LogCaptureFixture
) -> None:
    """Tasks that run are reported in one event and one warning, however often it is closed."""
    emulator = await emulate("task:*=stuck")
    events: list[Event] = []
    kling = client(emulator, events)
    for _ in range(3):
        await kling.submit(FOX)
    for _ in range(2):
        await kling.close()
    reported = [event for event in events if isinstance(event, TasksAbandoned)]
    assert reported == [TasksAbandoned(refs(emulator))]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "3 tasks still run at the service" in record.getMessage()


async def test_an_exception_that_leaves_the_client(emulate: Emulate) -> None:
    """An exception that passes through `async with` has a note with what runs."""
    emulator = await emulate("task:*=stuck")

    async def fail() -> None:
        async with client(emulator) as kling:
            await kling.submit(FOX)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        await fail()
    (note,) = caught.value.__notes__
    assert str(refs(emulator)[0]) in note


async def test_a_close_of_ones_own(emulate: Emulate) -> None:
    """The end of `async with` calls `close`, which a subclass may extend."""
    emulator = await emulate()
    closed: list[str] = []

    class Mine(KlingClient):
        async def close(self) -> None:
            await super().close()
            closed.append("closed")

    async with Mine(emulator.key, base_url=emulator.base_url):
        pass
    assert closed == ["closed"]


async def test_used_again(emulate: Emulate) -> None:
    """A closed client can be used again: it waits for the task that it was closed on."""
    emulator = await emulate()
    kling = client(emulator)
    task = await kling.submit(FOX)
    waiter = asyncio.create_task(task.wait())
    await asyncio.sleep(10)
    await kling.close()
    with pytest.raises(ClientClosedError):
        await waiter
    assert (await task).ref == task.ref
    assert (await kling.generate(FOX)).ref != task.ref
    await kling.close()


async def test_reads_under_way(emulate: Emulate, leftovers: Leftovers) -> None:
    """A balance call that is interrupted raises an error of ours, and is not sent again."""
    emulator = await emulate("balance:*=hang")
    kling = client(emulator)
    reading = asyncio.create_task(kling.balance())
    await asyncio.sleep(1)
    await kling.close()
    await asyncio.wait([reading])
    error = reading.exception()
    assert isinstance(error, ClientClosedError)
    assert not error.may_have_charged
    assert len(emulator.requests) == 1
    assert not leftovers()


# ----------------------------------------------------------------------------- a close that is cut


@pytest.mark.parametrize("scoped", [True, False])
@pytest.mark.filterwarnings("error")
async def test_a_close_that_is_cancelled(
    scoped: bool,  # noqa: FBT001
    emulate: Emulate,
    leftovers: Leftovers,
) -> None:
    """If closing is cancelled, answers are read all the same, and then the session is closed."""
    emulator = await emulate("submit:*=slow:5")
    events: list[Event] = []
    kling = client(emulator, events)
    await kling.balance()
    submit = asyncio.create_task(kling.submit(FOX))
    await asyncio.sleep(1)
    if scoped:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await kling.close()
        assert scope.cancelled_caught
    else:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(kling.close(), 1)
    assert not submit.done()
    task = await submit
    assert refs(emulator) == (task.ref,)
    await asyncio.sleep(0.1)
    assert events == [Submitted(task.ref, FOX), TasksAbandoned((task.ref,))]
    assert not leftovers()
    del kling, task, submit
    gc.collect()  # a session that is open would be a warning


@pytest.mark.filterwarnings("error")
async def test_left_by_a_scope_of_anyio(emulate: Emulate, leftovers: Leftovers) -> None:
    """A client that is left by a cancelled scope reports its tasks, and closes its session."""
    emulator = await emulate("task:*=stuck", "submit:2=slow:5")
    events: list[Event] = []
    with anyio.move_on_after(10):
        async with client(emulator, events) as kling, asyncio.TaskGroup() as group:
            group.create_task(kling.generate(FOX))
            await asyncio.sleep(8)
            group.create_task(kling.generate(FOX))
    await asyncio.sleep(10)
    first, second = refs(emulator)
    reported = [event for event in events if isinstance(event, TasksAbandoned)]
    assert reported == [TasksAbandoned((first,)), TasksAbandoned((second,))]
    assert not leftovers()
    del kling, group
    gc.collect()


async def test_cancelled_in_the_clean_up(emulate: Emulate) -> None:
    """The exception that replaces the first one names what was reported, too."""
    emulator = await emulate("task:1=stuck", "submit:2=hang")
    kling = client(emulator)

    async def main() -> None:
        async with kling:
            await kling.submit(FOX)
            hanging.append(asyncio.create_task(kling.submit(FOX)))
            await asyncio.sleep(1)
            raise ZeroDivisionError

    hanging: list[asyncio.Task[object]] = []
    caller = asyncio.create_task(main())
    await asyncio.sleep(5)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await caller
    (ref,) = refs(emulator)
    assert any(str(ref) in note for note in caught.value.__notes__)
    with pytest.raises(AnswerLostError):
        await hanging[0]


async def test_a_transport_that_cannot_be_closed() -> None:
    """What closing the transport raises is raised."""

    class Broken(ScriptedTransport):
        async def close(self) -> None:
            raise ZeroDivisionError

    kling = KlingClient("a-key", transport=Broken(lambda _: answer(1.5)), retry=Retry())
    with pytest.raises(ZeroDivisionError):
        await kling.close()
