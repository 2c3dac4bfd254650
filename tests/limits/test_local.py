from __future__ import annotations

import asyncio
from bisect import bisect_right
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kling_async import ConfigurationError
from kling_async.limits.base import Limits
from kling_async.limits.local import LocalLimiter
from tests.limits.conftest import REF, fullest, run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kling_async.limits.base import Slot

virtual = pytest.mark.virtual_time


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
    assert fullest(moments) <= requests_per_minute


@pytest.mark.repeating
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
    assert fullest(counted) <= requests_per_minute


@pytest.mark.parametrize("requests_per_minute", [10, 30, 60, 120])
def test_slow_ones_and_then_quick_ones(requests_per_minute: int) -> None:
    """Those that arrive late do not meet a full minute of those that arrive at once."""
    latencies = iter([3.0, 3.0] * requests_per_minute)
    limiter = LocalLimiter(Limits(requests_per_minute=requests_per_minute))
    counted = run(crowd(limiter, requests_per_minute * 4, lambda: next(latencies, 0.0)))
    assert fullest(counted) <= requests_per_minute


@pytest.mark.repeating
@pytest.mark.parametrize(
    "requests_per_minute",
    [10, 60, 1_200, pytest.param(10_000, marks=pytest.mark.slow)],
)
def test_the_limit_is_used(requests_per_minute: int) -> None:
    """At latencies of 50 to 300 ms a crowd uses 99 % of the limit, and no minute is over it."""
    limiter = LocalLimiter(Limits(requests_per_minute=requests_per_minute))
    # The answer takes as long as the request: round trips of 50 to 300 ms.
    counted = run(crowd(limiter, requests_per_minute * 6, uniform(0.025, 0.15)))
    assert fullest(counted) <= requests_per_minute
    # The first minute begins with a burst; only what follows shows the rate.
    rest = [at - counted[requests_per_minute] for at in counted[requests_per_minute:]]
    assert (len(rest) - 1) / rest[-1] * 60 >= 0.99 * requests_per_minute


@pytest.mark.parametrize("requests_per_minute", [1, 3, 10, 99, 1_000])
def test_small_limits_are_used_in_full(requests_per_minute: int) -> None:
    """A small limit loses nothing to rounding, and is kept too."""
    number = min(requests_per_minute * 20, 3_000)
    limiter = LocalLimiter(Limits(requests_per_minute=requests_per_minute))
    moments = run(crowd(limiter, number))
    assert fullest(moments) <= requests_per_minute
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
    """If the first in line gives up, the next one gets the answer, and the grant in the pace."""
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
    """However many waiters are cancelled, whenever, the next one waits no longer than its grant."""

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
async def test_a_newcomer_does_not_overtake_a_slot_given() -> None:
    """A caller that arrives as a slot is released waits behind the others."""
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
async def test_cancelled_as_a_slot_is_given() -> None:
    """A slot given to a waiter that is cancelled in the same moment goes to the next one."""
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
async def test_cancelled_before_a_slot_is_given() -> None:
    """A slot is not given to a waiter that was cancelled a moment before."""
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
    """A caller that is cancelled during a pause costs the others nothing after it."""
    limiter = LocalLimiter(Limits(requests_per_minute=10))
    limiter.pause(60.0, await limiter.request())
    waiting = [asyncio.create_task(limiter.request()) for _ in range(5)]
    await asyncio.sleep(1)
    for task in waiting:
        task.cancel()
    assert (await limiter.request()).granted_at == pytest.approx(60, abs=0.01)


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


@virtual
async def test_repr() -> None:
    """A limiter shows its limits and the slots in use."""
    limiter = LocalLimiter(Limits(requests_per_minute=7, concurrent_tasks=3))
    assert (limiter.slots_in_use, limiter.effective_tasks) == (0, 3)
    await limiter.slot()
    assert "requests_per_minute=7" in repr(limiter)
    assert repr(limiter).endswith("slots in use: 1>")
