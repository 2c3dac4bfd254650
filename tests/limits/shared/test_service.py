"""What reaches the service under shared limits, in virtual time: latencies, deaths, restarts."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

import pytest

from kling_async.limits.base import Limits
from kling_async.limits.shared.limiter import SharedLimiter
from kling_async.limits.shared.memory import MemoryLimitsBackend
from kling_async.testing.clock import VirtualLoop
from tests.limits.conftest import fullest

if TYPE_CHECKING:
    from collections.abc import Callable


class Traffic:
    """Processes that send as much as they may, and a service that notes what arrives."""

    def __init__(self, limits: Limits, latency: Callable[[Random], float]) -> None:
        self.backend = MemoryLimitsBackend(
            lambda: asyncio.get_running_loop().time() + self.skew, round_trip=0.002
        )
        self.skew = 0.0
        self.limits = limits
        self.arrivals: list[float] = []
        self.shares: list[int] = []
        self._latency = latency
        self._dice = Random(4)  # noqa: S311 - latencies, not secrets

    async def send(self, limiter: SharedLimiter, share: int) -> None:
        """Send a request; it arrives at some moment before its answer."""
        loop = asyncio.get_running_loop()
        permit = await limiter.request()
        try:
            took = self._latency(self._dice)
            arrives = self._dice.choice([0.0, 1.0, self._dice.random()]) * took
            await asyncio.sleep(arrives)
            self.arrivals.append(loop.time())
            self.shares[share] += 1
            await asyncio.sleep(took - arrives)
        finally:
            permit.answered()

    async def process(self, seconds: float, waiters: int) -> None:
        """Be a process that lives for so long, and is then killed without a word."""
        limiter = SharedLimiter(self.backend, limits=self.limits, settle=0)
        share = len(self.shares)
        self.shares.append(0)

        async def one() -> None:
            while True:
                # Some give up, at any moment.
                patience = self._dice.choice([None, None, None, self._dice.uniform(0, 20)])
                try:
                    async with asyncio.timeout(patience):
                        await self.send(limiter, share)
                except TimeoutError:
                    pass

        tasks = [asyncio.create_task(one()) for _ in range(waiters)]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        state = limiter._state  # noqa: SLF001 - a process that is killed calls no more
        assert state is not None
        state.requests.stop()
        state.slots.stop()


def run(traffic: Traffic, *lives: tuple[float, float], waiters: int) -> None:
    """Let processes live, each from a moment on and for so many seconds."""

    async def main() -> None:
        async def life(begins: float, seconds: float) -> None:
            await asyncio.sleep(begins)
            await traffic.process(seconds, waiters)

        await asyncio.gather(*(life(*one) for one in lives))

    with asyncio.Runner(debug=False, loop_factory=VirtualLoop) as runner:
        runner.run(main())


@pytest.mark.repeating
@pytest.mark.slow
@pytest.mark.parametrize("longest", [0.3, 5.0, 30.0])
@pytest.mark.parametrize("limit", [10, 60, 600])
def test_requests_that_take_seconds(limit: int, longest: float) -> None:
    """Whatever requests take, and whichever give up, no 60 s at the service hold too many."""
    traffic = Traffic(Limits(limit), lambda dice: dice.uniform(0.05, longest))
    run(traffic, *[(0.0, 200.0)] * 4, waiters=limit)
    assert fullest(traffic.arrivals) <= limit
    # A request may count for as long as it takes, and 60 s.
    assert len(traffic.arrivals) >= 0.85 * limit * 200 / (60 + longest)


@pytest.mark.repeating
@pytest.mark.slow
def test_short_requests_use_the_limit() -> None:
    """At 50 to 300 ms four processes use 98 % of the limit, in equal shares, with few calls."""
    traffic = Traffic(Limits(6_000), lambda dice: dice.uniform(0.05, 0.3))
    run(traffic, *[(0.0, 180.0)] * 4, waiters=60)
    assert fullest(traffic.arrivals) <= 6_000
    late = [at for at in traffic.arrivals if 60 <= at < 180]
    assert len(late) >= 0.98 * 12_000
    assert max(traffic.shares) < 1.02 * min(traffic.shares)
    assert traffic.backend.calls <= 0.13 * len(traffic.arrivals)


@pytest.mark.repeating
def test_processes_that_are_killed_and_begin_again() -> None:
    """Processes that die with requests under way, and their successors, keep the limit."""
    traffic = Traffic(Limits(120), lambda dice: dice.uniform(0.1, 8.0))
    lives = [(begins, 17.0) for begins in range(0, 170, 17)]
    run(traffic, *lives, *[(begins + 5.0, 23.0) for begins, _ in lives], waiters=40)
    assert fullest(traffic.arrivals) <= 120
    assert len(traffic.arrivals) > 150


@pytest.mark.repeating
@pytest.mark.slow
@pytest.mark.parametrize("skew", [7.0, 70.0, -7.0, -7_000.0])
def test_a_clock_that_is_set(skew: float, caplog: pytest.LogCaptureFixture) -> None:
    """A backend's clock set forward costs the burst at most; one set back a short delay."""
    traffic = Traffic(Limits(600), lambda dice: dice.uniform(0.05, 0.3))

    async def main() -> None:
        lives = [asyncio.create_task(traffic.process(150.0, 30)) for _ in range(3)]
        await asyncio.sleep(70.0)
        traffic.skew = skew
        await asyncio.gather(*lives)

    with asyncio.Runner(debug=False, loop_factory=VirtualLoop) as runner:
        runner.run(main())
    assert fullest(traffic.arrivals) <= 600 + (10 if skew > 0 else 0)
    assert len([at for at in traffic.arrivals if 75 <= at < 135]) >= 0.95 * 600
    said = [one.getMessage() for one in caplog.records if "was set back by" in one.getMessage()]
    assert len(said) == (1 if skew < 0 else 0)
