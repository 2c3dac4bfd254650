from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from kling_async import KlingClient, Limits, Retry, TaskRef
from kling_async.errors import (
    AnswerLostError,
    KlingError,
    RateLimitError,
    ServerError,
    TaskFailedError,
    TaskTimeoutError,
)
from kling_async.events import (
    Event,
    Paused,
    Retrying,
    SubmitFailed,
    Submitted,
    TaskLimitChanged,
    TasksAbandoned,
)
from kling_async.limits.local import LocalLimiter
from kling_async.testing import ScriptedTransport, VirtualLoop
from kling_async.testing.transport import Request, Response, answer
from tests.clients import FOX, KEY, now, posts, settle

if TYPE_CHECKING:
    from kling_async.testing.transport import Request, Response
    from tests.conftest import Connect, Emulate, ServeApp


pytestmark = pytest.mark.virtual_time


# ----------------------------------------------------------------------------------------- limits


async def test_the_client_keeps_the_limits(emulate: Emulate, connect: Connect) -> None:
    """On a small plan a crowd of generations is served without a single refusal."""
    emulator = await emulate(requests_per_minute=30, concurrent_tasks=3)
    kling = await connect(emulator, limits=Limits(requests_per_minute=30, concurrent_tasks=3))
    async with asyncio.TaskGroup() as group:
        for _ in range(9):
            group.create_task(kling.generate(FOX))
    assert len(emulator.ledger) == 9
    assert {arrival.status for arrival in emulator.requests} == {200}
    assert kling.running == ()


async def test_a_refusal_with_retry_after_pauses_all(emulate: Emulate, connect: Connect) -> None:
    """A storm of refusals of submits is one pause; then they are sent, each at most once more."""
    emulator = await emulate("submit:1-10=429:30")
    events: list[Event] = []
    kling = await connect(emulator, hooks=[events.append])
    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(kling.submit(FOX))
        await asyncio.sleep(1)
        assert await kling.balance() == 1000
        assert now() >= 30
    paused = [event.delay for event in events if isinstance(event, Paused)]
    assert len(paused) == 1
    assert paused[0] >= 30
    assert min([arrival.at for arrival in emulator.requests][10:]) >= 30
    assert posts(emulator) == 20
    assert len(emulator.ledger) == 10


async def test_a_refusal_pauses_even_who_gives_up(emulate: Emulate, connect: Connect) -> None:
    """A request that is not repeated still makes the others wait for as long as was asked."""
    emulator = await emulate("submit:1=429:20")
    kling = await connect(emulator, retry=Retry(attempts=1))
    with pytest.raises(RateLimitError):
        await kling.submit(FOX)
    await kling.balance()
    assert 20 <= now() < 21


async def test_a_refused_submit_does_not_hold_up_polls(emulate: Emulate, connect: Connect) -> None:
    """A 429 of a submit without a Retry-After may concern the running tasks: polls continue."""
    events: list[Event] = []
    emulator = await emulate("submit:2-8=429")
    kling = await connect(emulator, hooks=[events.append], retry=Retry(base=50.0))
    first = await kling.submit(FOX)
    waiting = asyncio.create_task(kling.submit(FOX))
    for _ in range(10):
        await asyncio.sleep(1)
        before = now()
        await kling.status(first.ref)
        assert now() - before < 0.1
    await waiting
    assert not any(isinstance(event, Paused) for event in events)


async def test_a_status_call_that_is_refused_pauses_all(emulate: Emulate, connect: Connect) -> None:
    """A 429 of a status call without a Retry-After pauses all for a random while."""
    events: list[Event] = []
    kling = await connect(
        await emulate("status:1=429"), retry=Retry(attempts=1, base=50.0), hooks=[events.append]
    )
    task = await kling.submit(FOX)
    with pytest.raises(RateLimitError):
        await task.status()
    (delay,) = [event.delay for event in events if isinstance(event, Paused)]
    assert 0 <= delay <= 50
    await kling.balance()
    assert now() >= delay


@pytest.mark.slow
async def test_tasks_of_another_program(emulate: Emulate, connect: Connect) -> None:
    """Where another program's tasks take most of the account, all submits succeed in the end."""
    emulator = await emulate(concurrent_tasks=10, duration=(100.0, 100.0))
    other = await connect(emulator)
    for _ in range(8):
        await other.submit(FOX)
    events: list[Event] = []
    limits = Limits(concurrent_tasks=10)
    kling = await connect(emulator, limits=limits, hooks=[events.append], retry=Retry(attempts=3))
    async with asyncio.TaskGroup() as group:
        done = [group.create_task(kling.generate(FOX, timeout=5000)) for _ in range(40)]
    assert len({one.result().ref for one in done}) == 40
    assert len(emulator.ledger) == 48
    changes = [event for event in events if isinstance(event, TaskLimitChanged)]
    assert changes[0] == TaskLimitChanged(changes[0].tasks, 10)
    assert changes[0].tasks <= 2
    assert changes[-1].tasks > changes[0].tasks
    assert not any(isinstance(event, SubmitFailed) for event in events)


async def test_a_slot_is_free_when_the_end_is_known(emulate: Emulate, connect: Connect) -> None:
    """The next submit waits until the first task is seen to have ended, though no caller polls."""
    emulator = await emulate("task:1=fail:NSFW")
    kling = await connect(emulator, limits=Limits(concurrent_tasks=1))
    first = await kling.submit(FOX)
    task = await kling.submit(FOX)
    assert now() == pytest.approx(60, abs=5)
    assert kling.running == (task.ref,)
    with pytest.raises(TaskFailedError):
        await first


async def test_a_found_task_takes_a_slot(emulate: Emulate, connect: Connect) -> None:
    """An attached task that runs takes a slot until its end; one that is only asked about, none."""
    emulator = await emulate()
    ref = (await (await connect(emulator)).submit(FOX)).ref
    limiter = LocalLimiter(Limits(concurrent_tasks=1))
    kling = await connect(emulator, limiter=limiter)
    await kling.status(ref)
    assert limiter.slots_in_use == 0
    task = kling.attach(ref)
    for _ in range(2):
        await kling.status(ref)
        assert limiter.slots_in_use == 1
        assert kling.running == (ref,)
    assert "tasks running: 1" in repr(kling)
    await task
    assert limiter.slots_in_use == 0
    await kling.status(ref)
    assert limiter.slots_in_use == 0


async def test_an_answer_that_comes_after_the_end() -> None:
    """A task that has ended takes no slot, though an older answer says that it runs."""
    answers = iter([(20.0, "processing"), (10.0, "success")])

    async def say(_: Request) -> Response:
        delay, state = next(answers)
        await asyncio.sleep(delay)
        return answer({"state": state, "resultJson": {"resultUrls": ["https://x.example/a.mp4"]}})

    limiter = LocalLimiter()
    async with KlingClient(KEY, transport=ScriptedTransport(say), limiter=limiter) as kling:
        ref = TaskRef("kling-2-1", "task_1")
        task = kling.attach(ref)
        said = await asyncio.gather(kling.status(ref), kling.status(ref))
        assert [one.state.value for one in said] == ["processing", "success"]
        assert limiter.slots_in_use == len(kling.running) == 0
        assert task.ref == ref


async def test_giving_up_does_not_free_the_slot(emulate: Emulate, connect: Connect) -> None:
    """Neither a timeout nor a cancelled waiter gives the slot of a running task back."""
    emulator = await emulate("task:*=stuck")
    limiter = LocalLimiter()
    kling = await connect(emulator, limiter=limiter)
    with pytest.raises(TaskTimeoutError):
        await kling.generate(FOX, timeout=100)
    waiting = asyncio.create_task(kling.generate(FOX))
    await asyncio.sleep(100)
    waiting.cancel()
    await settle()
    assert waiting.cancelled()
    assert limiter.slots_in_use == 2
    assert len(kling.running) == 2


async def test_as_many_under_way_as_the_limits_say() -> None:
    """No more requests are under way at one time than a hundredth of a minute's."""
    under_way = most = 0

    async def script(_: Request) -> Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(100)
        under_way -= 1
        return answer(1.0)

    limits = Limits(requests_per_minute=1000)
    kling = KlingClient(KEY, limits=limits, transport=ScriptedTransport(script))
    async with asyncio.TaskGroup() as group:
        for _ in range(40):
            group.create_task(kling.balance())
    assert most == limits.connections == 10


# ----------------------------------------------------------------------------------- cancellation


async def test_cancelled_while_waiting_for_a_slot(emulate: Emulate, connect: Connect) -> None:
    """Who is cancelled while waiting for a slot has sent nothing and holds nothing."""
    emulator = await emulate("task:1=stuck")
    limiter = LocalLimiter(Limits(concurrent_tasks=1))
    kling = await connect(emulator, limiter=limiter)
    await kling.submit(FOX)
    waiting = asyncio.create_task(kling.submit(FOX))
    await asyncio.sleep(10)
    waiting.cancel()
    await settle()
    assert waiting.cancelled()
    assert limiter.slots_in_use == 1
    assert posts(emulator) == 1


async def test_cancelled_while_waiting_for_a_permit(emulate: Emulate, connect: Connect) -> None:
    """Who is cancelled while waiting for a permit has sent nothing, and the slot is free."""
    emulator = await emulate()
    limiter = LocalLimiter(Limits(requests_per_minute=1))
    kling = await connect(emulator, limiter=limiter)
    await kling.balance()
    waiting = asyncio.create_task(kling.submit(FOX))
    await asyncio.sleep(10)
    assert limiter.slots_in_use == 1
    waiting.cancel()
    await settle()
    assert waiting.cancelled()
    assert limiter.slots_in_use == 0
    assert posts(emulator) == 0


async def test_cancelled_while_the_service_answers(emulate: Emulate, connect: Connect) -> None:
    """The answer to a submit is read though its caller has left, and the task is reported."""
    emulator = await emulate("submit:1=slow:5")
    events: list[Event] = []
    limiter = LocalLimiter()
    kling = await connect(emulator, hooks=[events.append], limiter=limiter)
    waiting = asyncio.create_task(kling.submit(FOX))
    await asyncio.sleep(2)
    waiting.cancel()
    await settle()
    assert waiting.cancelled()
    assert not events
    await asyncio.sleep(5)
    ref = TaskRef("kling-2-1", emulator.ledger[0].task_id)
    assert events == [Submitted(ref, FOX), TasksAbandoned((ref,))]
    assert kling.running == (ref,)
    assert limiter.slots_in_use == 1
    await kling.attach(ref)
    assert limiter.slots_in_use == 0
    assert posts(emulator) == 1


@pytest.mark.parametrize(
    ("fault", "kind", "slots"),
    [("hang", AnswerLostError, 1), ("503", ServerError, 0), ("500", ServerError, 1)],
)
async def test_cancelled_before_it_fails(
    fault: str, kind: type[KlingError], slots: int, emulate: Emulate, serve_app: ServeApp
) -> None:
    """A submit that fails after its caller has left is reported to hooks and not repeated."""

    async def late(_: web.Request) -> web.Response:
        await asyncio.sleep(10)
        if fault == "hang":
            await asyncio.sleep(1000)
        return web.json_response({"code": int(fault)}, status=int(fault))

    events: list[Event] = []
    limiter = LocalLimiter()
    url = await serve_app(late)
    async with KlingClient(KEY, base_url=url, hooks=[events.append], limiter=limiter) as kling:
        waiting = asyncio.create_task(kling.submit(FOX))
        await asyncio.sleep(2)
        waiting.cancel()
        await asyncio.sleep(100)
        (event,) = events
        assert isinstance(event, SubmitFailed)
        assert type(event.error) is kind
        assert limiter.slots_in_use == slots
        assert kling.running == ()


async def test_cancelled_between_two_tries(emulate: Emulate, connect: Connect) -> None:
    """Who is cancelled before a repetition has started nothing, and the slot is free."""
    emulator = await emulate("submit:1=503:30")
    limiter = LocalLimiter()
    events: list[Event] = []
    kling = await connect(emulator, limiter=limiter, hooks=[events.append])
    waiting = asyncio.create_task(kling.submit(FOX))
    await asyncio.sleep(10)
    assert limiter.slots_in_use == 1
    waiting.cancel()
    await asyncio.sleep(100)
    assert waiting.cancelled()
    assert limiter.slots_in_use == 0
    assert posts(emulator) == 1
    assert [type(event) for event in events] == [Retrying]


def test_a_loop_that_ends_before_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    """If the loop ends first, hooks and the log report that a task may have been charged."""
    events: list[Event] = []
    limiter = LocalLimiter()

    async def script(_: Request) -> Response:
        await asyncio.sleep(1000)
        return answer({})

    kling = KlingClient(
        KEY, transport=ScriptedTransport(script), hooks=[events.append], limiter=limiter
    )

    async def main() -> None:
        task = asyncio.create_task(kling.submit(FOX))
        await asyncio.sleep(1)
        assert not task.done()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
    (event,) = events
    assert isinstance(event, SubmitFailed)
    assert isinstance(event.error, AnswerLostError)
    assert event.error.may_have_charged
    assert limiter.slots_in_use == 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "a task may have been started and charged" in record.getMessage()
    assert record.getMessage().endswith(": an input of kling-2-1, master-text-to-video")


async def test_an_error_that_is_not_ours() -> None:
    """What a transport of the user's raises comes through, and the slot stays taken."""
    limiter = LocalLimiter()

    def script(_: Request) -> Response:
        raise ZeroDivisionError

    kling = KlingClient(KEY, transport=ScriptedTransport(script), limiter=limiter)
    with pytest.raises(ZeroDivisionError):
        await kling.submit(FOX)
    assert limiter.slots_in_use == 1
