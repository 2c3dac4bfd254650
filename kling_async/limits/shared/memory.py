"""Shared limits kept in memory: for tests, and as the shortest description of a backend.

Limiters that share one :class:`MemoryLimitsBackend` behave like limiters of separate processes:
they share nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from math import inf
from typing import TYPE_CHECKING

from attrs import define, evolve, field

from kling_async.errors import LimiterError
from kling_async.limits.shared._learned_cap import parse_learned_cap
from kling_async.limits.shared.backend import (
    Lease,
    LeaseStatus,
    LeaseUpdate,
    Reservation,
    Usage,
)
from kling_async.limits.shared.window import SharedWindow

if TYPE_CHECKING:
    from kling_async.limits.shared.schedule import RequestSchedule
    from kling_async.limits.shared.window import Report

_epochs = count(1)

# Seconds by which a clock may go back without counting as set back.
_CLOCK_TOLERANCE = 1.0


@define
class _StoredLease:
    holder: str
    since: float
    expires_at: float


@define
class _StoredLimits:
    """Everything that is kept. Times are those of the backend's clock."""

    epoch: str = ""
    seen_at: float = -inf
    began_at: float = -inf  # this epoch
    next_grant: float = -inf
    paused_at: float = -inf
    resumes_at: float = -inf
    window: SharedWindow = field(factory=SharedWindow)
    leases: dict[str, _StoredLease] = field(factory=dict)
    learned: str = ""
    requests_per_minute: int = 0
    concurrent_tasks: int = 0


class MemoryLimitsBackend:
    """A :class:`~kling_async.limits.shared.backend.LimitsBackend` in the memory of one process.

    Args:
        clock: Returns the time in seconds. Default: the running loop's clock.
        round_trip: Seconds that a call takes to arrive, and its answer to come back.

    Attributes:
        unreachable: While it is true, calls arrive nowhere and raise ``LimiterError``.
        calls: How many calls have arrived.
        round_trip: As above; may be changed.
    """

    def __init__(
        self, clock: Callable[[], float] | None = None, *, round_trip: float = 0.0
    ) -> None:
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self.round_trip = round_trip
        self.unreachable = False
        self.calls: int = 0
        self._stored = _StoredLimits()

    def lose_state(self) -> None:
        """Lose everything, as a server does that keeps nothing on disk and is restarted."""
        self._stored = _StoredLimits()

    async def reserve(self, number: int, report: Report, schedule: RequestSchedule) -> Reservation:
        """Apply a report, and reserve up to ``number`` of the next grants."""
        async with self._round_trip():
            now, set_back = self._read_clock(schedule)
            stored, delays = self._stored, []
            acknowledged = stored.window.accept(now, report)
            if acknowledged == report.sequence:
                limit, earliest = schedule.requests_per_minute, now - schedule.burst
                earliest = max(earliest, stored.resumes_at)
                for time in stored.window.grant(now, report.holder, number, limit):
                    due = max(stored.next_grant, earliest, time if time > now else earliest)
                    delays.append(due - now)
                    stored.next_grant = due + schedule.interval
            stored.requests_per_minute = schedule.requests_per_minute
            return Reservation(
                delays=tuple(delays),
                acknowledged=acknowledged,
                pause=max(0.0, stored.resumes_at - now),
                paused_for=now - stored.paused_at,
                epoch=stored.epoch,
                set_back=set_back,
            )

    async def pause(self, delay: float, age: float) -> float:
        """Grant no request for ``delay`` seconds; return for how long the pause lasts."""
        async with self._round_trip():
            now, stored = self._clock(), self._stored
            is_new = now - age >= stored.paused_at
            if is_new:
                stored.paused_at = now
            if is_new or stored.resumes_at > now:
                stored.resumes_at = max(stored.resumes_at, now + delay)
            return max(0.0, stored.resumes_at - now)

    async def update_leases(self, update: LeaseUpdate) -> LeaseStatus:
        """Renew, acquire and release leases in one step."""
        async with self._round_trip():
            now, set_back = self._read_clock(update.schedule)
            stored, holder = self._stored, update.holder
            leases = {key: held for key, held in stored.leases.items() if held.expires_at > now}
            for lease in update.renew:
                held, expires_at = leases.get(lease.key), now + lease.ends_in
                if held is None or held.holder == holder or held.expires_at <= expires_at:
                    leases[lease.key] = _StoredLease(holder, now - lease.held_for, expires_at)
            is_settled = now - stored.began_at >= update.settle
            acquired = update.acquire[: max(0, update.cap - len(leases)) if is_settled else 0]
            leases |= {key: _StoredLease(holder, now, now + update.lifetime) for key in acquired}
            for key in update.release:
                leases.pop(key, None)
            if update.learned and update.learned[0] == stored.learned:
                stored.learned = update.learned[1]
            stored.leases, stored.concurrent_tasks = leases, update.limit
            confirmed = sum("/" in key for key in leases)  # in a reference, not in a random id
            return LeaseStatus(
                acquired, stored.epoch, stored.learned, len(leases), confirmed, set_back
            )

    async def peek(self) -> Usage:
        """Return what is in use, and change nothing."""
        async with self._round_trip():
            now, stored = self._clock(), self._stored
            return Usage(
                requests=stored.window.count(now),
                requests_per_minute=stored.requests_per_minute,
                concurrent_tasks=stored.concurrent_tasks,
                effective_tasks=parse_learned_cap(stored.learned, stored.concurrent_tasks),
                pause=max(0.0, stored.resumes_at - now),
                leases=tuple(
                    Lease(key, held.holder, now - held.since, held.expires_at - now)
                    for key, held in stored.leases.items()
                    if held.expires_at > now
                ),
            )

    async def close(self) -> None:
        """Do nothing: other limiters may use it."""

    def _read_clock(self, schedule: RequestSchedule) -> tuple[float, float]:
        """Return the time, and by how much the clock was set back since the last call.

        What may have been granted before the state was lost is waited for.
        """
        now, stored = self._clock(), self._stored
        set_back = max(0.0, stored.seen_at - now)
        if set_back < _CLOCK_TOLERANCE:
            set_back = 0.0
        if set_back:  # processes report again what they have, and since when
            leases = {
                key: _StoredLease(held.holder, held.since - set_back, held.expires_at - set_back)
                for key, held in stored.leases.items()
            }
            stored = self._stored = evolve(
                stored,
                epoch="",
                seen_at=now,
                paused_at=stored.paused_at - set_back,
                resumes_at=stored.resumes_at - set_back,
                window=SharedWindow(),
                leases=leases,
            )
        if not stored.epoch:
            stored.epoch, stored.began_at = str(next(_epochs)), now
            stored.next_grant = now + schedule.settle
        stored.seen_at = max(now, stored.seen_at)
        return now, set_back

    @asynccontextmanager
    async def _round_trip(self) -> AsyncIterator[None]:
        await asyncio.sleep(self.round_trip / 2)
        if self.unreachable:
            raise LimiterError("the backend in memory is unreachable")
        self.calls += 1
        yield
        await asyncio.sleep(self.round_trip / 2)
        if self.unreachable:
            raise LimiterError("the backend in memory became unreachable before its answer")
