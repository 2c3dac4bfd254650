from __future__ import annotations

import asyncio
import gc
import weakref
from bisect import bisect_right
from random import Random
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kling_async import TaskRef
from kling_async.limits import Limits
from kling_async.limits.local import LocalLimiter
from kling_async.testing.clock import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from kling_async.limits import Slot

virtual = pytest.mark.virtual_time

_T = TypeVar("_T")

REF = TaskRef("kling-2-1", "task_1")


def run(main: Coroutine[object, object, _T]) -> _T:
    """Run on a virtual loop of its own."""
    # Without the loop's debug mode, which takes ten times as long for ten thousands of permits.
    with asyncio.Runner(debug=False, loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def fullest_minute(moments: Sequence[float], window: float = 60.0) -> int:
    """Count the moments in the fullest closed window of 60 s, or so many."""
    # A window that begins at a moment is as full as any. The slack is the clock's rounding.
    return max(
        (bisect_right(moments, at + window + 1e-9) - i for i, at in enumerate(moments)), default=0
    )


async def arrive(limiter: LocalLimiter, arrivals: Sequence[float]) -> list[float]:
    """Ask for a permit at each of these moments; give the moments of admission, sorted."""

    async def one(at: float) -> float:
        await asyncio.sleep(at)
        return await limiter.request()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(at)) for at in arrivals]
    return sorted(task.result() for task in tasks)


async def crowd(limiter: LocalLimiter, number: int) -> list[float]:
    """Ask for so many permits, a hundred at a time without end; give the moments of admission."""
    moments: list[float] = []

    async def one() -> None:
        while len(moments) < number:
            moments.append(await limiter.request())

    async with asyncio.TaskGroup() as group:
        for _ in range(150):
            group.create_task(one())
    return moments


@pytest.fixture(scope="module")
def saturated() -> list[float]:
    """Give the moments of two and a half minutes at the limit of 10,000 a minute."""
    return run(crowd(LocalLimiter(), 25_000))


LIMITS = st.one_of(
    st.sampled_from([1, 2, 3, 10, 60, 99, 100, 101, 150, 200, 500, 1_000, 9_999, 10_000]),
    st.integers(1, 10_000),
)
# Bursts and gaps: so many requests at once, so many seconds after the last ones.
BURSTS = st.lists(
    st.tuples(st.integers(1, 60), st.sampled_from([0.0, 1e-6, 0.01, 0.5, 1.0, 30.0, 59.9, 60.0])),
    min_size=1,
    max_size=5,
)


@given(requests_per_minute=LIMITS, bursts=BURSTS)
@settings(max_examples=60, deadline=None)
def test_no_minute_is_over_the_limit(
    requests_per_minute: int, bursts: list[tuple[int, float]]
) -> None:
    """Whatever the limit and the arrivals, no closed window of 60 s holds more than the limit."""
    arrivals, at = [], 0.0
    for number, gap in bursts:
        at += gap
        arrivals += [at] * number
    limiter = LocalLimiter(Limits(requests_per_minute=requests_per_minute))
    moments = run(arrive(limiter, arrivals))
    assert len(moments) == len(arrivals)
    assert fullest_minute(moments) <= requests_per_minute


@pytest.mark.slow
def test_a_saturated_limiter(saturated: list[float]) -> None:
    """Under a crowd that never thins, no minute is over the limit and 96 % of it is used."""
    assert fullest_minute(saturated) <= 10_000
    assert len(saturated) / saturated[-1] * 60 >= 0.96 * 10_000


@pytest.mark.parametrize("requests_per_minute", [1, 3, 10, 99, 1_000])
def test_small_limits_are_used_in_full(requests_per_minute: int) -> None:
    """A small limit is kept too, and loses a fiftieth at the most."""
    number = min(requests_per_minute * 20, 3_000)
    limiter = LocalLimiter(Limits(requests_per_minute=requests_per_minute))
    moments = run(crowd(limiter, number))
    assert fullest_minute(moments) <= requests_per_minute
    assert len(moments) / moments[-1] * 60 > requests_per_minute * 0.97


def test_a_burst_is_a_second_of_the_limit() -> None:
    """Of 10,000 a minute 100 go at once, so that late timers cost no throughput."""
    moments = run(arrive(LocalLimiter(), [0.0] * 200))
    assert bisect_right(moments, 0.005) == 100


def test_room_is_left_for_what_is_under_way(saturated: list[float]) -> None:
    """All that was under way may arrive late, with the next burst, without a minute too full."""
    seen = [0.0] * Limits().connections + saturated
    assert fullest_minute(seen) <= 10_000


@pytest.mark.parametrize("requests_per_minute", [1, 3, 10, 99])
def test_travel_time_and_small_limits(requests_per_minute: int) -> None:
    """Nor is there a minute too full if the first are half a second late and the last are not."""
    limiter = LocalLimiter(Limits(requests_per_minute=requests_per_minute))
    moments = run(crowd(limiter, requests_per_minute * 5))
    assert fullest_minute(moments, 60.5) <= requests_per_minute


def test_travel_time_does_not_break_the_limit(saturated: list[float]) -> None:
    """Requests that travel for up to half a second arrive within the limit."""
    dice = Random(1)  # noqa: S311 - travel times, not secrets
    seen = sorted(at + dice.uniform(0.0, 0.5) for at in saturated)
    assert fullest_minute(seen) <= 10_000


@virtual
async def test_first_come_first_served() -> None:
    """Permits go out in the order in which they were asked for, newcomers included."""
    limiter = LocalLimiter(Limits(requests_per_minute=60))
    order: list[int] = []

    async def one(number: int) -> None:
        await asyncio.sleep(number * 0.1)
        await limiter.request()
        order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(100):
            group.create_task(one(number))
    assert order == list(range(100))


@given(
    waiters=st.lists(st.tuples(st.floats(0, 30), st.floats(0, 60)), min_size=1, max_size=25),
    requests_per_minute=st.sampled_from([6, 60, 600]),
)
@settings(max_examples=40, deadline=None)
def test_cancelled_waiters_take_no_permits(
    waiters: list[tuple[float, float]], requests_per_minute: int
) -> None:
    """However many waiters are cancelled, whenever, the next one waits no longer than its turn."""

    async def main() -> None:
        limiter = LocalLimiter(Limits(requests_per_minute=requests_per_minute))
        interval = 60.5 / (requests_per_minute * 0.97 - 1)
        admitted: list[float] = []

        async def one(start: float, patience: float) -> None:
            await asyncio.sleep(start)
            try:
                async with asyncio.timeout(patience):
                    admitted.append(await limiter.request())
            except TimeoutError:
                pass

        async with asyncio.TaskGroup() as group:
            for start, patience in waiters:
                group.create_task(one(start, patience))
        before = asyncio.get_running_loop().time()
        waited = await limiter.request() - before
        assert waited <= interval
        if not admitted:
            assert waited == 0

    run(main())


@virtual
async def test_a_cancelled_waiter_lets_the_next_one_go() -> None:
    """The permit that a cancelled waiter stood in line for goes to the next one."""
    limiter = LocalLimiter(Limits(requests_per_minute=10))
    await limiter.request()
    first, second = (asyncio.create_task(limiter.request()) for _ in range(2))
    await asyncio.sleep(3)
    first.cancel()
    assert await second == pytest.approx(6.05, abs=0.02)
    assert first.cancelled()


@virtual
async def test_slots_are_counted() -> None:
    """So many slots as the limit says are given; the next waits until one is released."""
    limiter = LocalLimiter(Limits(concurrent_tasks=2))
    first, second = await limiter.slot(), await limiter.slot()
    third = asyncio.create_task(limiter.slot())
    await asyncio.sleep(10)
    assert not third.done()
    assert limiter.slots_in_use == 2
    first.release()
    held = await third
    assert limiter.slots_in_use == 2
    for slot in (second, held):
        slot.release()
    assert limiter.slots_in_use == 0


@virtual
async def test_releasing_twice() -> None:
    """The second release of a slot does nothing."""
    limiter = LocalLimiter(Limits(concurrent_tasks=3))
    first = await limiter.slot()
    await limiter.slot()
    first.release()
    first.release()
    assert limiter.slots_in_use == 1


@virtual
async def test_a_released_slot_leaves_nothing_behind() -> None:
    """After its release the loop does not remember a slot until its presumed end."""
    limiter = LocalLimiter()
    slot = await limiter.slot()
    trace = weakref.ref(slot)
    slot.release()
    del slot
    gc.collect()
    assert trace() is None


@virtual
async def test_slots_go_to_the_oldest_waiter() -> None:
    """Those who wait for slots are served in the order they came, before any newcomer."""
    limiter = LocalLimiter(Limits(concurrent_tasks=1))
    order: list[str] = []

    async def one(name: str) -> None:
        slot = await limiter.slot()
        order.append(name)
        await asyncio.sleep(1)
        slot.release()

    async with asyncio.TaskGroup() as group:
        for name in "abcd":
            group.create_task(one(name))
        await asyncio.sleep(1)
        group.create_task(one("newcomer"))
    assert order == ["a", "b", "c", "d", "newcomer"]


@virtual
async def test_a_newcomer_does_not_overtake_a_slot_handed_over() -> None:
    """Who asks in the moment of a release stands behind those who wait."""
    limiter = LocalLimiter(Limits(concurrent_tasks=1))
    held = await limiter.slot()
    waiter = asyncio.create_task(limiter.slot())
    await asyncio.sleep(0)
    held.release()
    newcomer = asyncio.create_task(limiter.slot())
    await asyncio.sleep(1)
    assert waiter.done()
    assert not newcomer.done()
    newcomer.cancel()


@virtual
async def test_presumed_lifetime() -> None:
    """A slot that nobody releases is free again after the presumed lifetime."""
    limiter = LocalLimiter(Limits(concurrent_tasks=1, presumed_lifetime=100.0))
    slot = await limiter.slot()
    await asyncio.sleep(40)
    await limiter.slot()
    assert asyncio.get_running_loop().time() == pytest.approx(100, abs=0.01)
    slot.release()  # too late to matter
    assert limiter.slots_in_use == 1


@virtual
async def test_adopting_beyond_the_limit() -> None:
    """A task found running is counted even over the limit, and its end then frees no slot."""
    limiter = LocalLimiter(Limits(concurrent_tasks=1))
    first = await limiter.slot()
    adopted = limiter.adopt(REF)
    assert limiter.slots_in_use == 2
    waiter = asyncio.create_task(limiter.slot())
    first.release()
    await asyncio.sleep(1)
    assert not waiter.done()
    adopted.release()
    await waiter
    assert limiter.slots_in_use == 1


@virtual
async def test_adopted_slots_have_a_presumed_end_too() -> None:
    """An adopted slot is free again after the presumed lifetime."""
    limiter = LocalLimiter(Limits(presumed_lifetime=10.0))
    limiter.adopt(REF)
    await asyncio.sleep(9.9)
    assert limiter.slots_in_use == 1
    await asyncio.sleep(0.2)
    assert limiter.slots_in_use == 0


@virtual
async def test_cancelled_in_the_moment_of_the_handover() -> None:
    """A slot handed to a waiter that is cancelled in the same moment goes to the next one."""
    limiter = LocalLimiter(Limits(concurrent_tasks=1))
    held = await limiter.slot()
    first, second = (asyncio.create_task(limiter.slot()) for _ in range(2))
    await asyncio.sleep(1)
    held.release()
    first.cancel()
    async with asyncio.timeout(1):  # long before the presumed lifetime would help
        await second
    assert limiter.slots_in_use == 1
    assert first.cancelled()


@virtual
async def test_cancelled_before_the_handover() -> None:
    """A slot is not handed to a waiter that was cancelled a moment before."""
    limiter = LocalLimiter(Limits(concurrent_tasks=1))
    held = await limiter.slot()
    first, second = (asyncio.create_task(limiter.slot()) for _ in range(2))
    await asyncio.sleep(1)
    first.cancel()
    held.release()
    async with asyncio.timeout(1):  # long before the presumed lifetime would help
        await second
    assert limiter.slots_in_use == 1
    assert first.cancelled()


@given(
    crowd=st.lists(
        st.tuples(st.floats(0, 5), st.floats(0, 10), st.floats(0, 5)), min_size=1, max_size=25
    ),
    concurrent_tasks=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None)
def test_slots_never_leak(crowd: list[tuple[float, float, float]], concurrent_tasks: int) -> None:
    """However waiters and holders are cancelled, the limit holds and no slot is lost."""

    async def main() -> None:
        limiter = LocalLimiter(Limits(concurrent_tasks=concurrent_tasks))
        holding = 0

        async def one(start: float, patience: float, work: float) -> None:
            nonlocal holding
            await asyncio.sleep(start)
            slot: Slot | None = None
            try:
                async with asyncio.timeout(patience):
                    slot = await limiter.slot()
                    holding += 1
                    assert holding <= concurrent_tasks
                    await asyncio.sleep(work)
            except TimeoutError:
                pass
            finally:
                if slot is not None:
                    holding -= 1
                    slot.release()

        async with asyncio.TaskGroup() as group:
            for person in crowd:
                group.create_task(one(*person))
        assert limiter.slots_in_use == 0
        for _ in range(concurrent_tasks):
            async with asyncio.timeout(0.001):
                await limiter.slot()

    run(main())


@virtual
async def test_a_pause_holds_everybody_back() -> None:
    """During a pause no request is admitted, whether it waits already or comes later."""
    limiter = LocalLimiter(Limits(requests_per_minute=60))
    permit = await limiter.request()
    waiting = asyncio.create_task(limiter.request())
    await asyncio.sleep(0)
    assert limiter.pause(30.0, permit)
    later = asyncio.create_task(limiter.request())
    assert await waiting == pytest.approx(30, abs=0.01)
    assert await later > 30


@virtual
async def test_one_storm_is_one_pause() -> None:
    """Of many refusals to requests that were admitted before a pause, the first begins it."""
    limiter = LocalLimiter()
    permits = [await limiter.request() for _ in range(50)]
    await asyncio.sleep(1)
    assert [limiter.pause(10.0 + i, permit) for i, permit in enumerate(permits)] == [
        True,
        *[False] * 49,
    ]
    assert await limiter.request() == pytest.approx(11, abs=0.01)


@virtual
async def test_a_refusal_after_a_pause_is_another_storm() -> None:
    """A request that was admitted after a pause and is refused too begins another pause."""
    limiter = LocalLimiter()
    assert limiter.pause(5.0, await limiter.request())
    permit = await limiter.request()
    assert permit >= 5
    assert limiter.pause(5.0, permit)
    assert await limiter.request() == pytest.approx(10, abs=0.01)


@virtual
async def test_a_pause_is_never_shortened() -> None:
    """A second pause that would end sooner leaves the end where it was."""
    limiter = LocalLimiter()
    permit = await limiter.request()
    assert limiter.pause(60.0, permit)
    assert limiter.pause(1.0, asyncio.get_running_loop().time() + 1)
    assert await limiter.request() == pytest.approx(60, abs=0.01)


@virtual
async def test_a_pause_that_grows() -> None:
    """Who waits for the end of a pause waits for the new end if the pause grows."""
    limiter = LocalLimiter()
    limiter.pause(10.0, await limiter.request())
    waiting = asyncio.create_task(limiter.request())
    await asyncio.sleep(5)
    assert limiter.pause(20.0, 5.0)
    assert await waiting == pytest.approx(25, abs=0.01)


@virtual
async def test_cancelling_a_waiter_during_a_pause() -> None:
    """Who is cancelled during a pause costs the others nothing after it."""
    limiter = LocalLimiter(Limits(requests_per_minute=10))
    limiter.pause(60.0, await limiter.request())
    waiting = [asyncio.create_task(limiter.request()) for _ in range(5)]
    await asyncio.sleep(1)
    for task in waiting:
        task.cancel()
    assert await limiter.request() == pytest.approx(60, abs=0.01)


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
    """Who waited for a slot when its loop ended does not stand in the way on the next."""
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
    """A slot is not handed to somebody who waits on a loop that is no more."""
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


@pytest.mark.parametrize("requests_per_minute", [1, 10, 10_000])
def test_a_second_loop_finds_the_burst_spent(requests_per_minute: int) -> None:
    """A run right after another does not begin with a full burst: the minute holds for both."""
    limiter = LocalLimiter(Limits(requests_per_minute=requests_per_minute))
    count = max(1, requests_per_minute // 100)
    moments, zero = [], 0.0

    async def one_run() -> float:
        moments.extend([zero + await limiter.request() for _ in range(count)])
        return zero + asyncio.get_running_loop().time()

    for _ in range(min(40, 6_000 // count)):
        zero = run(one_run())
    assert fullest_minute(moments) <= requests_per_minute


def test_a_second_loop_after_a_rest_has_its_burst() -> None:
    """After a rest the burst is there again on a new loop."""
    limiter = LocalLimiter(Limits(requests_per_minute=10_000))

    async def first() -> None:
        await limiter.request()
        await asyncio.sleep(60)

    run(first())
    assert run(arrive(limiter, [0.0] * 100))[-1] < 0.001


def test_a_second_loop_is_in_the_same_pause() -> None:
    """A pause goes on on the next loop for what was left of it, and stays one pause."""
    limiter = LocalLimiter()

    async def first() -> float:
        permit = await limiter.request()
        await asyncio.sleep(100)
        limiter.pause(30.0, permit)
        await asyncio.sleep(10)
        return permit

    async def second() -> float:
        assert not limiter.pause(99.0, -100.0)  # a permit from before the pause
        permit = await limiter.request()
        assert limiter.pause(1.0, permit)  # and one from after it
        return permit

    run(first())
    assert run(second()) == pytest.approx(20, abs=0.01)


def test_cancelled_while_the_spent_bucket_is_filled() -> None:
    """A run that is cut short at its first request does not give the burst back."""
    limiter = LocalLimiter(Limits(requests_per_minute=10))

    async def ask() -> float:
        return await limiter.request()

    async def cut_short() -> None:
        task = asyncio.create_task(limiter.request())
        await asyncio.sleep(0)
        task.cancel()

    run(ask())
    run(cut_short())
    assert run(ask()) > 5


@virtual
async def test_repr() -> None:
    """A limiter shows its limits and the slots in use."""
    limiter = LocalLimiter(Limits(requests_per_minute=7, concurrent_tasks=3))
    await limiter.slot()
    assert "requests_per_minute=7" in repr(limiter)
    assert repr(limiter).endswith("slots in use: 1>")
