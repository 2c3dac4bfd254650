"""Shared limits kept in memory: for tests, and as the shortest description of an engine.

Give one :class:`MemoryEngine` to several limiters, and they are to each other what processes
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
from kling_async.limits.engines import Change, Lease, Leased, Pause, Reservation, Usage

if TYPE_CHECKING:
    from kling_async.limits.pace import Pace

__all__ = ["MemoryEngine"]

_epochs = count(1)


@define
class _Held:
    holder: str
    since: float
    ends: float


class MemoryEngine:
    """A :class:`~kling_async.limits.engines.LimitsEngine` that forgets all with its process.

    Args:
        clock: Seconds of its own clock; else the running loop's.
        trip: Seconds that a call takes to arrive, and its answer to come back.

    Attributes:
        gone: While it is true, calls arrive nowhere and raise ``LimiterError``.
        calls: How many calls have arrived.
        trip: As above; may be changed.
    """

    def __init__(self, clock: Callable[[], float] | None = None, *, trip: float = 0.0) -> None:
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self.trip = trip
        self.gone = False
        self.calls: int = 0
        self.forget()

    def forget(self) -> None:
        """Lose everything, as a server does that keeps nothing on disk and is started again."""
        self._epoch = ""
        self._born = self._next = self._paused = self._resume = -math.inf
        self._reserved: list[tuple[float, int]] = []
        self._leases: dict[str, _Held] = {}
        self._limits = (0, 0)

    async def reserve(self, number: int, pace: Pace) -> Reservation:
        """Reserve the next turns."""
        await self._arrive()
        now = self._know(pace)
        start = max(self._next, now - pace.burst, self._resume)
        self._next = start + number * pace.interval
        self._reserved = [one for one in self._reserved if one[0] > now - 60]
        self._reserved.append((now, number))
        self._limits = (pace.requests_per_minute, self._limits[1])
        pause = max(0.0, self._resume - now)
        answer = Reservation(start - now, pause, now - self._paused, self._epoch)
        await self._return()
        return answer

    async def pause(self, delay: float, age: float) -> Pause:
        """Give no turn for ``delay`` seconds, unless a pause has begun within ``age``."""
        await self._arrive()
        now = self._clock()
        if began := now - age >= self._paused:
            self._paused, self._resume = now, max(self._resume, now + delay)
        answer = Pause(began, max(0.0, self._resume - now))
        await self._return()
        return answer

    async def lease(self, change: Change) -> Leased:
        """Keep, give and free leases, all at once."""
        await self._arrive()
        now = self._know(change.pace)
        leases = self._leases
        for key in [key for key, held in leases.items() if held.ends <= now]:
            del leases[key]
        for hold in change.hold:
            known = leases.get(hold.key)  # another process may have renewed it since
            ends = max(now + hold.ends_in, known.ends if known else now)
            leases[hold.key] = _Held(change.holder, now - hold.held_for, ends)
        free = change.limit - len(leases) if now - self._born >= change.settle else 0
        taken = change.take[: max(0, free)]
        for key in taken:
            leases[key] = _Held(change.holder, now, now + change.lifetime)
        for key in change.drop:
            leases.pop(key, None)
        self._limits = (self._limits[0], change.limit)
        answer = Leased(taken, self._epoch)
        await self._return()
        return answer

    async def look(self) -> Usage:
        """Tell what is in use."""
        await self._arrive()
        now = self._clock()
        answer = Usage(
            sum(number for at, number in self._reserved if at > now - 60),
            *self._limits,
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

    def _know(self, pace: Pace) -> float:
        """Return the time; wait out what may have been reserved before we knew anything."""
        now = self._clock()
        if not self._epoch:
            self._epoch, self._born = str(next(_epochs)), now
            self._next = now + pace.settle
        return now

    async def _arrive(self) -> None:
        await asyncio.sleep(self.trip / 2)
        if self.gone:
            raise LimiterError("the engine in memory is gone")
        self.calls += 1

    async def _return(self) -> None:
        await asyncio.sleep(self.trip / 2)
        if self.gone:
            raise LimiterError("the engine in memory has gone with the answer")
