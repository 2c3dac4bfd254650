"""Shared limits kept in memory: for tests, and as the shortest description of an engine.

Give one :class:`MemoryLimitsBackend` to several limiters, and they are to each other what processes
are: they share nothing else.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING

from attrs import define

from kling_async.errors import LimiterError
from kling_async.limits.shared._learned_cap import parse_learned_cap
from kling_async.limits.shared.backend import (
    Lease,
    LeaseStatus,
    LeaseUpdate,
    PauseStatus,
    Reservation,
    Usage,
    is_task_ref,
)
from kling_async.limits.shared.window import SharedWindow

if TYPE_CHECKING:
    from kling_async.limits.shared.schedule import RequestSchedule
    from kling_async.limits.shared.window import Report

_epochs = count(1)

# Seconds by which a clock may go back without being taken to be set back.
_SET_BACK = 1.0


@define
class _Held:
    holder: str
    since: float
    ends: float


class MemoryLimitsBackend:
    """A :class:`~kling_async.limits.shared.backend.LimitsBackend` in the memory of one process.

    Args:
        clock: Seconds of its own clock; else the running loop's.
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
        self.lose_state()

    def lose_state(self) -> None:
        """Lose everything, as a server does that keeps nothing on disk and is started again."""
        self._epoch = ""
        self._seen = self._born = self._next = self._paused = self._resume = -math.inf
        self._window = SharedWindow()
        self._leases: dict[str, _Held] = {}
        self._learned = ""
        self._limits = (0, 0)

    async def reserve(self, number: int, report: Report, schedule: RequestSchedule) -> Reservation:
        """Take in a report, and reserve the next turns."""
        await self._arrive()
        now, set_back = self._know(schedule)
        known, delays = self._window.accept(now, report), []
        if known == report.sequence:
            limit, earliest = schedule.requests_per_minute, max(now - schedule.burst, self._resume)
            for moment in self._window.give(now, report.holder, number, limit):
                turn = max(self._next, earliest, moment if moment > now else earliest)
                delays.append(turn - now)
                self._next = turn + schedule.interval
        self._limits = (schedule.requests_per_minute, self._limits[1])
        pause, paused_for = max(0.0, self._resume - now), now - self._paused
        answer = Reservation(tuple(delays), known, pause, paused_for, self._epoch, set_back)
        await self._return()
        return answer

    async def pause(self, delay: float, age: float) -> PauseStatus:
        """Give no turn for ``delay`` seconds."""
        await self._arrive()
        now = self._clock()
        first = now - age >= self._paused
        if first:
            self._paused = now
        if began := first or now < self._resume < now + delay:
            self._resume = max(self._resume, now + delay)
        answer = PauseStatus(began, max(0.0, self._resume - now))
        await self._return()
        return answer

    async def update_leases(self, update: LeaseUpdate) -> LeaseStatus:
        """Keep, give and free leases, all at once."""
        await self._arrive()
        now, set_back = self._know(update.schedule)
        leases = self._leases
        for key in [key for key, held in leases.items() if held.ends <= now]:
            del leases[key]
        for hold in update.renew:
            known, ends = leases.get(hold.key), now + hold.ends_in
            if known is None or known.holder == update.holder or known.ends <= ends:
                leases[hold.key] = _Held(update.holder, now - hold.held_for, ends)
        free = update.cap - len(leases) if now - self._born >= update.recovery_delay else 0
        taken = update.acquire[: max(0, free)]
        for key in taken:
            leases[key] = _Held(update.holder, now, now + update.lifetime)
        for key in update.release:
            leases.pop(key, None)
        if update.learned and update.learned[0] == self._learned:
            self._learned = update.learned[1]
        self._limits = (self._limits[0], update.limit)
        confirmed = sum(map(is_task_ref, leases))
        answer = LeaseStatus(taken, self._epoch, self._learned, len(leases), confirmed, set_back)
        await self._return()
        return answer

    async def peek(self) -> Usage:
        """Return what is in use."""
        await self._arrive()
        now = self._clock()
        answer = Usage(
            self._window.count(now),
            *self._limits,
            parse_learned_cap(self._learned, self._limits[1]),
            max(0.0, self._resume - now),
            tuple(
                Lease(key, held.holder, now - held.since, held.ends - now)
                for key, held in self._leases.items()
                if held.ends > now
            ),
        )
        await self._return()
        return answer

    async def close(self) -> None:
        """Do nothing: others may use it."""

    def _know(self, schedule: RequestSchedule) -> tuple[float, float]:
        """Return the time, and by how much the clock was set back since the last call.

        What may have been reserved before anything was known is waited out.
        """
        now = self._clock()
        set_back = max(0.0, self._seen - now)
        if set_back < _SET_BACK:
            set_back = 0.0
        if not self._epoch or set_back:
            self._epoch, self._born = str(next(_epochs)), now
            self._next = now + schedule.recovery_delay
        if set_back:  # processes report again what they have, and when it was
            self._window = SharedWindow()
            self._paused -= set_back
            self._resume -= set_back
            for held in self._leases.values():
                held.since -= set_back
                held.ends -= set_back
        self._seen = now if set_back else max(now, self._seen)
        return now, set_back

    async def _arrive(self) -> None:
        await asyncio.sleep(self.round_trip / 2)
        if self.unreachable:
            raise LimiterError("the engine in memory is gone")
        self.calls += 1

    async def _return(self) -> None:
        await asyncio.sleep(self.round_trip / 2)
        if self.unreachable:
            raise LimiterError("the engine in memory has gone with the answer")
