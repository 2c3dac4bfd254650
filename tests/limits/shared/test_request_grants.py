"""Requests under shared limits: fairness, order, pauses, and what happens to unused grants."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kling_async.errors import ConfigurationError
from kling_async.limits.base import Limits
from kling_async.limits.shared.limiter import SharedLimiter
from kling_async.limits.shared.memory import MemoryLimitsBackend
from kling_async.limits.shared.schedule import GRANT_LIFETIME
from tests.limits.conftest import (
    FAST,
    FULL,
    Canceller,
    crowd,
    crowds,
    fullest,
    granted,
    now,
    run,
)

if TYPE_CHECKING:
    from kling_async.limits.base import Permit
    from kling_async.limits.shared.backend import Reservation
    from kling_async.limits.shared.schedule import RequestSchedule
    from kling_async.limits.shared.window import Report
    from tests.limits.conftest import Share


pytestmark = pytest.mark.virtual_time


@pytest.mark.repeating
@pytest.mark.parametrize("requests_per_minute", [10_000, 1_000, 150, 10])
def test_four_processes_keep_one_limit(requests_per_minute: int) -> None:
    """Four busy processes stay within the limit in any minute, use 97 % and get equal shares."""

    async def main() -> list[list[float]]:
        backend = MemoryLimitsBackend()
        seconds = 130 if requests_per_minute > 100 else 4_000
        return await crowds([backend] * 4, Limits(requests_per_minute), seconds, 30)

    shares = run(main())
    moments = sorted(moment for share in shares for moment in share)
    assert fullest(moments) <= requests_per_minute
    assert (len(moments) - 1) / (moments[-1] - moments[0]) * 60 >= 0.97 * requests_per_minute
    equal = len(moments) / 4
    assert all(abs(len(share) - equal) <= max(2, 0.1 * equal) for share in shares)


def test_calls_do_not_grow_with_the_waiters() -> None:
    """At 10,000 a minute, four busy processes call the backend less than once in ten requests."""

    async def main() -> tuple[int, int]:
        backend = MemoryLimitsBackend()
        shares = await crowds([backend] * 4, FULL, 30)
        return backend.calls, sum(map(len, shares))

    calls, admitted = run(main())
    assert calls / admitted < 0.1


@pytest.mark.repeating
@pytest.mark.parametrize("processes", [1, 4])
def test_a_round_trip_costs_no_throughput(processes: int) -> None:
    """A round trip of 30 ms costs no throughput."""

    async def main(round_trip: float) -> int:
        backend = MemoryLimitsBackend(round_trip=round_trip)
        return sum(map(len, await crowds([backend] * processes, FULL, 30)))

    assert run(main(0.03)) >= 0.995 * run(main(0.0))


@pytest.mark.repeating
@pytest.mark.slow
def test_a_far_process_gets_its_share() -> None:
    """A process with a round trip of 50 ms gets as much as the others."""

    class Far(MemoryLimitsBackend):
        async def reserve(self, number: int, report: Report, pace: RequestSchedule) -> Reservation:
            await asyncio.sleep(0.05)
            return await backend.reserve(number, report, pace)

    backend = MemoryLimitsBackend()
    for limits in (FULL, Limits(60)):

        async def main(limits: Limits = limits) -> list[list[float]]:
            backend.lose_state()
            seconds = 3_000 / limits.requests_per_minute * 60
            return await crowds([backend, backend, Far()], limits, seconds, 20)

        shares = [len(share) for share in run(main())]
        assert min(shares) > 0.95 * sum(shares) / 3


@pytest.mark.slow
def test_many_processes() -> None:
    """Thirty processes share a limit evenly, too, with a call for every few requests."""

    async def main() -> tuple[list[list[float]], int]:
        backend = MemoryLimitsBackend()
        return await crowds([backend] * 30, FULL, 61, 20), backend.calls

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
    """However callers arrive and are cancelled, the limit holds and the others are granted."""

    async def main() -> list[float]:
        backend = MemoryLimitsBackend(round_trip=round_trip)
        limits = Limits(requests_per_minute)
        limiters = [SharedLimiter(backend, limits=limits, settle=0) for _ in range(3)]
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
    limiter = SharedLimiter(MemoryLimitsBackend(), limits=Limits(600), settle=0)
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


async def test_grants_are_given_together(share: Share) -> None:
    """Grants that are due close together are given at once, with the last of them, to save CPU."""
    limiter = share(MemoryLimitsBackend(), Limits(6_000))  # a grant every 10 ms
    begun = await granted(limiter)
    moments = await asyncio.gather(*(granted(limiter) for _ in range(10)))
    assert len(set(moments)) <= 4
    assert min(moments) - begun < 0.01 + 0.06
    alone = [await granted(limiter) for _ in range(5)]
    assert len(set(alone)) == 5
    assert alone[-1] - moments[-1] == pytest.approx(5 * 0.01, abs=0.001)
    limiter = share(MemoryLimitsBackend(), Limits(300))  # a grant every 0.2 s
    await granted(limiter)
    begun = now()
    moments = await asyncio.gather(*(granted(limiter) for _ in range(3)))
    assert [moment - begun for moment in moments] == pytest.approx([0.2, 0.4, 0.6], abs=0.001)


async def test_a_cancelled_waiters_grant_goes_to_the_next(share: Share) -> None:
    """The next in line gets the grant of a cancelled caller, without delay."""
    limiter = share(MemoryLimitsBackend(), Limits(60))
    await granted(limiter)
    first, second = (asyncio.create_task(granted(limiter)) for _ in range(2))
    await asyncio.sleep(0.5)
    first.cancel()
    assert await second == pytest.approx(1.0, abs=0.05)


async def test_a_grant_given_in_the_moment_of_a_cancellation(share: Share) -> None:
    """A grant given to a caller that is cancelled at the same time goes to the next in line."""
    backend = Canceller()
    limiter = share(backend, FAST)
    first = backend.victim = asyncio.create_task(granted(limiter))
    await asyncio.wait([first])
    assert first.cancelled()
    assert await granted(limiter) == pytest.approx(0.0, abs=0.001)
    assert backend.calls == 1

    await asyncio.sleep(1)
    first = backend.victim = asyncio.create_task(granted(limiter))
    second = asyncio.create_task(granted(limiter))
    assert await second == pytest.approx(1.0, abs=0.001)
    assert first.cancelled()
    assert backend.calls == 2


async def test_a_grant_whose_waiter_gave_up_is_free_for_others(share: Share) -> None:
    """A process that wants no grant any more does not keep the one that it has reserved."""
    backend = MemoryLimitsBackend()
    one, other = share(backend, Limits(1)), share(backend, Limits(1))
    await granted(one)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10):
            await granted(one)  # it has a grant in a minute
    assert await granted(other) < 130


@pytest.mark.parametrize(("wait", "calls"), [(GRANT_LIFETIME / 2, 1), (GRANT_LIFETIME * 2, 2)])
async def test_an_unused_grant(share: Share, wait: float, calls: int) -> None:
    """It is kept for a moment, and then lost: later it would crowd another minute."""
    backend = MemoryLimitsBackend()
    limiter = share(backend, FAST)
    waiters = [asyncio.create_task(granted(limiter)) for _ in range(10)]
    await asyncio.sleep(0.0005)  # one is admitted, the others' grants are on their way
    for waiter in waiters[2:]:
        waiter.cancel()
    await asyncio.sleep(wait)
    await granted(limiter)
    assert backend.calls == calls


async def test_a_pause_holds_for_all_processes(share: Share) -> None:
    """After a refusal in one process, no process admits a request before the pause is over."""
    backend = MemoryLimitsBackend(round_trip=0.01)
    one, other = share(backend, FAST), share(backend, FAST)
    permit = await one.request()
    assert one.pause(30.0, permit)
    assert await granted(one) == pytest.approx(30, abs=0.1)

    assert one.pause(30.0, await one.request())
    await asyncio.sleep(0.02)
    assert await granted(other) == pytest.approx(60, abs=0.2)


async def test_grants_before_a_pause_are_dropped(share: Share) -> None:
    """A pause stops also those whose grants were reserved before it, in other processes, too."""
    backend = MemoryLimitsBackend()
    one, other = share(backend, FULL), share(backend, FULL)
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
    # The other process learns of it with its next reservation.
    assert not [moment for moment in others if begun + 0.3 < moment < begun + 10]
    assert fullest(mine + others) <= 10_000


async def test_one_storm_is_one_pause(share: Share) -> None:
    """A refusal of a request that was admitted before a pause began begins no other one."""
    backend = MemoryLimitsBackend()
    one, other = share(backend, FAST), share(backend, FAST)
    early = [await limiter.request() for limiter in (one, one, other, other)]
    await asyncio.sleep(1)
    assert [one.pause(5.0, early[0]), one.pause(4.0, early[1])] == [True, False]
    await asyncio.sleep(0.1)
    # It does not know of the pause and begins its own, which the backend ignores.
    assert other.pause(2.0, early[2])
    assert not other.pause(1.0, early[3])
    assert (await backend.peek()).pause == pytest.approx(4.9, abs=0.01)
    assert await granted(other) == pytest.approx(6, abs=0.1)
    late = await one.request()
    assert other.pause(3.0, await other.request())
    await asyncio.sleep(0.1)
    assert (await backend.peek()).pause == pytest.approx(2.9, abs=0.1)
    assert one.pause(3.0, late)


@pytest.mark.parametrize("delay", [-1.0, float("inf"), float("nan")])
async def test_pauses_that_make_no_sense(share: Share, delay: float) -> None:
    """They are refused."""
    limiter = share(MemoryLimitsBackend(), FAST)
    with pytest.raises(ConfigurationError, match="0 s or more"):
        limiter.pause(delay, await limiter.request())


async def test_a_pause_that_grows_a_little(share: Share) -> None:
    """What a refusal of the same storm adds is waited for, though it is not worth an event."""
    backend = MemoryLimitsBackend()
    limiter = share(backend, FAST)
    first, second = await limiter.request(), await limiter.request()
    await asyncio.sleep(0.1)
    assert limiter.pause(5.0, first)
    assert not limiter.pause(5.3, second)
    assert await granted(limiter) >= 5.3


async def test_a_pause_while_the_backend_is_unavailable(share: Share) -> None:
    """A pause that begins while the backend is unavailable is reported when it is back."""
    backend = MemoryLimitsBackend()
    limiter = share(backend, FAST)
    permit = await limiter.request()
    backend.unreachable = True
    limiter.pause(10.0, permit)
    await asyncio.sleep(3)
    backend.unreachable = False
    await asyncio.sleep(2)
    assert (await backend.peek()).pause == pytest.approx(5, abs=0.1)


async def test_a_pause_that_is_over_is_not_reported(share: Share) -> None:
    """A pause that has ended before the backend is back is not reported."""
    backend = MemoryLimitsBackend()
    limiter = share(backend, FAST)
    permit = await limiter.request()
    backend.unreachable = True
    limiter.pause(1.0, permit)
    await asyncio.sleep(3)
    backend.unreachable = False
    calls = backend.calls
    await asyncio.sleep(3)
    assert backend.calls == calls


@pytest.mark.repeating
@pytest.mark.slow
@given(seconds=st.lists(st.floats(0.1, 25), min_size=1, max_size=4))
@settings(max_examples=6, deadline=None)
def test_no_minute_is_over_the_limit_when_the_backend_forgets(seconds: list[float]) -> None:
    """Whenever a backend loses all that it knew, no minute is over the limit."""

    async def main() -> list[float]:
        backend = MemoryLimitsBackend(round_trip=0.01)

        async def lose() -> None:
            for wait in seconds:
                await asyncio.sleep(wait)
                backend.lose_state()

        losing = asyncio.create_task(lose())
        shares = await crowds([backend] * 3, Limits(1_000), 100, 15, settle=None)
        await losing
        return [moment for share in shares for moment in share]

    moments = run(main())
    assert fullest(moments) <= 1_000
    # Each time about a second is lost.
    assert len(moments) > 0.97 * 1_000 * (100 - 1.5 * (1 + len(seconds))) / 60


async def test_grants_that_the_backend_has_forgotten(share: Share) -> None:
    """A grant far ahead is used only if the backend still knows of it: others may have it, too."""
    backend = MemoryLimitsBackend()
    limits = Limits(6)  # a grant every ten seconds
    one, other = (share(backend, limits, settle=None) for _ in range(2))
    await granted(one)
    begun = now()
    asked = [asyncio.create_task(granted(one))]
    await asyncio.sleep(5)
    backend.lose_state()
    asked.append(asyncio.create_task(granted(other)))
    first, second = sorted(await asyncio.gather(*asked))
    assert begun + 10 < first < begun + 5 + 11.5
    assert second - first > 9.7


async def test_grants_of_a_backend_that_is_away(share: Share) -> None:
    """A grant far ahead is not used while the backend is unavailable: it may be given again."""
    backend = MemoryLimitsBackend()
    limiter = share(backend, Limits(6))  # a grant every ten seconds
    begun = await granted(limiter)
    waiting = asyncio.create_task(granted(limiter))
    await asyncio.sleep(5)
    backend.unreachable = True
    await asyncio.sleep(10)
    assert not waiting.done()
    backend.unreachable = False
    assert await waiting < begun + 27


async def test_a_pause_that_only_we_know_of(share: Share) -> None:
    """Nothing is reserved in a pause of our own that the backend has not taken over."""

    class Deaf(MemoryLimitsBackend):
        async def pause(self, delay: float, age: float) -> float:
            return 0.0

    backend = Deaf()
    limiter = share(backend, FAST)
    limiter.pause(9.0, await limiter.request())
    calls = backend.calls
    assert await granted(limiter) == pytest.approx(9.0, abs=0.1)
    assert backend.calls - calls <= 2


def test_a_permit_of_another_loop() -> None:
    """Requests of a loop that has ended count as answered when another one is begun."""
    backend = MemoryLimitsBackend(lambda: 0.0)
    limiter = SharedLimiter(backend, limits=Limits(60), settle=0)

    async def ask() -> Permit:
        return await limiter.request()

    late = run(ask())
    late.answered()
    permit = run(ask())
    again = run(ask())
    permit.answered()  # it did already
    again.answered()
    run(limiter.close())
    assert run(backend.peek()).requests == 3


async def test_a_refusal_while_another_one_is_reported(share: Share) -> None:
    """A pause that is extended while its report is in flight is reported again."""
    backend = MemoryLimitsBackend(round_trip=0.2)
    limiter = share(backend, FAST)
    first = await limiter.request()
    await asyncio.sleep(0.1)
    second = await limiter.request()
    assert limiter.pause(5.0, first)
    await asyncio.sleep(0.05)
    assert limiter.pause(9.0, second)
    await asyncio.sleep(0.5)
    assert 8 < (await backend.peek()).pause < 9


def test_a_forked_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was forked reports under a name of its own, and nothing of its parent's."""
    backend = MemoryLimitsBackend(lambda: 0.0)
    limiter = SharedLimiter(backend, limits=Limits(60), settle=0)

    async def ask() -> set[str]:
        await limiter.request()
        await limiter.slot()
        return {lease.holder for lease in (await backend.peek()).leases}

    parent = run(ask())
    monkeypatch.setattr("os.getpid", lambda: 12_345)
    both = run(ask())
    assert len(parent) == 1
    assert any(":12345:" in holder for holder in both - parent)
    assert run(backend.peek()).requests == 2
    run(limiter.close())
