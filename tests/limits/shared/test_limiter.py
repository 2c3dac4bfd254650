"""The engine-neutral part, with the engine in memory, on virtual time."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kling_async import KlingClient, MasterTextToVideo, TaskRef
from kling_async.errors import ConfigurationError, LimiterError
from kling_async.limits.base import Limits
from kling_async.limits.shared.backend import PauseStatus
from kling_async.limits.shared.limiter import SharedLimiter, name_of
from kling_async.limits.shared.memory import MemoryLimitsBackend
from kling_async.limits.shared.schedule import GRANT_LIFETIME
from kling_async.testing.clock import VirtualLoop
from tests.limits.conftest import crowd, fullest, granted

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from kling_async.limits.base import Permit, Slot
    from kling_async.limits.shared.availability import OnUnavailable
    from kling_async.limits.shared.backend import LeaseStatus, LeaseUpdate, Reservation
    from kling_async.limits.shared.schedule import RequestSchedule
    from kling_async.limits.shared.window import Report
    from tests.conftest import Emulate
    from tests.limits.conftest import Share

pytestmark = pytest.mark.virtual_time

_T = TypeVar("_T")

REF = TaskRef("kling-2-1", "task_1")
FOX = MasterTextToVideo("a fox")
FULL = Limits()
FAST = Limits(60_000, 1_000)  # a thousand a second


def run(main: Coroutine[object, object, _T]) -> _T:
    """Run on a virtual loop of its own."""
    with asyncio.Runner(debug=False, loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


async def crowds(
    engines: list[MemoryLimitsBackend],
    limits: Limits,
    seconds: float,
    waiters: int = 60,
    **options: Any,  # noqa: ANN401 - the limiter's
) -> list[list[float]]:
    """Let one process for each engine ask without end; give the moments of each."""
    moments: list[list[float]] = [[] for _ in engines]
    limiters = [
        SharedLimiter(engine, limits=limits, **{"recovery_delay": 0, **options})
        for engine in engines
    ]
    async with asyncio.TaskGroup() as group:
        for limiter, mine in zip(limiters, moments, strict=True):
            group.create_task(crowd(limiter, waiters, now() + seconds, mine))
    for limiter in limiters:
        await limiter.close()
    return moments


@pytest.mark.parametrize("requests_per_minute", [10_000, 1_000, 150, 10])
def test_four_processes_keep_one_limit(requests_per_minute: int) -> None:
    """Four busy processes stay within the limit in any minute, use 97 % and get equal shares."""

    async def main() -> list[list[float]]:
        engine = MemoryLimitsBackend()
        seconds = 130 if requests_per_minute > 100 else 4_000
        return await crowds([engine] * 4, Limits(requests_per_minute), seconds, 30)

    shares = run(main())
    moments = sorted(moment for share in shares for moment in share)
    assert fullest(moments) <= requests_per_minute
    assert (len(moments) - 1) / (moments[-1] - moments[0]) * 60 >= 0.97 * requests_per_minute
    equal = len(moments) / 4
    assert all(abs(len(share) - equal) <= max(2, 0.1 * equal) for share in shares)


def test_calls_do_not_grow_with_the_waiters() -> None:
    """At 10,000 a minute, four busy processes call the engine less than once in ten requests."""

    async def main() -> tuple[int, int]:
        engine = MemoryLimitsBackend()
        shares = await crowds([engine] * 4, FULL, 30)
        return engine.calls, sum(map(len, shares))

    calls, admitted = run(main())
    assert calls / admitted < 0.1


@pytest.mark.parametrize("processes", [1, 4])
def test_a_round_trip_costs_no_throughput(processes: int) -> None:
    """With an engine 30 ms away as much is admitted as with one next door."""

    async def main(round_trip: float) -> int:
        engine = MemoryLimitsBackend(round_trip=round_trip)
        return sum(map(len, await crowds([engine] * processes, FULL, 30)))

    assert run(main(0.03)) >= 0.995 * run(main(0.0))


@pytest.mark.slow
def test_a_far_process_gets_its_share() -> None:
    """Who is 50 ms away from the engine gets as much as those who are next to it."""

    class Far(MemoryLimitsBackend):
        async def reserve(self, number: int, report: Report, pace: RequestSchedule) -> Reservation:
            await asyncio.sleep(0.05)
            return await engine.reserve(number, report, pace)

    engine = MemoryLimitsBackend()
    for limits in (FULL, Limits(60)):

        async def main(limits: Limits = limits) -> list[list[float]]:
            engine.lose_state()
            seconds = 3_000 / limits.requests_per_minute * 60
            return await crowds([engine, engine, Far()], limits, seconds, 20)

        shares = [len(share) for share in run(main())]
        assert min(shares) > 0.95 * sum(shares) / 3


@pytest.mark.slow
def test_many_processes() -> None:
    """Thirty processes share a limit evenly, too, with a call for every few requests."""

    async def main() -> tuple[list[list[float]], int]:
        engine = MemoryLimitsBackend()
        return await crowds([engine] * 30, FULL, 61, 20), engine.calls

    shares, calls = run(main())
    moments = [moment for share in shares for moment in share]
    assert fullest(moments) <= 10_000
    assert len(moments) / 61 * 60 >= 0.97 * 10_000
    assert min(map(len, shares)) > 0.8 * len(moments) / 30
    assert calls < 0.3 * len(moments)


CROWD = st.lists(
    st.tuples(
        st.integers(0, 2),  # which process
        st.floats(0, 30),  # when it asks
        st.one_of(st.none(), st.floats(0, 20)),  # its patience
    ),
    min_size=1,
    max_size=40,
)


@given(
    people=CROWD,
    requests_per_minute=st.sampled_from([1, 6, 60, 600, 6_000]),
    round_trip=st.sampled_from([0.0, 0.03, 0.3]),
)
@settings(max_examples=60, deadline=None)
def test_cancelled_waiters(
    people: list[tuple[int, float, float | None]], requests_per_minute: int, round_trip: float
) -> None:
    """However waiters come and give up, the limit holds and whoever stays is admitted."""

    async def main() -> list[float]:
        engine = MemoryLimitsBackend(round_trip=round_trip)
        limits = Limits(requests_per_minute)
        limiters = [SharedLimiter(engine, limits=limits, recovery_delay=0) for _ in range(3)]
        moments = []

        async def one(which: int, start: float, patience: float | None) -> None:
            await asyncio.sleep(start)
            try:
                async with asyncio.timeout(patience):
                    moments.append(await granted(limiters[which]))
            except TimeoutError:
                pass

        async with asyncio.TaskGroup() as group:
            for person in people:
                group.create_task(one(*person))
        for limiter in limiters:
            await limiter.close()
        return moments

    moments = run(main())
    assert len(moments) >= sum(patience is None for *_, patience in people)
    assert fullest(moments) <= requests_per_minute


async def test_first_come_first_served() -> None:
    """In one process permits go out in the order in which they were asked for."""
    limiter = SharedLimiter(MemoryLimitsBackend(), limits=Limits(600), recovery_delay=0)
    order: list[int] = []

    async def one(number: int) -> None:
        await asyncio.sleep(number * 0.03)
        await limiter.request()
        order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(100):
            group.create_task(one(number))
    assert order == list(range(100))
    await limiter.close()


async def test_turns_are_handed_out_together(share: Share) -> None:
    """Turns that lie close together are handed out at once, with the last of them, to spare CPU."""
    limiter = share(MemoryLimitsBackend(), Limits(6_000))  # a turn every 10 ms
    begun = await granted(limiter)
    moments = await asyncio.gather(*(granted(limiter) for _ in range(10)))
    assert len(set(moments)) <= 4
    assert min(moments) - begun < 0.01 + 0.06
    alone = [await granted(limiter) for _ in range(5)]
    assert len(set(alone)) == 5
    assert alone[-1] - moments[-1] == pytest.approx(5 * 0.01, abs=0.001)
    limiter = share(MemoryLimitsBackend(), Limits(300))  # a turn every 0.2 s
    await granted(limiter)
    begun = now()
    moments = await asyncio.gather(*(granted(limiter) for _ in range(3)))
    assert [moment - begun for moment in moments] == pytest.approx([0.2, 0.4, 0.6], abs=0.001)


async def test_a_cancelled_waiters_turn_goes_to_the_next(share: Share) -> None:
    """Whoever is next in line gets the turn of one who gives up, at no cost of time."""
    limiter = share(MemoryLimitsBackend(), Limits(60))
    await granted(limiter)
    first, second = (asyncio.create_task(granted(limiter)) for _ in range(2))
    await asyncio.sleep(0.5)
    first.cancel()
    assert await second == pytest.approx(1.0, abs=0.05)


class Canceller(MemoryLimitsBackend):
    """Cancels a task with the answer, or between what that gives it and its waking."""

    victim: asyncio.Task[Any] | None = None
    at_once = False

    async def reserve(self, number: int, report: Report, pace: RequestSchedule) -> Reservation:
        try:
            return await super().reserve(number, report, pace)
        finally:
            self._last()

    async def update_leases(self, change: LeaseUpdate) -> LeaseStatus:
        try:
            return await super().update_leases(change)
        finally:
            self._last()

    def _last(self) -> None:
        if self.victim is not None and self.at_once:
            self.victim.cancel()
        elif self.victim is not None:
            asyncio.get_running_loop().call_soon(self.victim.cancel)
        self.victim = None


@pytest.mark.parametrize("gone", [True, False])
async def test_giving_up_as_the_answer_comes(share: Share, *, gone: bool) -> None:
    """Who gives up in the moment of an answer is passed over, be it a good one or not."""
    engine = Canceller()
    engine.at_once, engine.unreachable = True, gone
    limiter = share(engine, FAST, on_unavailable="raise")
    for call in (limiter.request, limiter.slot):
        first: asyncio.Task[object] = asyncio.create_task(call())
        second: asyncio.Task[object] = asyncio.create_task(call())
        engine.victim = first
        await asyncio.wait([first, second])
        assert first.cancelled()
        assert isinstance(second.exception(), LimiterError) is gone
    assert limiter.slots_in_use == (0 if gone else 1)


async def test_a_turn_given_in_the_moment_of_a_cancellation(share: Share) -> None:
    """A turn handed to one who is cancelled in the same moment goes to the next in line."""
    engine = Canceller()
    limiter = share(engine, FAST)
    first = engine.victim = asyncio.create_task(granted(limiter))
    await asyncio.wait([first])
    assert first.cancelled()
    assert await granted(limiter) == pytest.approx(0.0, abs=0.001)
    assert engine.calls == 1

    await asyncio.sleep(1)
    first = engine.victim = asyncio.create_task(granted(limiter))
    second = asyncio.create_task(granted(limiter))
    assert await second == pytest.approx(1.0, abs=0.001)
    assert first.cancelled()
    assert engine.calls == 2


async def test_a_turn_whose_waiter_gave_up_is_free_for_others(share: Share) -> None:
    """A process that wants no turn any more does not keep the one that it has reserved."""
    engine = MemoryLimitsBackend()
    one, other = share(engine, Limits(1)), share(engine, Limits(1))
    await granted(one)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10):
            await granted(one)  # it has a turn in a minute
    assert await granted(other) < 130


@pytest.mark.parametrize(("wait", "calls"), [(GRANT_LIFETIME / 2, 1), (GRANT_LIFETIME * 2, 2)])
async def test_a_turn_that_nobody_wants(share: Share, wait: float, calls: int) -> None:
    """It is kept for a moment, and then lost: later it would crowd another minute."""
    engine = MemoryLimitsBackend()
    limiter = share(engine, FAST)
    waiters = [asyncio.create_task(granted(limiter)) for _ in range(10)]
    await asyncio.sleep(0.0005)  # one is admitted, the others' turns are on their way
    for waiter in waiters[2:]:
        waiter.cancel()
    await asyncio.sleep(wait)
    await granted(limiter)
    assert engine.calls == calls


async def test_a_pause_is_everybodys(share: Share) -> None:
    """After a refusal in one process, no process admits a request before the pause is over."""
    engine = MemoryLimitsBackend(round_trip=0.01)
    one, other = share(engine, FAST), share(engine, FAST)
    permit = await one.request()
    assert one.pause(30.0, permit)
    assert await granted(one) == pytest.approx(30, abs=0.1)

    assert one.pause(30.0, await one.request())
    await asyncio.sleep(0.02)
    assert await granted(other) == pytest.approx(60, abs=0.2)


async def test_turns_at_hand_are_void_in_a_pause(share: Share) -> None:
    """A pause stops also those whose turns were reserved before it, in other processes, too."""
    engine = MemoryLimitsBackend()
    one, other = share(engine, FULL), share(engine, FULL)
    mine: list[float] = []
    others: list[float] = []
    crowds = [
        asyncio.create_task(crowd(limiter, 50, 20.0, moments))
        for limiter, moments in ((one, mine), (other, others))
    ]
    await asyncio.sleep(2.03)
    one.pause(10.0, await one.request())
    begun = now()
    await asyncio.gather(*crowds)
    assert not [moment for moment in mine if begun < moment < begun + 10]
    # The other process hears of it with its next reservation.
    assert not [moment for moment in others if begun + 0.3 < moment < begun + 10]
    assert fullest(mine + others) <= 10_000


async def test_one_storm_is_one_pause(share: Share) -> None:
    """A refusal of a request that was admitted before a pause began begins no other one."""
    engine = MemoryLimitsBackend()
    one, other = share(engine, FAST), share(engine, FAST)
    early = [await limiter.request() for limiter in (one, one, other, other)]
    await asyncio.sleep(1)
    assert [one.pause(5.0, early[0]), one.pause(4.0, early[1])] == [True, False]
    await asyncio.sleep(0.1)
    # It has not heard of the pause and begins its own, of which the engine takes no notice.
    assert other.pause(2.0, early[2])
    assert not other.pause(1.0, early[3])
    assert (await engine.peek()).pause == pytest.approx(4.9, abs=0.01)
    assert await granted(other) == pytest.approx(6, abs=0.1)
    late = await one.request()
    assert other.pause(3.0, await other.request())
    await asyncio.sleep(0.1)
    assert (await engine.peek()).pause == pytest.approx(2.9, abs=0.1)
    assert one.pause(3.0, late)


@pytest.mark.parametrize("delay", [-1.0, float("inf"), float("nan")])
async def test_pauses_that_make_no_sense(share: Share, delay: float) -> None:
    """They are refused."""
    limiter = share(MemoryLimitsBackend(), FAST)
    with pytest.raises(ConfigurationError, match="0 s or more"):
        limiter.pause(delay, await limiter.request())


async def test_a_pause_that_grows_a_little(share: Share) -> None:
    """What a refusal of the same storm adds is waited for, though it is not worth an event."""
    engine = MemoryLimitsBackend()
    limiter = share(engine, FAST)
    first, second = await limiter.request(), await limiter.request()
    await asyncio.sleep(0.1)
    assert limiter.pause(5.0, first)
    assert not limiter.pause(5.3, second)
    assert await granted(limiter) >= 5.3


async def test_a_pause_that_cannot_be_told_at_once(share: Share) -> None:
    """A pause that begins while the engine is away is told when it is back."""
    engine = MemoryLimitsBackend()
    limiter = share(engine, FAST)
    permit = await limiter.request()
    engine.unreachable = True
    limiter.pause(10.0, permit)
    await asyncio.sleep(3)
    engine.unreachable = False
    await asyncio.sleep(2)
    assert (await engine.peek()).pause == pytest.approx(5, abs=0.1)


async def test_a_pause_that_is_over_is_not_told(share: Share) -> None:
    """A pause that has ended before the engine is back is nobody's business any more."""
    engine = MemoryLimitsBackend()
    limiter = share(engine, FAST)
    permit = await limiter.request()
    engine.unreachable = True
    limiter.pause(1.0, permit)
    await asyncio.sleep(3)
    engine.unreachable = False
    calls = engine.calls
    await asyncio.sleep(3)
    assert engine.calls == calls


@pytest.mark.parametrize("skew", [-1.5, 1.5, 1e9])
def test_the_engines_clock_alone_counts(skew: float) -> None:
    """It does not matter by how much a process's clock differs from the engine's."""

    async def main() -> list[list[float]]:
        zero = asyncio.get_running_loop().time()
        loop = asyncio.get_running_loop()
        engine = MemoryLimitsBackend(lambda: loop.time() - zero + skew)
        return await crowds([engine] * 2, FULL, 30)

    shares = run(main())
    assert sum(map(len, shares)) >= 0.97 * 5_000
    assert abs(len(shares[0]) - len(shares[1])) < 0.1 * len(shares[0])


async def test_slots_are_counted_together(share: Share) -> None:
    """So many slots as the limit says are given to all processes together."""
    engine = MemoryLimitsBackend()
    limits = Limits(concurrent_tasks=3)
    one, other = share(engine, limits), share(engine, limits)
    slots = [await one.slot(), await one.slot(), await other.slot()]
    waiting = asyncio.create_task(other.slot())
    await asyncio.sleep(5)
    assert not waiting.done()
    begun = now()
    slots[0].release()
    await waiting
    assert now() - begun < 0.15
    assert (one.slots_in_use, other.slots_in_use) == (1, 2)
    assert len((await engine.peek()).leases) == 3


@pytest.mark.slow
def test_freed_slots_go_to_all_processes_alike() -> None:
    """A process that gives slots back has no better chance of them than one that has none."""

    async def main() -> list[int]:
        engine = MemoryLimitsBackend(round_trip=0.001)
        limits = Limits(concurrent_tasks=20)
        limiters = [SharedLimiter(engine, limits=limits, recovery_delay=0) for _ in range(3)]
        counts = [0, 0, 0]
        dice = Random(1)  # noqa: S311 - durations, not secrets

        async def one(which: int) -> None:
            await asyncio.sleep(which * 1.0)  # the first has them all
            while now() < 150:
                slot = await limiters[which].slot()
                counts[which] += 1
                await asyncio.sleep(dice.uniform(3, 6))
                slot.release()

        async with asyncio.TaskGroup() as group:
            for which in range(3):
                for _ in range(30):
                    group.create_task(one(which))
        for limiter in limiters:
            await limiter.close()
        return counts

    counts = run(main())
    assert sum(counts) > 0.95 * 150 * 20 / 4.5
    assert min(counts) > 0.8 * sum(counts) / 3


@given(
    people=st.lists(
        st.tuples(st.integers(0, 2), st.floats(0, 5), st.floats(0, 10), st.floats(0, 5)),
        min_size=1,
        max_size=25,
    ),
    concurrent_tasks=st.integers(1, 4),
    round_trip=st.sampled_from([0.0, 0.05]),
)
@settings(max_examples=40, deadline=None)
def test_slots_never_leak(
    people: list[tuple[int, float, float, float]], concurrent_tasks: int, round_trip: float
) -> None:
    """However waiters and holders are cancelled, the limit holds and no slot is lost."""

    async def main() -> None:
        engine = MemoryLimitsBackend(round_trip=round_trip)
        limits = Limits(concurrent_tasks=concurrent_tasks)
        limiters = [SharedLimiter(engine, limits=limits, recovery_delay=0) for _ in range(3)]
        holding = 0

        async def one(which: int, start: float, patience: float, work: float) -> None:
            nonlocal holding
            await asyncio.sleep(start)
            slot: Slot | None = None
            try:
                async with asyncio.timeout(patience):
                    slot = await limiters[which].slot()
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
            for person in people:
                group.create_task(one(*person))
        await asyncio.sleep(0.5)
        assert not (await engine.peek()).leases
        assert [limiter.slots_in_use for limiter in limiters] == [0, 0, 0]
        for limiter in limiters:
            await limiter.close()

    run(main())


async def test_a_slot_given_in_the_moment_of_a_cancellation(share: Share) -> None:
    """A slot handed to one who is cancelled in the same moment goes to the next in line."""
    engine = Canceller()
    limiter = share(engine, Limits(concurrent_tasks=1))
    first, second = (asyncio.create_task(limiter.slot()) for _ in range(2))
    engine.victim = first
    await second
    assert first.cancelled()
    assert engine.calls == 1
    assert len((await engine.peek()).leases) == 1


async def test_a_slot_that_nobody_wants_any_more(share: Share) -> None:
    """A slot handed to one who is cancelled in the same moment is given back if nobody waits."""
    engine = Canceller()
    limiter = share(engine, Limits(concurrent_tasks=1))
    first = engine.victim = asyncio.create_task(limiter.slot())
    await asyncio.wait([first])
    await asyncio.sleep(0.1)
    assert first.cancelled()
    assert limiter.slots_in_use == 0
    assert not (await engine.peek()).leases


async def test_a_lease_is_kept_under_its_task(share: Share) -> None:
    """As soon as its task is known, a lease is kept under that, and whoever attaches adopts it."""
    engine = MemoryLimitsBackend()
    one, other = share(engine, FAST), share(engine, FAST)
    slot = await one.slot()
    slot.confirm(REF)
    await asyncio.sleep(0.1)
    (lease,) = (await engine.peek()).leases
    assert lease.key == str(REF)
    adopted = other.adopt(REF)
    await asyncio.sleep(0.1)
    (again,) = (await engine.peek()).leases
    assert again.key == str(REF)
    assert again.holder != lease.holder
    slot.release()  # it has seen the task end: so it is over for everybody
    await asyncio.sleep(0.1)
    assert not (await engine.peek()).leases
    adopted.release()
    await asyncio.sleep(0.1)
    assert not (await engine.peek()).leases


async def test_adopting_what_nobody_holds(share: Share) -> None:
    """A task found running is counted even over the limit, and its end then frees no slot."""
    engine = MemoryLimitsBackend()
    limiter = share(engine, Limits(concurrent_tasks=1))
    first = await limiter.slot()
    adopted = limiter.adopt(REF)
    await asyncio.sleep(0.1)
    assert len((await engine.peek()).leases) == 2
    waiting = asyncio.create_task(limiter.slot())
    first.release()
    await asyncio.sleep(1)
    assert not waiting.done()
    adopted.release()
    await waiting


async def test_a_dead_process_frees_its_slots_after_the_lifetime(share: Share) -> None:
    """What a dead process held is free again one presumed lifetime after it was confirmed."""
    engine = MemoryLimitsBackend()
    limits = Limits(concurrent_tasks=1, presumed_lifetime=100)
    dead, other = share(engine, limits), share(engine, limits)
    slot = await dead.slot()
    await asyncio.sleep(50)
    slot.confirm(REF)
    await asyncio.sleep(1)
    await dead.close()  # which frees nothing
    await other.slot()
    assert now() == pytest.approx(150, abs=0.2)


async def test_a_task_that_is_asked_after_keeps_its_slot(share: Share) -> None:
    """As long as the service says that a task runs, its slot does not expire."""
    engine = MemoryLimitsBackend()
    limits = Limits(concurrent_tasks=1, presumed_lifetime=100)
    one, other = share(engine, limits), share(engine, limits)
    slot = await one.slot()
    waiting = asyncio.create_task(other.slot())
    calls = engine.calls
    for _ in range(300):
        slot.confirm(REF)
        await asyncio.sleep(1)
    assert not waiting.done()
    waiting.cancel()
    # Not each of them is told: 3,000 are the other's looks for a slot, 150 our heartbeats.
    assert engine.calls - calls < 3_000 + 150 + 30
    await asyncio.sleep(90)
    assert one.slots_in_use == 1
    await asyncio.sleep(11)
    assert one.slots_in_use == 0
    slot.confirm(REF)  # too late
    slot.release()
    assert one.slots_in_use == 0


async def test_a_slot_that_ends_here_goes_on_elsewhere(share: Share) -> None:
    """A process that has not asked after a task for long ends no lease that another renews."""
    engine = MemoryLimitsBackend()
    limits = Limits(concurrent_tasks=1, presumed_lifetime=10)
    one, other, third = (share(engine, limits) for _ in range(3))
    (await one.slot()).confirm(REF)
    await asyncio.sleep(5)
    adopted = other.adopt(REF)
    waiting = asyncio.create_task(third.slot())
    for _ in range(60):
        adopted.confirm(REF)
        await asyncio.sleep(0.5)
    assert one.slots_in_use == 0
    assert not waiting.done()
    adopted.release()
    await waiting


async def test_a_heartbeat_is_one_call(share: Share) -> None:
    """A process that holds 200 slots and does nothing calls the engine every two seconds."""
    engine = MemoryLimitsBackend()
    limiter = share(engine, FAST)
    async with asyncio.TaskGroup() as group:
        for _ in range(200):
            group.create_task(limiter.slot())
    calls = engine.calls
    await asyncio.sleep(20)
    assert 8 <= engine.calls - calls <= 12


async def test_those_who_wait_ask_together(share: Share) -> None:
    """However many wait for a slot, a process asks for all of them, ten times a second."""
    engine = MemoryLimitsBackend()
    limiter = share(engine, Limits(concurrent_tasks=1))
    await limiter.slot()
    calls = engine.calls
    waiting = []
    for _ in range(100):
        waiting.append(asyncio.create_task(limiter.slot()))
        await asyncio.sleep(0.01)
    assert 8 <= engine.calls - calls <= 12
    for one in waiting:
        one.cancel()


async def test_looking(share: Share) -> None:
    """A limiter tells what all use together; while the engine is away, it does not wait for it."""
    engine = MemoryLimitsBackend()
    one, other = share(engine, FAST), share(engine, FAST)
    (await one.slot()).confirm(REF)
    await other.slot()
    await asyncio.sleep(0.1)
    assert str(REF) in {lease.key for lease in (await one.peek()).leases}
    assert len((await other.peek()).leases) == 2
    engine.unreachable = True
    with pytest.raises(LimiterError, match="at MemoryLimitsBackend cannot be read: the engine"):
        await one.peek()


async def test_who_holds_nothing_is_silent(share: Share, leftovers: Callable[[], set[str]]) -> None:
    """A process that holds no slot and wants none calls nobody, and begins anew when it does."""
    engine = MemoryLimitsBackend()
    limiter = share(engine, FAST)
    (await limiter.slot()).release()
    await asyncio.sleep(0.1)
    assert not leftovers()
    calls = engine.calls
    await asyncio.sleep(100)
    assert engine.calls == calls
    await limiter.slot()
    await asyncio.sleep(5)
    assert engine.calls > calls + 1


async def test_slots_are_taken_and_given_back_in_bulk(share: Share) -> None:
    """Twenty slots are taken with one call, and given back with one."""
    engine = MemoryLimitsBackend()
    limiter = share(engine, FAST)
    slots = await asyncio.gather(*(limiter.slot() for _ in range(20)))
    assert engine.calls == 1
    for slot in slots:
        slot.release()
    await asyncio.sleep(0.1)
    assert engine.calls == 2
    assert not (await engine.peek()).leases


async def test_an_engine_that_forgets_is_told_what_is_held(share: Share) -> None:
    """After a failover to an empty engine, processes tell what they hold before any is given."""
    engine = MemoryLimitsBackend()
    limits = Limits(concurrent_tasks=3, presumed_lifetime=1_000)
    one, other = (share(engine, limits, recovery_delay=None) for _ in range(2))
    await one.slot()
    (await one.slot()).confirm(REF)
    await other.slot()
    begun = now()
    waiting = asyncio.create_task(other.slot())
    await asyncio.sleep(1)
    engine.lose_state()
    await asyncio.sleep(20)
    assert not waiting.done()
    leases = (await engine.peek()).leases
    assert len(leases) == 3
    assert str(REF) in {lease.key for lease in leases}
    assert max(lease.held_for for lease in leases) == pytest.approx(now() - begun, abs=0.1)
    assert max(lease.ends_in for lease in leases) == pytest.approx(1_000 - 21, abs=0.2)
    waiting.cancel()


async def test_a_new_engine_gives_nothing_at_first(share: Share) -> None:
    """What nobody has ever used begins with a rest: a second for requests, a few for slots."""
    limiter = share(MemoryLimitsBackend(), FULL, recovery_delay=None)
    assert await granted(limiter) == pytest.approx(1.16, abs=0.01)
    await limiter.slot()
    assert 3.5 < now() < 3.7


@pytest.mark.slow
@given(seconds=st.lists(st.floats(0.1, 25), min_size=1, max_size=4))
@settings(max_examples=6, deadline=None)
def test_no_minute_is_over_the_limit_when_the_engine_forgets(seconds: list[float]) -> None:
    """Whenever an engine loses all that it knew, no minute is over the limit."""

    async def main() -> list[float]:
        engine = MemoryLimitsBackend(round_trip=0.01)

        async def lose() -> None:
            for wait in seconds:
                await asyncio.sleep(wait)
                engine.lose_state()

        losing = asyncio.create_task(lose())
        shares = await crowds([engine] * 3, Limits(1_000), 100, 15, recovery_delay=None)
        await losing
        return [moment for share in shares for moment in share]

    moments = run(main())
    assert fullest(moments) <= 1_000
    # Each time about a second is lost.
    assert len(moments) > 0.97 * 1_000 * (100 - 1.5 * (1 + len(seconds))) / 60


async def test_turns_that_the_engine_has_forgotten(share: Share) -> None:
    """A turn far ahead is used only if the engine still knows of it: others may have it, too."""
    engine = MemoryLimitsBackend()
    limits = Limits(6)  # a turn every ten seconds
    one, other = (share(engine, limits, recovery_delay=None) for _ in range(2))
    await granted(one)
    begun = now()
    asked = [asyncio.create_task(granted(one))]
    await asyncio.sleep(5)
    engine.lose_state()
    asked.append(asyncio.create_task(granted(other)))
    first, second = sorted(await asyncio.gather(*asked))
    assert begun + 10 < first < begun + 5 + 11.5
    assert second - first > 9.7


async def test_turns_of_an_engine_that_is_away(share: Share) -> None:
    """A turn far ahead is not used while the engine is away: another may be giving it anew."""
    engine = MemoryLimitsBackend()
    limiter = share(engine, Limits(6))  # a turn every ten seconds
    begun = await granted(limiter)
    waiting = asyncio.create_task(granted(limiter))
    await asyncio.sleep(5)
    engine.unreachable = True
    await asyncio.sleep(10)
    assert not waiting.done()
    engine.unreachable = False
    assert await waiting < begun + 27


class Breaking:
    """Takes an engine away for a while, again and again."""

    def __init__(self, engine: MemoryLimitsBackend, *waits: float) -> None:
        self._engine = engine
        self._waits = waits

    async def run(self) -> None:
        for wait in self._waits:
            await asyncio.sleep(wait)
            self._engine.unreachable = not self._engine.unreachable


async def test_waiting_for_the_engine(share: Share, caplog: pytest.LogCaptureFixture) -> None:
    """By default everything waits while the engine is away, and goes on by itself."""
    engine = MemoryLimitsBackend()
    limiter = share(engine, FAST)
    await granted(limiter)
    engine.unreachable = True
    request, slot = asyncio.create_task(granted(limiter)), asyncio.create_task(limiter.slot())
    await asyncio.sleep(30)
    assert not request.done()
    assert not slot.done()
    engine.unreachable = False
    assert 30 <= await request <= 31.1
    await slot
    assert now() <= 31.2
    lost, back = (record.getMessage() for record in caplog.records)
    assert lost == (
        "the limits at MemoryLimitsBackend cannot be kept: the backend in memory is unreachable;"
        " everything waits until it is back"
    )
    assert back == "the limits at MemoryLimitsBackend are kept again"


async def test_releases_are_told_when_the_engine_is_back(share: Share) -> None:
    """A slot that was given back while the engine was away is free when it is back."""
    engine = MemoryLimitsBackend()
    limiter = share(engine, FAST)
    slot, other = await limiter.slot(), await limiter.slot()
    engine.unreachable = True
    slot.release()
    other.confirm(REF)
    await asyncio.sleep(10)
    engine.unreachable = False
    await asyncio.sleep(2)
    assert [lease.key for lease in (await engine.peek()).leases] == [str(REF)]


async def test_an_answer_that_is_lost(share: Share) -> None:
    """Slots that were given with an answer that got lost are given back."""
    engine = MemoryLimitsBackend(round_trip=0.2)
    limiter = share(engine, Limits(concurrent_tasks=1))
    waiting = asyncio.create_task(limiter.slot())
    await asyncio.sleep(0.15)  # it has been given, and the answer is under way
    assert len(engine._stored.leases) == 1  # noqa: SLF001 - nobody else is told
    engine.unreachable = True
    await asyncio.sleep(1)
    engine.unreachable = False
    await waiting
    assert now() < 5  # and not after the lifetime of the one that got lost
    await asyncio.sleep(1)
    assert limiter.slots_in_use == 1
    assert len((await engine.peek()).leases) == 1


async def test_raising(share: Share) -> None:
    """With on_unavailable="raise" everybody who waits is told, each with an error of its own."""
    engine = MemoryLimitsBackend()
    limiter = share(engine, FAST, on_unavailable="raise")
    await limiter.request()
    engine.unreachable = True
    told = await asyncio.gather(
        *(limiter.request() for _ in range(3)),
        *(limiter.slot() for _ in range(2)),
        return_exceptions=True,
    )
    errors = [one for one in told if isinstance(one, LimiterError)]
    assert len({*map(id, errors)}) == 5
    assert all(error.retryable and not error.may_have_charged for error in errors)
    engine.unreachable = False
    await limiter.request()
    await limiter.slot()


async def test_a_local_share(share: Share) -> None:
    """With on_unavailable="local" a process keeps to its share while the engine is away."""
    engine = MemoryLimitsBackend()
    limits = Limits(600, 8)
    limiter = share(engine, limits, on_unavailable="local", share=0.25)
    slots = [await limiter.slot()]
    engine.unreachable = True
    moments: list[float] = []
    asking = asyncio.create_task(crowd(limiter, 10, now() + 200, moments))
    waiting = [asyncio.create_task(limiter.slot()) for _ in range(3)]
    await asyncio.sleep(100)
    assert fullest(moments) <= 150
    assert len(moments) >= 0.9 * 150 * 100 / 60
    assert [task.done() for task in waiting] == [True, False, False]
    slots[0].release()
    await asyncio.sleep(0)
    await waiting[1]  # it takes the place of the one that was released
    engine.unreachable = False
    await asyncio.gather(asking, waiting[2])
    assert len([moment for moment in moments if moment > 102]) > 0.9 * 600 * 98 / 60
    assert len((await engine.peek()).leases) == 3


async def test_a_local_share_for_few_requests(share: Share) -> None:
    """A process that asks now and then, too, returns to an engine that is back."""
    engine = MemoryLimitsBackend()
    limiter = share(engine, Limits(600), on_unavailable="local", share=0.5)
    engine.unreachable = True
    for _ in range(5):
        await limiter.request()
        await asyncio.sleep(0.5)
    engine.unreachable = False
    for _ in range(5):
        await asyncio.sleep(0.5)
        await limiter.request()
    assert (await engine.peek()).requests >= 3


async def test_a_turn_of_a_local_share_that_is_not_used(share: Share) -> None:
    """It counts for neither limit for longer than a minute."""
    engine = MemoryLimitsBackend()
    limiter = share(engine, Limits(60), on_unavailable="local", share=0.1)
    engine.unreachable = True
    for _ in range(5):
        await granted(limiter)
    waiting = asyncio.create_task(limiter.request())
    local = limiter._local  # noqa: SLF001 - to be cancelled in the moment of its grant
    assert local is not None
    asked = local.request

    async def request() -> Permit:
        permit = await asked()
        waiting.cancel()
        return permit

    local.request = request  # type: ignore[method-assign]
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    await asyncio.sleep(1)
    engine.unreachable = False
    await asyncio.sleep(70)
    await granted(limiter)
    assert (await engine.peek()).requests <= 2


async def test_closing_with_a_local_share(share: Share, leftovers: Callable[[], set[str]]) -> None:
    """After closing, a backend that is unavailable is not called any more."""
    engine = MemoryLimitsBackend()
    limiter = share(engine, FAST, on_unavailable="local", share=0.5)
    engine.unreachable = True
    waiting = [asyncio.create_task(limiter.request()) for _ in range(1_000)]
    await asyncio.sleep(0.5)
    assert leftovers()
    await limiter.close()
    await asyncio.wait(waiting)
    assert not leftovers()
    engine.unreachable = False
    await asyncio.sleep(10)
    assert engine.calls == 0
    assert sum(not task.exception() for task in waiting) > 100


async def test_a_local_share_while_an_engine_fails(share: Share) -> None:
    """An engine with a mistake of its own is not asked again and again without a rest."""

    class Failing(MemoryLimitsBackend):
        asked = 0

        async def reserve(self, number: int, report: Report, pace: RequestSchedule) -> Reservation:
            self.asked += 1
            if self.asked > 1:
                raise ZeroDivisionError
            return await super().reserve(number, report, pace)

    engine = Failing()
    limiter = share(engine, Limits(600), on_unavailable="local", share=0.5)
    engine.unreachable = True
    await crowd(limiter, 3, 10.0, [])
    assert 5 <= engine.asked <= 12


async def test_a_pause_that_only_we_know_of(share: Share) -> None:
    """Nothing is reserved in a pause of our own that the engine has not taken over."""

    class Deaf(MemoryLimitsBackend):
        async def pause(self, delay: float, age: float) -> PauseStatus:
            return PauseStatus(began=False, remaining=0.0)

    engine = Deaf()
    limiter = share(engine, FAST)
    limiter.pause(9.0, await limiter.request())
    calls = engine.calls
    assert await granted(limiter) == pytest.approx(9.0, abs=0.1)
    assert engine.calls - calls <= 2


async def test_a_pause_without_the_engine(share: Share) -> None:
    """A process that keeps to its own share pauses, too."""
    engine = MemoryLimitsBackend()
    limiter = share(engine, FAST, on_unavailable="local", share=0.5)
    engine.unreachable = True
    limiter.pause(7.0, await limiter.request())
    begun = now()
    await limiter.request()
    assert now() - begun == pytest.approx(7, abs=0.1)


@pytest.mark.parametrize("processes", [1, 3])
def test_the_bound_with_local_shares(processes: int) -> None:
    """Falling back to shares that are 1 together, and coming back, costs 2 % at most."""

    async def main() -> list[float]:
        engine = MemoryLimitsBackend()
        breaking = asyncio.create_task(Breaking(engine, 40, 30, 20, 5).run())
        options: dict[str, Any] = {"on_unavailable": "local", "share": 1 / processes}
        shares = await crowds([engine] * processes, Limits(1_000), 150, 20, **options)
        await breaking
        return [moment for share in shares for moment in share]

    moments = run(main())
    assert fullest(moments) <= 1_020
    assert len(moments) > 0.93 * 2_500


async def test_an_engine_that_refuses(share: Share) -> None:
    """What will never work is raised at once, whatever is to be done while the engine is away."""

    class Refusing(MemoryLimitsBackend):
        refuses = True

        async def reserve(self, number: int, report: Report, pace: RequestSchedule) -> Reservation:
            if self.refuses:
                raise ConfigurationError("no")
            return await super().reserve(number, report, pace)

        async def update_leases(self, change: LeaseUpdate) -> LeaseStatus:
            if self.refuses:
                raise ConfigurationError("no")
            return await super().update_leases(change)

        async def pause(self, delay: float, age: float) -> PauseStatus:
            raise ConfigurationError("no")

    engine = Refusing()
    limiter = share(engine, FAST)
    for call in (limiter.request, limiter.slot):
        with pytest.raises(ConfigurationError, match="no"):
            await call()
    engine.refuses = False
    limiter.pause(1.0, await limiter.request())
    assert await granted(limiter) == pytest.approx(1.0, abs=0.6)
    await limiter.slot()


async def test_a_local_share_while_an_engine_refuses(share: Share) -> None:
    """Not even an engine that begins to refuse us disturbs a process that keeps to its share."""

    class Turning(MemoryLimitsBackend):
        async def reserve(self, number: int, report: Report, pace: RequestSchedule) -> Reservation:
            if self.unreachable and now() > 5:
                raise ConfigurationError("the password was changed")
            return await super().reserve(number, report, pace)

    engine = Turning()
    limiter = share(engine, Limits(600), on_unavailable="local", share=0.5)
    engine.unreachable = True
    moments: list[float] = []
    await crowd(limiter, 5, 60.0, moments)
    assert len(moments) > 0.9 * 300


async def test_slots_of_an_engine_that_refuses_for_a_while(
    share: Share, caplog: pytest.LogCaptureFixture
) -> None:
    """What is given back while an engine refuses us is told once it does not; it is said once."""

    class Moody(MemoryLimitsBackend):
        refuses = False

        async def update_leases(self, change: LeaseUpdate) -> LeaseStatus:
            if self.refuses:
                raise ConfigurationError("no")
            return await super().update_leases(change)

    engine = Moody()
    limiter = share(engine, FAST)
    slots = [await limiter.slot() for _ in range(3)]
    engine.refuses = True
    slots[0].release()
    with pytest.raises(ConfigurationError, match="no"):
        await limiter.slot()
    await asyncio.sleep(10)
    engine.refuses = False
    await asyncio.sleep(2)
    assert len((await engine.peek()).leases) == 2
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


async def test_an_error_that_cannot_be_copied(share: Share) -> None:
    """An engine may raise errors of any class: who waits is told."""

    class OddError(Exception):
        def __init__(self, one: int, *, other: int) -> None:
            super().__init__(one + other)

    class Odd(MemoryLimitsBackend):
        odd = True

        async def reserve(self, number: int, report: Report, pace: RequestSchedule) -> Reservation:
            raise OddError(1, other=2)

        async def update_leases(self, change: LeaseUpdate) -> LeaseStatus:
            if self.odd:
                raise OddError(1, other=2)
            return await super().update_leases(change)

    engine = Odd()
    limiter = share(engine, FAST)
    for call in (limiter.request, limiter.slot):
        with pytest.raises(OddError, match="3"):
            await call()
    engine.odd = False


async def test_a_mistake_in_an_engine_reaches_whoever_waits(share: Share) -> None:
    """Whatever an engine raises, nobody waits for ever."""

    class Broken(MemoryLimitsBackend):
        broken = True

        def work(self) -> None:
            if self.broken:
                raise ZeroDivisionError

        async def reserve(self, number: int, report: Report, pace: RequestSchedule) -> Reservation:
            self.work()
            return await super().reserve(number, report, pace)

        async def update_leases(self, change: LeaseUpdate) -> LeaseStatus:
            self.work()
            return await super().update_leases(change)

    engine = Broken()
    limiter = share(engine, FAST)
    for call in (limiter.request, limiter.slot):
        with pytest.raises(ZeroDivisionError):
            await call()
    engine.broken = False
    await limiter.request()
    await limiter.slot()


async def test_a_silent_engine(share: Share, caplog: pytest.LogCaptureFixture) -> None:
    """An engine that gives no answer within two seconds is as good as gone."""
    engine = MemoryLimitsBackend(round_trip=100.0)
    limiter = share(engine, FAST, on_unavailable="raise")
    with pytest.raises(LimiterError, match="no answer within 2 s"):
        await limiter.request()
    assert now() == pytest.approx(2, abs=0.01)
    engine.round_trip = 0.0
    await limiter.request()


async def test_a_slow_engine(share: Share) -> None:
    """With answers that come too late nothing is admitted, and it goes on when they are quick."""
    engine = MemoryLimitsBackend(round_trip=0.6)
    patient, other = share(engine, FAST), share(engine, FAST, on_unavailable="raise")
    waiting = asyncio.create_task(granted(patient))
    with pytest.raises(LimiterError, match="answers take too long"):
        await other.request()
    await asyncio.sleep(10)
    assert not waiting.done()
    await patient.slot()  # slots do not mind
    engine.round_trip = 0.1
    assert await waiting < now() + 2
    await other.request()


@pytest.mark.parametrize("on_unavailable", ["raise", "local"])
async def test_a_slow_engine_while_slots_are_held(
    share: Share, on_unavailable: OnUnavailable
) -> None:
    """That answers to calls which do not mind come late does not hide that others do."""
    engine = MemoryLimitsBackend()
    part = 0.5 if on_unavailable == "local" else None
    limiter = share(engine, Limits(600, 2), on_unavailable=on_unavailable, share=part)
    await limiter.request()
    await limiter.slot()
    await limiter.slot()
    waiting = asyncio.create_task(limiter.slot())  # asks all the time
    engine.round_trip = 0.6
    asking = asyncio.create_task(limiter.request())
    await asyncio.sleep(5)
    assert asking.done()
    assert isinstance(asking.exception(), LimiterError) is (on_unavailable == "raise")
    waiting.cancel()


def test_an_engine_that_is_slow_now_and_then() -> None:
    """However slow single answers are, no minute is over the limit, and it goes on."""

    async def main() -> list[float]:
        dice = Random(2)  # noqa: S311 - delays, not secrets

        class Moody(MemoryLimitsBackend):
            async def reserve(
                self, number: int, report: Report, pace: RequestSchedule
            ) -> Reservation:
                await asyncio.sleep(dice.choice([0.0, 0.0, 0.0, 0.2, 0.5]))
                answer = await super().reserve(number, report, pace)
                await asyncio.sleep(dice.choice([0.0, 0.0, 0.0, 0.2, 0.5]))
                return answer

        shares = await crowds([Moody()] * 3, Limits(1_000), 130, 15)
        return [moment for share in shares for moment in share]

    moments = run(main())
    assert fullest(moments) <= 1_000
    assert len(moments) > 0.3 * 1_000 * 130 / 60


def test_a_second_loop() -> None:
    """Slots outlive the loop they were taken on, with what is left of their lifetime."""
    clock = [0.0]

    def engine_time() -> float:
        return clock[0] + asyncio.get_running_loop().time()

    engine = MemoryLimitsBackend(engine_time)
    limiter = SharedLimiter(
        engine, limits=Limits(concurrent_tasks=1, presumed_lifetime=100), recovery_delay=0
    )

    async def first() -> Slot:
        slot = await limiter.slot()
        limiter.pause(90.0, await limiter.request())
        await asyncio.sleep(70)
        clock[0] += now()
        return slot

    async def second() -> tuple[float, float]:
        permit = await granted(limiter)
        await limiter.slot()
        await limiter.close()
        return permit, now()

    held = run(first())
    permit, taken = run(second())
    assert permit == pytest.approx(20, abs=0.1)
    assert taken == pytest.approx(30, abs=0.2)

    async def third() -> None:
        held.release()  # nobody is there who could be told
        clock[0] += 200
        await limiter.slot()
        await limiter.close()

    run(third())


async def test_closing(share: Share, leftovers: Callable[[], set[str]]) -> None:
    """Closing tells what was given back, ends what runs, and tells those who wait."""
    engine = MemoryLimitsBackend()
    limiter = share(engine, Limits(600, 2))
    slots = [await limiter.slot(), await limiter.slot()]
    slots[0].confirm(REF)
    limiter.pause(60.0, await limiter.request())
    waiting = [asyncio.create_task(limiter.request()), asyncio.create_task(limiter.slot())]
    await asyncio.sleep(1)
    slots[1].release()
    await limiter.close()
    assert not leftovers()
    for task in waiting:
        with pytest.raises(LimiterError, match="closed"):
            await task
    assert [lease.key for lease in (await engine.peek()).leases] == [str(REF)]
    slots[0].release()  # remembered, until it is used again
    await limiter.close()
    await limiter.slot()
    await asyncio.sleep(0.2)
    assert len((await engine.peek()).leases) == 1


async def test_calls_while_it_is_being_closed(
    share: Share, leftovers: Callable[[], set[str]]
) -> None:
    """Who comes during the closing is told at once, nobody is left waiting, and it goes on."""
    engine = MemoryLimitsBackend(round_trip=0.1)
    limiter = share(engine, Limits(600, 2))
    slots = [await limiter.slot(), await limiter.slot()]
    permit = await limiter.request()
    waiting = [asyncio.create_task(limiter.slot()), asyncio.create_task(limiter.request())]
    await asyncio.sleep(0)
    slots[0].release()
    closing = [asyncio.create_task(limiter.close()) for _ in range(2)]
    await asyncio.sleep(0.05)
    late = [asyncio.create_task(limiter.slot()), asyncio.create_task(limiter.request())]
    assert limiter.pause(0.5, permit)
    await asyncio.wait(closing)
    assert not leftovers()
    for one in (*waiting, *late):
        with pytest.raises(LimiterError, match="closed"):
            await one
    begun = now()
    await limiter.slot()
    await limiter.request()
    assert now() - begun < 2


def test_a_permit_of_another_loop() -> None:
    """Requests of a loop that has ended count as answered when another one is begun."""
    engine = MemoryLimitsBackend(lambda: 0.0)
    limiter = SharedLimiter(engine, limits=Limits(60), recovery_delay=0)

    async def ask() -> Permit:
        return await limiter.request()

    late = run(ask())
    late.answered()
    permit = run(ask())
    again = run(ask())
    permit.answered()  # it did already
    again.answered()
    run(limiter.close())
    assert run(engine.peek()).requests == 3


def test_after_the_loop_has_begun_to_end() -> None:
    """What comes after the loop's generators have ended is refused, and begins nothing."""
    limiter = SharedLimiter(MemoryLimitsBackend(), limits=Limits(600), recovery_delay=0)

    async def main() -> None:
        permit = await limiter.request()
        await asyncio.sleep(1)
        await asyncio.get_running_loop().shutdown_asyncgens()
        permit.answered()
        for call in (limiter.request, limiter.slot):
            with pytest.raises(LimiterError, match="closed"):
                await call()

    run(main())


def test_closing_on_another_loop() -> None:
    """What was given back on a loop that has ended is told when it is closed on another one."""
    engine = MemoryLimitsBackend(lambda: 0.0)
    limiter = SharedLimiter(engine, limits=FAST, recovery_delay=0)

    async def use() -> None:
        (await limiter.slot()).release()

    run(use())
    assert len(run(engine.peek()).leases) == 1
    run(limiter.close())
    assert not run(engine.peek()).leases


async def test_closing_without_the_engine(share: Share) -> None:
    """Closing does not fail while the engine is away."""
    engine = MemoryLimitsBackend()
    limiter = share(engine, FAST)
    slot = await limiter.slot()
    engine.unreachable = True
    slot.release()
    await limiter.close()
    await share(engine, FAST).close()  # never used


async def test_in_a_context(share: Share, leftovers: Callable[[], set[str]]) -> None:
    """As a context manager it closes itself."""
    engine = MemoryLimitsBackend()
    async with SharedLimiter(engine, limits=FAST, recovery_delay=0) as limiter:
        await limiter.slot()
        await asyncio.sleep(10)
        calls = engine.calls
        assert calls >= 5  # heartbeats
    assert not leftovers()
    await asyncio.sleep(10)
    assert engine.calls == calls


async def test_two_slots_for_one_task(share: Share) -> None:
    """A task that two clients of a process know has one slot, which ends for both at once."""
    engine = MemoryLimitsBackend()
    limiter = share(engine, FAST)
    adopted = limiter.adopt(REF)
    assert limiter.adopt(REF) is adopted
    slot = await limiter.slot()
    slot.confirm(REF)
    await asyncio.sleep(0.1)
    assert limiter.slots_in_use == 1
    assert len((await engine.peek()).leases) == 1
    adopted.release()
    slot.release()
    slot.release()
    await asyncio.sleep(0.1)
    assert limiter.slots_in_use == 0
    assert not (await engine.peek()).leases


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a name the limits are those of the key in the environment, which is not shown."""
    monkeypatch.setenv("APIXO_API_KEY", " a-secret-key ")
    limiter = SharedLimiter("redis://user:word@cache:6380/1")
    assert limiter.name == name_of("a-secret-key") != name_of("another")
    assert "secret" not in limiter.name
    assert SharedLimiter("redis://cache", name="studio").name == "studio"
    monkeypatch.delenv("APIXO_API_KEY")
    with pytest.raises(ConfigurationError, match="whose limits"):
        SharedLimiter("redis://cache")
    for name in ("", "{a}", "a\nb"):
        with pytest.raises(ConfigurationError, match="a word or two"):
            SharedLimiter("redis://cache", name=name)


def test_repr() -> None:
    """A limiter shows where its numbers are kept, and no password."""
    limiter = SharedLimiter("redis://user:word@cache:6380/1", name="n", limits=Limits(7, 3))
    assert repr(limiter) == (
        "<SharedLimiter redis://cache:6380/1 Limits(requests_per_minute=7, concurrent_tasks=3,"
        " presumed_lifetime=3600.0) slots in use: 0>"
    )
    assert limiter.limits == Limits(7, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"on_unavailable": "weep"}, "on_unavailable is"),
        ({"on_unavailable": "local"}, "needs share="),
        ({"share": 0.5}, "nothing else takes it"),
        ({"on_unavailable": "local", "share": 0.0}, "between 0 and 1"),
        ({"on_unavailable": "local", "share": 1.1}, "between 0 and 1"),
    ],
)
def test_wrong_settings(options: dict[str, Any], words: str) -> None:
    """A setting that makes no sense is refused before anything is sent."""
    with pytest.raises(ConfigurationError, match=words):
        SharedLimiter(MemoryLimitsBackend(), **options)


@pytest.mark.parametrize("on_unavailable", ["wait", "raise", "local"])
async def test_a_client_while_the_engine_is_away(
    share: Share, emulate: Emulate, on_unavailable: OnUnavailable
) -> None:
    """A submit waits, raises, or goes on; a task that is waited for is asked after in the end."""
    emulator, engine = await emulate(), MemoryLimitsBackend()
    limits = Limits(600, 5)
    part = 0.5 if on_unavailable == "local" else None
    limiter = share(engine, limits, on_unavailable=on_unavailable, share=part)
    async with KlingClient(emulator.key, base_url=emulator.base_url, limiter=limiter) as kling:
        task = await kling.submit(FOX)
        waiting = asyncio.create_task(task.wait())
        await asyncio.sleep(50)
        engine.unreachable = True
        submitting = asyncio.create_task(kling.submit(FOX))
        await asyncio.sleep(50)
        assert submitting.done() is (on_unavailable != "wait")
        assert waiting.done() is (on_unavailable == "local")
        engine.unreachable = False
        assert (await waiting).ref == task.ref
        if on_unavailable == "raise":
            with pytest.raises(LimiterError, match="cannot be kept"):
                await submitting
        else:
            await submitting
        await asyncio.sleep(3)
        keys = [lease.key for lease in (await engine.peek()).leases]
        assert keys == ([] if on_unavailable == "raise" else [str(submitting.result().ref)])
    assert len(emulator.ledger) == 2 - (on_unavailable == "raise")
