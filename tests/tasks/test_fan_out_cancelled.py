from __future__ import annotations

import asyncio
import gc
import sys
from contextlib import AsyncExitStack, aclosing, closing
from typing import TYPE_CHECKING

import aiohttp
import anyio
import pytest

from kling_async import KlingClient, Outcome
from kling_async.errors import (
    KlingError,
)
from kling_async.events import Event, TasksAbandoned
from kling_async.tasks.abandoned import describe
from kling_async.testing import ScriptedTransport, VirtualLoop
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
)

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        Iterator,
    )

    from kling_async.inputs.base import Input
    from kling_async.tasks.fan_out import WorkItem
    from tests.conftest import Connect, Emulate


pytestmark = pytest.mark.virtual_time


# ------------------------------------------------------------------------------- cancelled for good


async def cancel_until_done(task: asyncio.Task[None]) -> None:
    """Cancel a task in every turn of the loop until it ends, as an anyio scope does."""
    turns = 0
    while not task.done():
        task.cancel()
        turns += 1
        await asyncio.sleep(0)
    assert turns < 20  # it waits for nothing, and so does not spin


async def test_cancelled_until_it_ends(
    emulate: Emulate, connect: Connect, leftovers: Leftovers, caplog: pytest.LogCaptureFixture
) -> None:
    """What is known is reported at once, what is answered later follows, each task once."""
    emulator = await emulate("submit:6-=slow:5", duration=by_number(60, rest=600))
    events: list[Event] = []
    kling = await connect(emulator, hooks=[events.append])
    watched = Watched()

    async def main() -> None:
        async for _ in kling.generate_many(watched.tidying(), in_flight=10):
            raise AssertionError

    waiting = asyncio.create_task(main())
    await asyncio.sleep(2)
    known = kling.running
    assert len(known) == 5
    await cancel_until_done(waiting)
    (first,) = [event for event in events if isinstance(event, TasksAbandoned)]
    assert set(first.refs) == set(known)
    with pytest.raises(asyncio.CancelledError) as caught:
        waiting.result()
    assert caught.value.__notes__ == [describe(first.refs)]
    await asyncio.sleep(20)
    assert len(kling.running) == 10
    assert watched.closed == [None]
    await left_alone(emulator, events, leftovers, caplog)


def open_sessions() -> set[int]:
    """Name the sessions that are not closed."""
    objects = gc.get_objects()
    return {id(one) for one in objects if isinstance(one, aiohttp.ClientSession) if not one.closed}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("closing", [False, True])
async def test_an_anyio_scope(
    inside: bool,  # noqa: FBT001
    closing: bool,  # noqa: FBT001
    emulate: Emulate,
    leftovers: Leftovers,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A scope that cancels client and loop together leaves nothing open, and nothing unreported."""
    emulator = await emulate("submit:6-=slow:5", duration=by_number(*[1] * 5, rest=600))
    events: list[Event] = []
    reported = []
    before = open_sessions()  # the emulator's
    with anyio.move_on_after(62) as scope:
        async with (
            KlingClient(emulator.key, base_url=emulator.base_url, hooks=[events.append]) as kling,
            AsyncExitStack() as stack,
        ):
            many = kling.generate_many(foxes(), in_flight=10)
            if closing:
                await stack.enter_async_context(aclosing(many))
            async for outcome in many:
                reported.append(outcome.task_ref)
                if inside:
                    await asyncio.sleep(1000)
    assert scope.cancelled_caught
    del many  # as when a function has ended
    await asyncio.sleep(20)
    assert open_sessions() <= before
    await left_alone(emulator, events, leftovers, caplog, reported)


async def test_the_client_is_closed(
    emulate: Emulate, connect: Connect, leftovers: Leftovers, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that is closed ends its fan-outs; their loops get what has ended, then an error."""
    emulator = await emulate(duration=by_number(60, 70, rest=600))
    events: list[Event] = []
    before = open_sessions()
    kling = await connect(emulator, hooks=[events.append])
    watched = Watched()
    many = kling.generate_many(watched.tidying(), in_flight=10)
    ended = [await anext(many)]
    await asyncio.sleep(100)
    await kling.close()
    assert watched.closed == [None]  # which has taken a while
    assert open_sessions() <= before
    ended.append(await anext(many))
    with pytest.raises(KlingError, match="the client was closed") as caught:
        await anext(many)
    assert [one.index for one in ended] == [0, 1]
    notes = "".join(caught.value.__notes__)
    assert all(str(ref) in notes for ref in kling.running)
    await left_alone(emulator, events, leftovers, caplog, [one.task_ref for one in ended])


async def test_the_client_is_closed_when_all_has_ended(emulate: Emulate, connect: Connect) -> None:
    """Where nothing is under way, closing the client takes nothing from a loop."""
    kling = await connect(await emulate())
    many = kling.generate_many(foxes(3))
    await anext(many)
    await asyncio.sleep(100)
    await kling.close()
    assert len([one async for one in many]) == 2


def test_a_fan_out_of_an_earlier_loop() -> None:
    """What an event loop has left behind does not keep a later one from closing the client."""
    kling = KlingClient(KEY, transport=ScriptedTransport(Service()))

    async def leave() -> AsyncGenerator[Outcome]:
        many = kling.generate_many(foxes(), in_flight=3)
        await anext(many)
        return many

    with closing(VirtualLoop()) as loop:
        many = loop.run_until_complete(leave())
        asyncio.run(kling.close())
        loop.run_until_complete(many.aclose())


@pytest.mark.parametrize("exits_in", ["items", "work"])
def test_an_exit(exits_in: str, caplog: pytest.LogCaptureFixture) -> None:
    """An exit in the items or in the work ends the program, and is not logged as unretrieved."""
    kling = KlingClient(KEY, transport=ScriptedTransport(Service()))

    def items() -> Iterator[int]:
        yield 0
        if exits_in == "items":
            sys.exit(4)

    async def work(_: WorkItem[int]) -> Outcome | None:
        if exits_in == "work":
            sys.exit(4)
        await asyncio.Event().wait()
        return None

    async def main() -> None:
        async for _ in kling.run_many(work, items()):
            raise AssertionError

    with pytest.raises(SystemExit), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
    gc.collect()
    assert not caplog.messages


# ----------------------------------------------------------------------------------- eager tasks

EAGER = getattr(asyncio, "eager_task_factory", None)


@pytest.fixture
async def eager() -> None:
    """Start tasks at once, within ``create_task``, as applications may have it."""
    if EAGER is None:
        pytest.skip("eager tasks are of Python 3.12")
    asyncio.get_running_loop().set_task_factory(EAGER)


@pytest.mark.usefixtures("eager")
async def test_eager_tasks(emulate: Emulate, connect: Connect, leftovers: Leftovers) -> None:
    """With eager tasks, items that end before their task is known are yielded like all others."""
    kling = await connect(await emulate())
    wrong: list[Input] = ["no input"] * 20  # type: ignore[list-item]
    many = kling.generate_many([*wrong, *foxes(2), *wrong], in_flight=2)
    outcomes = [one async for one in many]
    assert sorted(one.index for one in outcomes) == list(range(42))
    assert sum(one.result is not None for one in outcomes) == 2
    assert [one async for one in kling.generate_many([])] == []
    async with aclosing(kling.generate_many(foxes(), in_flight=5)) as many:
        await anext(many)
    assert not leftovers()


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("before", [0, 1, 4])
async def test_eager_tasks_that_fail(before: int, leftovers: Leftovers) -> None:
    """Work that fails within ``create_task`` ends everything, and nothing more is started."""
    kling = KlingClient(KEY, transport=ScriptedTransport(lambda _: answer(1)))
    begun: list[int] = []

    async def work(work_item: WorkItem[int]) -> Outcome | None:
        begun.append(work_item.index)
        work_item.submitted()
        if work_item.index == before:
            raise BrokenError
        await asyncio.Event().wait()
        return None

    for in_flight in (before + 1, before + 5):
        begun.clear()
        with pytest.raises(BrokenError):
            await anext(kling.run_many(work, range(10), in_flight=in_flight))
        assert begun == list(range(before + 1))
    with pytest.raises(BrokenError):
        await anext(kling.generate_many(breaking(0)))
    assert not leftovers()
