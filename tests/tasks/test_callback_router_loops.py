from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from kling_async.errors import (
    TaskTimeoutError,
)
from kling_async.testing import VirtualLoop
from kling_async.webhooks.inbox import Counts
from tests.tasks.callbacks import FOX, MODEL, Service, now, waiting

pytestmark = pytest.mark.virtual_time


# -------------------------------------------------------------------------------- threads and loops


@pytest.mark.parametrize("waits", [True, False])
async def test_another_thread(waits: bool) -> None:  # noqa: FBT001
    """A callback that is given to the inbox on another thread wakes, too."""
    service = Service()
    async with service.client() as kling:
        task = await kling.submit(FOX)
        wait = await waiting(task.wait() if waits else asyncio.sleep(0))
        service.states["task_1"] = "success"
        assert await asyncio.to_thread(service.call) == 200
        await asyncio.sleep(0.1)
        assert wait.done()
        assert not kling.running
    assert service.asked == {"task_1": 1}
    assert service.inbox.counts == Counts(delivered=1)


def test_a_server_with_a_loop_of_its_own() -> None:
    """The loop of a server in another thread is not the one on which tasks are waited for."""
    service = Service()
    service.states["task_1"] = "processing"
    service.bodies.append({"callback_url": service.inbox.callback_url(MODEL, "n" * 16)})

    def serve() -> None:
        async def deliver() -> None:
            assert service.call() == 200

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(deliver())

    async def main() -> None:
        async with service.client() as kling:  # which submits nothing
            wait = await waiting(kling.attach(f"{MODEL}/task_1").wait())
            service.states["task_1"] = "success"
            await asyncio.to_thread(serve)
            await asyncio.sleep(0.1)
            assert wait.done()

    serve()  # before anything else
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
    serve()  # after it
    assert service.inbox.counts == Counts(delivered=1, repeated=1, unknown=1)


def test_no_loop_at_all() -> None:
    """A callback that comes while nothing runs is taken and counted, and wakes no waiter."""
    service = Service()
    kling = service.client()
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        task = runner.run(kling.submit(FOX))
    assert service.call() == 200
    assert service.inbox.counts == Counts(unknown=1)
    assert kling.running == (task.ref,)


def test_a_loop_that_is_closed_in_that_moment() -> None:
    """A loop that ends while a thread has a callback for it is no trouble for that thread."""

    class Ending(VirtualLoop):
        ending = False

        def is_closed(self) -> bool:
            closed = super().is_closed()
            if self.ending and not closed:
                self.ending = False
                self.close()
            return closed

    service = Service()
    kling = service.client()
    loop = Ending()
    loop.run_until_complete(kling.submit(FOX))
    loop.ending = True
    assert service.call() == 200
    assert loop.is_closed()
    assert service.inbox.counts == Counts(unknown=1)


@pytest.mark.parametrize("thread", [True, False])
def test_a_second_run(thread: bool) -> None:  # noqa: FBT001
    """In the next event loop a callback wakes who waits there for a task of the last one."""
    service = Service()
    kling = service.client()

    async def first() -> None:
        await kling.submit(FOX)
        wait = await waiting(kling.attach(kling.running[0]).wait())
        wait.cancel()

    async def second() -> None:
        wait = await waiting(kling.attach(kling.running[0]).wait())
        service.states["task_1"] = "success"
        before = now()
        if thread:
            await asyncio.to_thread(service.call)
        else:
            service.call()
        await wait
        assert now() - before < 0.1
        await kling.close()

    for main in (first, second):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(main())
    assert service.asked == {"task_1": 1}
    assert not kling.running


def test_between_two_runs() -> None:
    """What comes between two runs of one loop is handled in the second."""
    service = Service()
    kling = service.client()

    async def resume() -> None:
        await asyncio.sleep(1)
        assert not kling.running
        await kling.close()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(kling.submit(FOX))
        thread = threading.Thread(target=service.end)
        thread.start()
        thread.join()
        runner.run(resume())
    assert service.asked == {"task_1": 1}


# ---------------------------------------------------------------------------------- several clients


async def test_two_clients() -> None:
    """Of two clients on one inbox each is woken for its own tasks only."""
    service = Service()
    async with service.client() as one, service.client() as other:
        first = await waiting((await one.submit(FOX)).wait())
        second = await waiting((await other.submit(FOX)).wait())
        service.end(2)
        await asyncio.sleep(0.1)
        assert (first.done(), second.done()) == (False, True)
        service.end(1)
        await first
    assert service.asked == {"task_1": 1, "task_2": 1}
    assert service.inbox.counts == Counts(delivered=2)


async def test_two_clients_and_one_task() -> None:
    """A task that both wait for is confirmed by each of them."""
    service = Service()
    async with service.client() as one, service.client() as other:
        task = await one.submit(FOX)
        wait = await waiting(task.wait())
        twin = await waiting(other.attach(task.ref).wait())
        service.end()
        await asyncio.sleep(0.1)
        assert wait.done()
        assert twin.done()
    assert service.inbox.counts == Counts(delivered=1)


async def test_a_client_that_was_dropped() -> None:
    """An inbox keeps no client alive, and calls none that is gone."""
    service = Service()
    kling = service.client()
    await kling.submit(FOX)
    await kling.close()
    await asyncio.sleep(2)  # a timer of the submit's is over
    del kling
    gc.collect()
    assert service.end() == 200
    await asyncio.sleep(1)
    assert not service.asked
    assert service.inbox.counts == Counts(unknown=1)


async def test_the_deadline_stands() -> None:
    """Where neither a callback nor a poll shows an end, the deadline does."""
    service = Service()
    async with service.client() as kling:
        task = await kling.submit(FOX)
        with pytest.raises(TaskTimeoutError):
            await task.wait(timeout=500)
    assert service.moments == pytest.approx([99, 159, 219, 279, 339, 399, 459], abs=0.5)
