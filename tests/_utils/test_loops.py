"""One client on several event loops: one after another, and never two at a time."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from kling_async import KlingClient, MasterTextToVideo, Task, TaskRef
from kling_async._utils.loops import LoopResources, PerLoop
from kling_async.errors import ConfigurationError
from kling_async.testing import ScriptedTransport, VirtualLoop
from kling_async.testing.transport import answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from kling_async.testing.transport import Request, Response

FOX = MasterTextToVideo("a fox")
REF = TaskRef("kling-2-1", "task_1")
URLS = {"resultUrls": ["https://example.com/a.mp4"]}


async def script(request: Request) -> Response:
    """Accept each submit; a task has ended when it is polled."""
    await asyncio.sleep(0)
    if request.kind == "submit":
        return answer({"taskId": "task_1"})
    if request.kind == "balance":
        return answer(1.5)
    return answer({"taskId": "task_1", "state": "success", "resultJson": URLS})


@pytest.fixture
def elsewhere() -> Iterator[asyncio.AbstractEventLoop]:
    """Run an event loop in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def run_there(loop: asyncio.AbstractEventLoop, main: Callable[[], Awaitable[object]]) -> object:
    """Run a coroutine on the loop of the other thread."""

    async def run() -> object:
        return await main()

    return asyncio.run_coroutine_threadsafe(run(), loop).result(30)


async def test_discarding() -> None:
    """After `discard` the next use creates another state, though the loop is the same."""
    per_loop = PerLoop("thing", lambda _: object())
    first = per_loop.get()
    assert per_loop.get() is first
    per_loop.discard()
    assert per_loop.get() is not first


def test_check() -> None:
    """A second loop may follow the first, and the first may come back, but not while one runs."""
    per_loop = PerLoop("thing", lambda loop: [loop])

    async def check() -> None:
        state = per_loop.get()
        assert state == [asyncio.get_running_loop()]
        assert per_loop.get() is state
        assert per_loop.loop is asyncio.get_running_loop()

    async def check_beside() -> None:
        state = per_loop.get()
        with pytest.raises(ConfigurationError, match="this thing is in use on another event loop"):
            await asyncio.to_thread(asyncio.run, check())
        assert per_loop.get() is state

    assert per_loop.loop is None

    for _ in range(2):
        asyncio.run(check())
        asyncio.run(check_beside())
    with asyncio.Runner() as one, asyncio.Runner() as two:
        for _ in range(2):
            one.run(check())
            two.run(check())
    assert per_loop.loop is None


USES: dict[str, Callable[[KlingClient], Callable[[], Awaitable[object]]]] = {
    "submit": lambda kling: lambda: kling.submit(FOX),
    "generate": lambda kling: lambda: kling.generate(FOX),
    "balance": lambda kling: kling.balance,
    "status": lambda kling: lambda: kling.status(REF),
    "close": lambda kling: kling.close,
}


@pytest.mark.parametrize("use", USES)
def test_two_loops_that_run(use: str, elsewhere: asyncio.AbstractEventLoop) -> None:
    """What is asked of a client on a second running loop is an error at once, and not sent."""
    transport = ScriptedTransport(script)
    kling = KlingClient("a-key", transport=transport)
    run_there(elsewhere, kling.balance)

    async def main() -> None:
        with pytest.raises(ConfigurationError, match="another event loop"):
            await USES[use](kling)()

    asyncio.run(main())
    assert len(transport.requests) == 1
    assert run_there(elsewhere, kling.balance) == 1.5


def test_a_task_on_two_loops_that_run(elsewhere: asyncio.AbstractEventLoop) -> None:
    """Waiting for a task, or watching it, on a second running loop is an error at once."""
    kling = KlingClient("a-key", transport=ScriptedTransport(script))
    task = run_there(elsewhere, lambda: kling.submit(FOX))
    assert isinstance(task, Task)

    async def main() -> None:
        with pytest.raises(ConfigurationError, match="another event loop"):
            await task.wait()
        with pytest.raises(ConfigurationError, match="another event loop"):
            await anext(task.watch())

    asyncio.run(main())


def test_loops_one_after_another() -> None:
    """Several runs may use a client, and a task of an earlier one."""
    kling = KlingClient("a-key", transport=ScriptedTransport(script))

    async def submit() -> Task:
        return await kling.submit(FOX)

    async def main() -> None:
        assert await kling.balance() == 1.5
        assert (await task.wait()).ref == REF
        assert (await kling.generate(FOX)).ref == REF

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        task = runner.run(submit())
    for _ in range(2):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(main())


class Resource:
    """Something that has to be closed."""

    def __init__(self) -> None:
        self.closed = False

    async def close(self) -> None:
        self.closed = True


def test_a_resource_is_closed_with_its_loop() -> None:
    """When `asyncio.run` shuts down a loop, its resource is closed."""
    resources = LoopResources(Resource.close)

    async def use() -> Resource:
        loop = asyncio.get_running_loop()
        assert loop not in resources
        added = await resources.add(Resource())
        assert resources[loop] is added
        assert not added.closed
        return added

    assert asyncio.run(use()).closed
    assert asyncio.run(use()).closed
    assert not resources


def test_closing_resources() -> None:
    """Closing concerns the running loop and loops that were not shut down; others are kept."""
    resources = LoopResources(Resource.close)
    ended, other = asyncio.new_event_loop(), asyncio.new_event_loop()
    of_ended = ended.run_until_complete(resources.add(Resource()))
    of_other = other.run_until_complete(resources.add(Resource()))
    ended.close()

    async def close() -> Resource:
        added = await resources.add(Resource())
        assert of_ended.closed
        await resources.close()
        await resources.close()
        return added

    assert asyncio.run(close()).closed
    assert not of_other.closed
    assert list(resources) == [other]
    other.run_until_complete(other.shutdown_asyncgens())
    other.close()
    assert of_other.closed
