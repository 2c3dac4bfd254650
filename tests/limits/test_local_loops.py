from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from kling_async import ConfigurationError
from kling_async.limits.base import Limits
from kling_async.limits.local import LocalLimiter
from kling_async.testing.clock import VirtualLoop
from tests.limits.conftest import REF, fullest, run

if TYPE_CHECKING:
    from kling_async.limits.base import Permit, Slot


virtual = pytest.mark.virtual_time


def test_a_second_loop_finds_the_slots_taken() -> None:
    """Slots outlive the loop they were taken on, with what is left of their lifetime."""
    limiter = LocalLimiter(Limits(concurrent_tasks=1, presumed_lifetime=100.0))

    async def first() -> None:
        await limiter.slot()
        await asyncio.sleep(70)

    async def second() -> float:
        await limiter.slot()
        return asyncio.get_running_loop().time()

    run(first())
    assert limiter.slots_in_use == 1
    assert run(second()) == pytest.approx(30, abs=0.01)


def test_waiters_do_not_outlive_their_loop() -> None:
    """A caller that waited for a slot when its loop ended does not block those on the next."""
    limiter = LocalLimiter(Limits(concurrent_tasks=1))

    async def first() -> Slot:
        slot = await limiter.slot()
        # A task that the loop's end does not get to: it is left waiting.
        task = asyncio.get_running_loop().create_task(limiter.slot())
        await asyncio.sleep(1)
        task.cancel()
        return slot

    async def second(held: Slot) -> None:
        waiting = asyncio.create_task(limiter.slot())
        await asyncio.sleep(1)
        held.release()
        await waiting

    run(second(run(first())))
    assert limiter.slots_in_use == 1


def test_a_loop_that_was_abandoned_with_its_waiters() -> None:
    """A slot is not given to a caller on a loop that has ended."""
    limiter = LocalLimiter(Limits(concurrent_tasks=1))
    abandoned = VirtualLoop()

    async def first() -> tuple[Slot, asyncio.Task[object]]:
        slot = await limiter.slot()
        waiting: asyncio.Task[object] = asyncio.create_task(limiter.slot())
        await asyncio.sleep(1)
        return slot, waiting

    async def second() -> None:
        waiting = asyncio.create_task(limiter.slot())
        await asyncio.sleep(1)
        held.release()
        async with asyncio.timeout(1):
            await waiting

    held, left = abandoned.run_until_complete(first())
    run(second())
    assert not left.done()
    left.cancel()
    abandoned.run_until_complete(asyncio.wait([left]))
    abandoned.close()


@pytest.mark.parametrize("requests_per_minute", [1, 10, 60, 1_000])
def test_the_minute_holds_across_loops(requests_per_minute: int) -> None:
    """Requests of one run count in the next one: the minute holds for both."""
    limiter = LocalLimiter(Limits(requests_per_minute=requests_per_minute))
    count = requests_per_minute // 3 + 1
    moments, zero = [], 0.0

    async def one_run() -> float:
        for _ in range(count):
            permit = await limiter.request()
            moments.append(zero + permit.granted_at)
            if len(moments) % 2:  # the others are never answered
                permit.answered()
        return zero + asyncio.get_running_loop().time()

    for _ in range(8):
        zero = run(one_run())
    assert fullest(moments) <= requests_per_minute


def test_answers_that_come_to_a_dead_loop() -> None:
    """What was under way when its loop ended counts as answered when the next one began."""
    limiter = LocalLimiter(Limits(requests_per_minute=1))

    async def first() -> Permit:
        await asyncio.sleep(50)
        return await limiter.request()

    async def second() -> float:
        await asyncio.sleep(7)
        waiting = asyncio.create_task(limiter.request())
        await asyncio.sleep(1)
        left.answered()  # too late to matter
        return (await waiting).granted_at

    left = run(first())
    assert run(second()) == pytest.approx(67.05, abs=0.01)


def test_a_second_loop_is_in_the_same_pause() -> None:
    """A pause lasts on the next loop for what was left of it."""
    limiter = LocalLimiter()

    async def first() -> None:
        permit = await limiter.request()
        await asyncio.sleep(100)
        limiter.pause(30.0, permit)
        await asyncio.sleep(10)

    async def second() -> float:
        permit = await limiter.request()
        assert limiter.pause(1.0, permit)
        return permit.granted_at

    run(first())
    assert run(second()) == pytest.approx(20, abs=0.01)


def test_a_second_loop_has_the_learned_cap() -> None:
    """What refusals have shown counts on the next loop, with what is left of its waits."""
    limiter = LocalLimiter(Limits(concurrent_tasks=5))
    held: list[Slot] = []

    async def first() -> None:
        await asyncio.sleep(100)
        held.append(await limiter.slot())
        held[0].confirm(REF)
        refused = await limiter.slot()
        limiter.refused(refused)
        await asyncio.sleep(3)

    async def second() -> float:
        assert limiter.effective_tasks == 1
        held.append(await limiter.slot())
        return asyncio.get_running_loop().time()

    run(first())
    assert run(second()) == pytest.approx(7, abs=0.01)  # it rises 10 s after the refusal
    assert limiter.effective_tasks == 2


def test_a_storm_that_lasts_until_the_next_loop() -> None:
    """A submit from before a refusal belongs to its storm on the next loop too."""
    limiter = LocalLimiter()
    held: list[Slot] = []

    async def first() -> None:
        await asyncio.sleep(1_000)
        held.extend([await limiter.slot(), await limiter.slot()])
        await asyncio.sleep(1)
        limiter.refused(held[0])

    async def second() -> float:
        limiter.refused(held[1])
        await limiter.slot()
        return asyncio.get_running_loop().time()

    run(first())
    assert run(second()) == pytest.approx(1, abs=0.01)


def test_two_running_loops() -> None:
    """A limiter that is in use on a running loop is refused on another one, with advice."""
    limiter = LocalLimiter()
    began, done = threading.Event(), threading.Event()

    async def use() -> None:
        await limiter.request()
        began.set()
        await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=asyncio.run, args=(use(),))
    thread.start()
    began.wait()

    async def use_too() -> None:
        for call in (limiter.request, limiter.slot, lambda: limiter.adopt(REF)):
            with pytest.raises(ConfigurationError, match="run_coroutine_threadsafe"):
                call()

    asyncio.run(use_too())
    done.set()
    thread.join()

    async def use_then() -> None:
        await limiter.request()

    asyncio.run(use_then())


def test_slots_are_used_on_the_next_loop() -> None:
    """A slot of an earlier run is confirmed, expires and is released on the next loop."""
    limiter, expired = LocalLimiter(Limits(presumed_lifetime=100.0)), list[float]()
    held: list[Slot] = []

    async def first() -> None:
        await asyncio.sleep(1_000)
        held.extend([await limiter.slot() for _ in range(3)])
        await asyncio.sleep(30)

    async def second() -> None:
        clock = asyncio.get_running_loop().time
        held[0].confirm(REF, 5.0, lambda: expired.append(clock()))
        held[1].expire_in(6.0)
        await asyncio.sleep(10)
        assert limiter.slots_in_use == 1
        await asyncio.sleep(61)
        assert limiter.slots_in_use == 0

    run(first())
    run(second())
    assert expired == pytest.approx([5], abs=0.01)


def test_a_release_between_two_loops() -> None:
    """A slot can be given back when no loop runs."""
    limiter = LocalLimiter(Limits(concurrent_tasks=1))
    abandoned = VirtualLoop()

    async def first() -> tuple[Slot, asyncio.Task[object]]:
        slot = await limiter.slot()
        waiting: asyncio.Task[object] = asyncio.create_task(limiter.slot())
        await asyncio.sleep(1)
        return slot, waiting

    held, left = abandoned.run_until_complete(first())
    left.cancel()
    abandoned.run_until_complete(asyncio.wait([left]))
    abandoned.close()
    held.release()
    assert limiter.slots_in_use == 0
    held.release()

    async def second() -> None:
        async with asyncio.timeout(1):
            await limiter.slot()

    run(second())
