from __future__ import annotations

import asyncio

import pytest

from kling_async.limits.waiters import Timer, WaitQueue

pytestmark = pytest.mark.virtual_time


def create_queue(returned: list[int]) -> WaitQueue[int]:
    """Return a queue, and note in the list what is given back."""
    return WaitQueue(asyncio.get_running_loop(), returned.append)


async def test_urgent_waiters_come_first() -> None:
    """Values go to the urgent ones in their order, and then to the others in theirs."""
    queue = create_queue([])
    waiting = [queue.join(urgent=number % 2 == 1) for number in range(4)]
    assert len(queue) == 4
    for number in range(4):
        assert queue.give(number)
    assert not queue.give(4)
    assert [await queue.result(waiter) for waiter in waiting] == [2, 0, 3, 1]


async def test_cancelled_waiters_are_skipped() -> None:
    """A value goes to the first one that still waits; `purge` shows whether there is one."""
    queue = create_queue([])
    first, second = queue.join(), queue.join()
    first.cancel()
    assert queue.purge()
    assert len(queue) == 1
    assert queue.give(7)
    assert await second == 7
    assert not queue.purge()
    queue.join().cancel()
    assert not queue.purge()
    queue.join().cancel()
    assert not queue.give(8)


async def test_a_value_for_a_cancelled_waiter() -> None:
    """A value that was given before the cancellation is given back, and is not lost."""
    returned: list[int] = []
    queue = create_queue(returned)
    waiting = asyncio.create_task(queue.result(queue.join()))
    await asyncio.sleep(0)
    queue.give(3)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert returned == [3]


async def test_a_cancelled_waiter_leaves_the_queue() -> None:
    """A waiter that is cancelled, or gets an error as it is cancelled, gives nothing back."""
    returned: list[int] = []
    queue = create_queue(returned)
    tasks = [asyncio.create_task(queue.result(queue.join())) for _ in range(2)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    assert len(queue) == 1
    queue.set_exception(ValueError("wrong"))
    tasks[1].cancel()
    await asyncio.wait(tasks)
    assert tasks[1].cancelled()
    assert returned == []


async def test_an_error_for_all() -> None:
    """Each waiter gets a copy of the error, since a caller may add notes to it."""
    queue, error = create_queue([]), ValueError("wrong")
    waiting = [queue.join(), queue.join()]
    queue.set_exception(error)
    assert not queue
    errors = [waiter.exception() for waiter in waiting]
    assert [str(one) for one in errors] == ["wrong", "wrong"]
    assert errors[0] is not errors[1]


async def test_a_timer_fires_at_the_earliest_time() -> None:
    """Of several times the earliest counts; afterwards, the timer can be set again."""
    loop, fired = asyncio.get_running_loop(), list[float]()
    timer = Timer(loop, lambda: fired.append(loop.time()))
    start = loop.time()
    timer.set(start + 5)
    timer.set(start + 3)
    timer.set(start + 4)
    await asyncio.sleep(10)
    timer.set(start + 12)
    await asyncio.sleep(10)
    assert fired == [pytest.approx(start + 3), pytest.approx(start + 12)]


async def test_a_timer_that_is_cancelled() -> None:
    """It does not fire; cancelling it again does nothing."""
    fired: list[int] = []
    loop = asyncio.get_running_loop()
    timer = Timer(loop, lambda: fired.append(1))
    timer.set(loop.time() + 1)
    timer.cancel()
    timer.cancel()
    await asyncio.sleep(2)
    assert fired == []
