from __future__ import annotations

import asyncio
import threading
import time

import anyio
import pytest

from kling_async._utils.threads import in_thread, to_its_end


class Slow:
    """Work that has begun and ends when it is allowed to."""

    def __init__(self) -> None:
        self.begun, self.go_on = asyncio.Event(), threading.Event()
        self.ended: list[bool] = []
        self._loop = asyncio.get_running_loop()

    def work(self) -> None:
        self._loop.call_soon_threadsafe(self.begun.set)
        self.go_on.wait()
        self.ended.append(True)
        raise OSError("nobody sees it")


async def test_a_thread_is_waited_for() -> None:
    """A cancellation, even a second one, is raised when the thread has ended."""
    slow = Slow()
    task = asyncio.create_task(in_thread(slow.work))
    await slow.begun.wait()
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
    slow.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert slow.ended == [True]


async def test_an_anyio_scope_does_not_spin() -> None:
    """In a cancelled scope of anyio the wait costs next to no CPU time, and lasts to the end."""
    slow = Slow()
    loop = asyncio.get_running_loop()
    before = time.process_time()
    with anyio.CancelScope() as scope:
        loop.call_later(0.05, scope.cancel)
        loop.call_later(1.05, slow.go_on.set)
        await in_thread(slow.work)
    assert scope.cancelled_caught
    assert slow.ended == [True]
    assert time.process_time() - before < 0.5


async def test_a_job_that_was_cancelled() -> None:
    """A job that is cancelled while its waiter is: the waiter is cancelled, and nothing else."""
    job: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(to_its_end(job))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_the_work_returns() -> None:
    """What the work returns or raises is returned or raised."""
    assert await in_thread(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0)
