from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from bisect import bisect_right
from functools import partial
from random import Random
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kling_async import ConfigurationError, TaskRef
from kling_async.limits.base import Limits
from kling_async.limits.local import LocalLimiter
from kling_async.testing.clock import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from kling_async.limits.base import Permit, Slot

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


async def arrive(
    limiter: LocalLimiter, arrivals: Sequence[float], travel: float = 0.0
) -> list[float]:
    """Ask for a permit at each of these moments; give the moments of the grants, sorted."""

    async def one(at: float) -> float:
        await asyncio.sleep(at)
        permit = await limiter.request()
        if travel:
            await asyncio.sleep(travel)
        permit.answered()
        return permit.granted_at

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(at)) for at in arrivals]
    return sorted(task.result() for task in tasks)


async def crowd(
    limiter: LocalLimiter, number: int, latency: Callable[[], float] = lambda: 0.0
) -> list[float]:
    """Send so many requests, as many at a time as the limit and more, up to two hundred.

    Args:
        limiter: What lets them through.
        number: How many.
        latency: Gives the seconds until one is counted by the service, and until its answer.

    Returns:
        When the service counted them, sorted.
    """
    counted: list[float] = []
    clock = asyncio.get_running_loop().time

    async def one() -> None:
        while len(counted) < number:
            permit = await limiter.request()
            if there := latency():
                await asyncio.sleep(there)
            counted.append(clock())
            if back := latency():
                await asyncio.sleep(back)
            permit.answered()

    async with asyncio.TaskGroup() as group:
        for _ in range(min(200, limiter.limits.requests_per_minute + 20)):
            group.create_task(one())
    return sorted(counted)


def uniform(low: float, high: float) -> Callable[[], float]:
    """Return something that gives latencies between these."""
    rng = Random(1)  # noqa: S311 - latencies, not secrets
    return lambda: rng.uniform(low, high)


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


@pytest.mark.parametrize("requests_per_minute", [10, 30, 60, 120])
@pytest.mark.parametrize("latency", [(0.0, 0.0), (0.0, 3.0), (0.0, 20.0), (5.0, 90.0)])
@pytest.mark.parametrize("seed", [1, 2])
def test_slow_requests_do_not_break_the_limit(
    requests_per_minute: int, latency: tuple[float, float], seed: int
) -> None:
    """However long requests travel, the service counts no more than the limit in any 60 s."""
    rng = Random(seed)  # noqa: S311 - latencies, not secrets
    limiter = LocalLimiter(Limits(requests_per_minute=requests_per_minute))
    counted = run(crowd(limiter, requests_per_minute * 8, lambda: rng.uniform(*latency)))
    assert fullest_minute(counted) <= requests_per_minute


@pytest.mark.parametrize("requests_per_minute", [10, 30, 60, 120])
def test_slow_ones_and_then_quick_ones(requests_per_minute: int) -> None:
    """Those that arrive late do not meet a full minute of those that arrive at once."""
    latencies = iter([3.0, 3.0] * requests_per_minute)
    limiter = LocalLimiter(Limits(requests_per_minute=requests_per_minute))
    counted = run(crowd(limiter, requests_per_minute * 4, lambda: next(latencies, 0.0)))
    assert fullest_minute(counted) <= requests_per_minute


@pytest.mark.parametrize(
    "requests_per_minute",
    [10, 60, 1_200, pytest.param(10_000, marks=pytest.mark.slow)],
)
def test_the_limit_is_used(requests_per_minute: int) -> None:
    """At latencies of 50 to 300 ms a crowd uses 99 % of the limit, and no minute is over it."""
    limiter = LocalLimiter(Limits(requests_per_minute=requests_per_minute))
    # The answer takes as long as the request: round trips of 50 to 300 ms.
    counted = run(crowd(limiter, requests_per_minute * 6, uniform(0.025, 0.15)))
    assert fullest_minute(counted) <= requests_per_minute
    # The first minute begins with a burst; only what follows shows the rate.
    rest = [at - counted[requests_per_minute] for at in counted[requests_per_minute:]]
    assert (len(rest) - 1) / rest[-1] * 60 >= 0.99 * requests_per_minute


@pytest.mark.parametrize("requests_per_minute", [1, 3, 10, 99, 1_000])
def test_small_limits_are_used_in_full(requests_per_minute: int) -> None:
    """A small limit loses nothing to rounding, and is kept too."""
    number = min(requests_per_minute * 20, 3_000)
    limiter = LocalLimiter(Limits(requests_per_minute=requests_per_minute))
    moments = run(crowd(limiter, number))
    assert fullest_minute(moments) <= requests_per_minute
    assert len(moments) / moments[-1] * 60 > requests_per_minute * 0.998


def test_a_burst_is_a_second_of_the_limit() -> None:
    """Of 600 a minute ten go at once, of 10,000 a hundred; of a small limit up to four."""
    for requests_per_minute, burst in ((2, 2), (10, 4), (600, 10), (10_000, 100)):
        limiter = LocalLimiter(Limits(requests_per_minute))
        moments = run(arrive(limiter, [0.0] * 200))
        assert bisect_right(moments, 0.005) == burst


@virtual
async def test_a_permit_is_answered_once() -> None:
    """The second time that a permit is answered does nothing."""
    limiter = LocalLimiter(Limits(requests_per_minute=2))
    first, _second = await limiter.request(), await limiter.request()
    first.answered()
    first.answered()
    third = asyncio.create_task(limiter.request())
    fourth = asyncio.create_task(limiter.request())
    await asyncio.sleep(600)
    assert third.done()
    assert not fourth.done()
    fourth.cancel()


@virtual
async def test_waiting_for_an_answer() -> None:
    """If all requests of a minute are under way, the next one waits for 60 s after an answer."""
    limiter = LocalLimiter(Limits(requests_per_minute=3))
    permits = [await limiter.request() for _ in range(3)]
    waiting = asyncio.create_task(limiter.request())
    await asyncio.sleep(500)
    assert not waiting.done()
    begun = asyncio.get_running_loop().time()
    for permit in permits:
        permit.answered()
    assert (await waiting).granted_at - begun == pytest.approx(60.05, abs=0.01)


@virtual
async def test_cancelled_while_waiting_for_an_answer() -> None:
    """If the first in line gives up, the next one gets the answer, and the turn in the pace."""
    limiter = LocalLimiter(Limits(requests_per_minute=1))
    permit = await limiter.request()
    first, second = (asyncio.create_task(limiter.request()) for _ in range(2))
    await asyncio.sleep(100)
    permit.answered()
    first.cancel()
    begun = asyncio.get_running_loop().time()
    assert (await second).granted_at - begun == pytest.approx(60.05, abs=0.01)
    assert first.cancelled()


@virtual
async def test_first_come_first_served() -> None:
    """Permits go out in the order in which they were asked for, newcomers included."""
    limiter = LocalLimiter(Limits(requests_per_minute=60))
    order: list[int] = []

    async def one(number: int) -> None:
        await asyncio.sleep(number * 0.1)
        (await limiter.request()).answered()
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
        interval = 60.0 / requests_per_minute
        admitted: list[float] = []

        async def one(start: float, patience: float) -> None:
            await asyncio.sleep(start)
            try:
                async with asyncio.timeout(patience):
                    permit = await limiter.request()
                    admitted.append(permit.granted_at)
                    permit.answered()
            except TimeoutError:
                pass

        async with asyncio.TaskGroup() as group:
            for start, patience in waiters:
                group.create_task(one(start, patience))
        before = asyncio.get_running_loop().time()
        waited = (await limiter.request()).granted_at - before
        # The window's margin for clocks that differ adds a little. What went ahead of the pace, up
        # to four of a small limit, is waited for at the end of the window.
        assert waited <= min(60.0, 4 * interval) + 0.1
        if not admitted:
            assert waited == 0

    run(main())


@virtual
async def test_a_cancelled_waiter_lets_the_next_one_go() -> None:
    """The permit that a cancelled waiter stood in line for goes to the next one."""
    limiter = LocalLimiter(Limits(requests_per_minute=10))
    for _ in range(4):  # the burst
        await limiter.request()
    first, second = (asyncio.create_task(limiter.request()) for _ in range(2))
    await asyncio.sleep(3)
    first.cancel()
    assert (await second).granted_at == pytest.approx(6.0, abs=0.01)
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
async def test_a_pause_holds_everything_back() -> None:
    """During a pause no request is granted, whether it waits already or comes later."""
    limiter = LocalLimiter(Limits(requests_per_minute=60))
    permit, *_ = [await limiter.request() for _ in range(4)]  # the burst
    waiting = asyncio.create_task(limiter.request())
    await asyncio.sleep(0)
    assert limiter.pause(30.0, permit)
    later = asyncio.create_task(limiter.request())
    assert (await waiting).granted_at == pytest.approx(30, abs=0.01)
    assert (await later).granted_at > 30


@virtual
async def test_one_storm_is_one_pause() -> None:
    """Of many refusals to requests that were granted before a pause, the first begins it."""
    limiter = LocalLimiter()
    permits = [await limiter.request() for _ in range(50)]
    paused = []
    for permit in permits:
        await asyncio.sleep(0.01)
        paused.append(limiter.pause(10.0, permit))
    assert paused == [True, *[False] * 49]
    # And yet none is sent before its own 10 s are over.
    assert (await limiter.request()).granted_at == pytest.approx(10.5, abs=0.01)


@virtual
async def test_a_later_refusal_makes_a_pause_longer() -> None:
    """A refusal of the same storm with a longer delay makes the pause longer, for all that wait."""
    limiter = LocalLimiter()
    first, second, third = [await limiter.request() for _ in range(3)]
    assert limiter.pause(0.3, first)
    waiting = asyncio.create_task(limiter.request())
    await asyncio.sleep(0.1)
    assert limiter.pause(10.0, second)
    assert not limiter.pause(5.0, third)
    assert (await waiting).granted_at == pytest.approx(10.1, abs=0.01)


@virtual
async def test_a_refusal_that_comes_after_the_pause() -> None:
    """A refusal of the same storm after the pause counts only if it names a longer delay."""
    limiter = LocalLimiter()
    first, second, third = [await limiter.request() for _ in range(3)]
    assert limiter.pause(1.0, first)
    await asyncio.sleep(2)
    assert not limiter.pause(1.0, second)
    assert (await limiter.request()).granted_at == pytest.approx(2, abs=0.01)
    assert limiter.pause(10.0, third)
    assert (await limiter.request()).granted_at == pytest.approx(12, abs=0.01)


@virtual
async def test_a_refusal_after_a_pause_is_another_storm() -> None:
    """A request that was granted after a pause and is refused too begins another pause."""
    limiter = LocalLimiter()
    assert limiter.pause(5.0, await limiter.request())
    permit = await limiter.request()
    assert permit.granted_at >= 5
    assert limiter.pause(5.0, permit)
    assert (await limiter.request()).granted_at == pytest.approx(10, abs=0.01)


@virtual
async def test_a_pause_is_never_shortened() -> None:
    """Another refusal with a shorter delay leaves the end where it was."""
    limiter = LocalLimiter()
    first, second = await limiter.request(), await limiter.request()
    assert limiter.pause(60.0, first)
    await asyncio.sleep(1)
    assert not limiter.pause(1.0, second)
    assert (await limiter.request()).granted_at == pytest.approx(60, abs=0.01)


@virtual
@pytest.mark.parametrize("delay", [-1.0, float("nan"), float("inf")])
async def test_wrong_delays(delay: float) -> None:
    """A pause of no length that passes is a ConfigurationError, and pauses nothing."""
    limiter = LocalLimiter()
    with pytest.raises(ConfigurationError, match=r"pause\(\) needs a delay of 0 s or more"):
        limiter.pause(delay, await limiter.request())
    assert (await limiter.request()).granted_at < 0.001


@virtual
async def test_cancelling_a_waiter_during_a_pause() -> None:
    """Who is cancelled during a pause costs the others nothing after it."""
    limiter = LocalLimiter(Limits(requests_per_minute=10))
    limiter.pause(60.0, await limiter.request())
    waiting = [asyncio.create_task(limiter.request()) for _ in range(5)]
    await asyncio.sleep(1)
    for task in waiting:
        task.cancel()
    assert (await limiter.request()).granted_at == pytest.approx(60, abs=0.01)


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
            if len(moments) % 2:  # the others never hear of an answer
                permit.answered()
        return zero + asyncio.get_running_loop().time()

    for _ in range(8):
        zero = run(one_run())
    assert fullest_minute(moments) <= requests_per_minute


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


@virtual
async def test_lifetimes_of_their_own() -> None:
    """Each slot expires after its own lifetime, however they were confirmed, and reports it."""
    limiter, expired = LocalLimiter(Limits(presumed_lifetime=100.0)), list[tuple[float, int]]()
    clock = asyncio.get_running_loop().time

    def note(number: int) -> None:
        expired.append((round(clock()), number))

    for number, lifetime in enumerate((30.0, 10.0, None, 1e9, 20.0)):
        slot = await limiter.slot()
        slot.confirm(TaskRef("kling-2-1", f"{number}"), lifetime, partial(note, number))
    (await limiter.slot()).expire_in(5.0)
    await asyncio.sleep(7)
    assert limiter.slots_in_use == 5
    limiter.adopt(TaskRef("kling-2-1", "1"), 50.0)  # it is confirmed again
    await asyncio.sleep(200)
    assert sorted(expired) == [(20, 4), (30, 0), (57, 1), (100, 2), (100, 3)]
    assert limiter.slots_in_use == 0


@virtual
async def test_a_released_slot_does_not_expire() -> None:
    """What is released, or refused, reports no expiry."""
    limiter, expired = LocalLimiter(), list[str]()
    limiter.adopt(REF, 10.0, lambda: expired.append("released")).release()
    slot = limiter.adopt(REF, 10.0, lambda: expired.append("refused"))
    limiter.refused(slot)
    slot.confirm(REF, 1.0)
    slot.expire_in(1.0)
    await asyncio.sleep(100)
    assert expired == []
    assert limiter.slots_in_use == 0


@virtual
async def test_several_clients_of_one_slot() -> None:
    """Each client that shares a slot has its expiry reported, once."""
    limiter, expired = LocalLimiter(), list[str]()

    def one() -> None:
        expired.append("one")

    def two() -> None:
        expired.append("two")

    slot = limiter.adopt(REF, 10.0, one)
    assert limiter.adopt(REF, 10.0, two) is slot
    slot.confirm(REF, 10.0, one)
    other = await limiter.slot()
    other.confirm(REF, 10.0, two)  # takes the place of the other slot
    await asyncio.sleep(11)
    assert sorted(expired) == ["one", "two"]
    assert limiter.slots_in_use == 0


@virtual
async def test_a_callback_that_raises() -> None:
    """A callback that raises does not keep others from being called, or the slot in use."""
    limiter, expired, reported = LocalLimiter(), list[str](), list[object]()
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reported.append(context["exception"])
    )
    wrong = ValueError("wrong")

    def fail() -> None:
        raise wrong

    limiter.adopt(REF, 1.0, fail).confirm(REF, 1.0, lambda: expired.append("the next"))
    await asyncio.sleep(2)
    assert (expired, reported, limiter.slots_in_use) == (["the next"], [wrong], 0)


@virtual
async def test_a_slot_of_another_task() -> None:
    """A slot that turns out to be another task's is that one's, and no more the first one's."""
    limiter = LocalLimiter()
    slot, other = limiter.adopt(REF), TaskRef("kling-2-1", "task_2")
    slot.confirm(other)
    assert limiter.adopt(other) is slot
    assert limiter.adopt(REF) is not slot
    assert limiter.slots_in_use == 2


@virtual
@pytest.mark.parametrize("lifetime", [-1.0, float("nan")])
async def test_wrong_lifetimes(lifetime: float) -> None:
    """A lifetime below zero is a ConfigurationError, and the slot stays as it was."""
    limiter = LocalLimiter(Limits(presumed_lifetime=10.0))
    slot = await limiter.slot()
    for call in (slot.expire_in, lambda lifetime: slot.confirm(REF, lifetime)):
        with pytest.raises(ConfigurationError, match="a slot needs a lifetime of 0 s or more"):
            call(lifetime)
    await asyncio.sleep(9.9)
    assert limiter.slots_in_use == 1


@virtual
async def test_a_refused_submit_is_the_first_to_go_again() -> None:
    """A submit that was refused gets the next slot, before all that wait, in order with others."""
    limiter, order = LocalLimiter(Limits(concurrent_tasks=3)), list[str]()

    async def one(name: str, *, first: bool = False) -> None:
        slot = await limiter.slot(first=first)
        order.append(name)
        slot.release()

    running, refused, other = [await limiter.slot() for _ in range(3)]
    running.confirm(REF)
    waiting = [asyncio.create_task(one(name)) for name in "cd"]
    await asyncio.sleep(0)
    limiter.refused(refused)
    limiter.refused(other)
    waiting += [asyncio.create_task(one(name, first=True)) for name in "ab"]
    await asyncio.sleep(0.5)
    assert order == []
    assert limiter.effective_tasks == 1
    running.release()  # the end of a task is a reason to try again at once
    async with asyncio.timeout(0.1):
        await asyncio.gather(*waiting)
    assert order == list("abcd")


@virtual
async def test_refused_with_nothing_running() -> None:
    """If no task of ours runs, a refused submit is let through again after a second."""
    limiter = LocalLimiter()
    limiter.refused(await limiter.slot())
    begun = asyncio.get_running_loop().time()
    limiter.refused(await limiter.slot(first=True))
    assert asyncio.get_running_loop().time() - begun == pytest.approx(1, abs=0.01)
    await limiter.slot(first=True)
    assert asyncio.get_running_loop().time() - begun == pytest.approx(3, abs=0.01)


@virtual
async def test_refused_needs_a_slot_of_its_own() -> None:
    """Another limiter's slot is a ConfigurationError."""

    class Foreign:
        def confirm(self, *_: object) -> None: ...

        def expire_in(self, lifetime: float) -> None: ...

        def release(self) -> None: ...

    with pytest.raises(ConfigurationError, match="needs a slot of this limiter"):
        LocalLimiter().refused(Foreign())


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


@virtual
async def test_repr() -> None:
    """A limiter shows its limits and the slots in use."""
    limiter = LocalLimiter(Limits(requests_per_minute=7, concurrent_tasks=3))
    assert (limiter.slots_in_use, limiter.effective_tasks) == (0, 3)
    await limiter.slot()
    assert "requests_per_minute=7" in repr(limiter)
    assert repr(limiter).endswith("slots in use: 1>")
