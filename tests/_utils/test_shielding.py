from __future__ import annotations

import asyncio
import threading
import time

import anyio
import pytest

from kling_async._utils.shielding import Cleanups, await_uncancelled, run_in_thread


class Slow:
    """Work in a thread that ends when it is allowed to."""

    def __init__(self) -> None:
        self.begun, self.go_on = asyncio.Event(), threading.Event()
        self.ended: list[bool] = []
        self._loop = asyncio.get_running_loop()

    def work(self) -> None:
        self._loop.call_soon_threadsafe(self.begun.set)
        self.go_on.wait()
        self.ended.append(True)
        raise OSError("not seen by the caller")


async def test_cancelled_while_a_thread_runs() -> None:
    """A cancellation, even a second one, is raised after the thread has ended."""
    slow = Slow()
    task = asyncio.create_task(run_in_thread(slow.work))
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
    """In a cancelled scope of anyio, the wait lasts to the end and uses hardly any CPU time."""
    slow = Slow()
    loop = asyncio.get_running_loop()
    before = time.process_time()
    with anyio.CancelScope() as scope:
        loop.call_later(0.05, scope.cancel)
        loop.call_later(1.05, slow.go_on.set)
        await run_in_thread(slow.work)
    assert scope.cancelled_caught
    assert slow.ended == [True]
    assert time.process_time() - before < 0.5


async def test_a_job_that_was_cancelled() -> None:
    """If the job is cancelled together with its waiter, the waiter raises CancelledError."""
    job: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(await_uncancelled(job))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_the_work_returns() -> None:
    """The result or the exception of the work is returned or raised."""
    assert await run_in_thread(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        await run_in_thread(lambda: 1 // 0)


async def test_clean_up_continues_after_a_cancellation() -> None:
    """A cancelled caller raises at once; the owner waits for the clean-up."""
    cleanups, steps = Cleanups(), []

    async def work() -> None:
        steps.append("begun")
        await asyncio.sleep(0.01)
        steps.append("ended")

    caller = asyncio.create_task(cleanups.run(work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert steps == ["begun"]
    await cleanups.finished()
    assert steps == ["begun", "ended"]


async def test_the_result_of_clean_up() -> None:
    """The result or the exception of clean-up is returned or raised."""
    cleanups = Cleanups()

    async def divide(by: int) -> int:
        return 6 // by

    assert await cleanups.run(divide(2)) == 3
    with pytest.raises(ZeroDivisionError):
        await cleanups.run(divide(0))
