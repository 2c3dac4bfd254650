"""The waiting, for one process.

*Requests* pass aiolimiter's bucket, which admits at most ``burst + T x rate`` in any T
seconds. The bucket is sized so that this stays within the limit for T = 60 s, wherever the
window begins, and so that what is still on its way to the service cannot push a window there
over the limit either. *Slots* are counted; those who wait are served in the order they came.

Both outlive the event loop they were used on: a second ``asyncio.run`` finds the slots still
taken and the burst still spent. Waiters do not outlive their loop, and cannot.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import TYPE_CHECKING

from aiolimiter import AsyncLimiter

from kling_async.limits import Limits

if TYPE_CHECKING:
    from kling_async.results import TaskRef

__all__ = ["LocalLimiter"]

# The limit counts requests in 60 s as the service sees them. Half a second more allows for
# requests that travel at different speeds.
_WINDOW = 60.5

# While nobody waits, so many are taken from the bucket at a time, and used within so many
# seconds: less than the window is longer than the limit's, so that it makes no difference.
_AT_ONCE = 8
_SPARE_FOR = 0.01

# A sum of whole requests below N + 1 is at most N: small limits lose nothing to rounding.
_ROUNDING = 0.99


class LocalLimiter:
    """Keeps one process within the limits. It may be shared by several clients.

    It belongs to whatever event loop it is used on; use it on one loop at a time.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._pace = _Pace(self._limits.requests_per_minute)
        self._slots = _Slots(self._limits.concurrent_tasks, self._limits.presumed_lifetime)
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<LocalLimiter {self.limits!r} slots in use: {self._slots.used}>"

    @property
    def limits(self) -> Limits:
        """The numbers that it keeps."""
        return self._limits

    @property
    def slots_in_use(self) -> int:
        """How many slots are taken now."""
        return self._slots.used

    def request(self) -> Coroutine[object, object, float]:
        """Wait until one more request may be sent; return the moment, for :meth:`pause`."""
        self._bind()
        return self._pace.request()

    def pause(self, delay: float, permit: float) -> bool:
        """Let every request wait ``delay`` seconds; see :class:`~kling_async.limits.Limiter`."""
        self._bind()
        return self._pace.pause(delay, permit)

    def slot(self) -> Coroutine[object, object, _Slot]:
        """Wait until one more task may run, and hold its slot."""
        self._bind()
        return self._slots.take()

    def adopt(self, ref: TaskRef) -> _Slot:
        """Hold the slot of a task that is found to be running already, even beyond the limit."""
        self._bind()
        return self._slots.adopt(ref)

    def _bind(self) -> None:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # Loops may count time from different zeros, as virtual ones do.
            shift = loop.time() - self._loop.time() if self._loop else 0.0
            self._pace.move(loop, shift)
            self._slots.move(loop, shift)
            self._loop = loop


class _Pace:
    """Admits requests one by one, in the order they asked, and not at all while paused."""

    def __init__(self, requests_per_minute: int) -> None:
        # A small burst keeps late timers from costing throughput. As many requests again may
        # have been admitted and not have arrived: see Limits.connections.
        self._burst = burst = max(1, min(100, requests_per_minute // 100))
        under_way = min(100, requests_per_minute // 100)
        steady = requests_per_minute - burst - under_way + _ROUNDING
        self._rate = steady / _WINDOW
        self._admitted_at = self._paused_at = self._resume_at = float("-inf")

    def move(self, loop: asyncio.AbstractEventLoop, shift: float) -> None:
        self._loop = loop
        self._turn = asyncio.Lock()  # aiolimiter alone lets newcomers overtake
        self._waiting = self._spare = 0
        self._spare_until = 0.0
        self._bucket = AsyncLimiter(self._burst, self._burst / self._rate)
        self._admitted_at += shift
        self._paused_at += shift
        self._resume_at += shift
        # What the last loop has just spent must not be had again from a new bucket.
        self._spent = loop.time() - self._admitted_at < self._burst / self._rate

    async def request(self) -> float:
        if not self._waiting and not self._spent:
            now = self._loop.time()
            if self._spare and now < self._spare_until:
                self._spare -= 1
                self._admitted_at = now
                return now
            if self._resume_at <= now and self._bucket.has_capacity(_AT_ONCE):
                await self._bucket.acquire(_AT_ONCE)  # no wait
                self._spare, self._spare_until = _AT_ONCE - 1, now + _SPARE_FOR
                self._admitted_at = now
                return now
        self._waiting += 1
        try:
            return await self._in_turn()
        finally:
            self._waiting -= 1

    async def _in_turn(self) -> float:
        async with self._turn:
            if self._spent:
                await self._bucket.acquire(self._burst)  # the new bucket is empty: no wait
                self._spent = False
            # A pause may begin, or grow, while we wait; what was admitted before it is void.
            while True:
                pause = self._resume_at - self._loop.time()
                if pause > 0:  # sleep(0) would admit but one request in a turn of the loop
                    await asyncio.sleep(pause)
                await self._bucket.acquire()
                self._admitted_at = self._loop.time()
                if self._resume_at <= self._admitted_at:
                    return self._admitted_at

    def pause(self, delay: float, permit: float) -> bool:
        if permit < self._paused_at:
            return False
        now = self._loop.time()
        self._paused_at = now
        self._spare = 0
        self._resume_at = max(self._resume_at, now + delay)
        return True


class _Slot:
    """A slot in use, until it is released or its task is presumed to have ended."""

    def __init__(self, slots: _Slots, ends_at: float) -> None:
        self._slots: _Slots | None = slots
        self.ends_at = ends_at
        self.ref: TaskRef | None = None

    def confirm(self, ref: TaskRef) -> None:
        if self._slots is not None:
            self._slots.confirm(self, ref)

    def release(self) -> None:
        if self._slots is not None:
            slots, self._slots = self._slots, None
            slots.give_back(self)


class _Slots:
    """Counts the slots in use and hands freed ones to those who wait, oldest first."""

    def __init__(self, limit: int, lifetime: float) -> None:
        self._limit = limit
        self._lifetime = lifetime
        # In the order in which they were taken or confirmed, and so in that of their presumed
        # ends: one timer, for the first, is enough.
        self._held: dict[_Slot, None] = {}
        self._tasks: dict[TaskRef, _Slot] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: deque[asyncio.Future[_Slot]] = deque()

    @property
    def used(self) -> int:
        return len(self._held)

    def move(self, loop: asyncio.AbstractEventLoop, shift: float) -> None:
        self._loop = loop
        self._waiting.clear()
        for slot in self._held:
            slot.ends_at += shift
        self._timer = None
        self._watch()

    async def take(self) -> _Slot:
        if len(self._held) < self._limit:  # then nobody waits: see give_back
            return self._add()
        turn: asyncio.Future[_Slot] = self._loop.create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                turn.result().release()  # it was handed over in the moment of the cancellation
            elif turn in self._waiting:  # else it has been passed over already
                self._waiting.remove(turn)
            raise

    def adopt(self, ref: TaskRef) -> _Slot:
        slot = self._tasks.get(ref) or self._add()
        self.confirm(slot, ref)
        return slot

    def confirm(self, slot: _Slot, ref: TaskRef) -> None:
        slot.ends_at = self._loop.time() + self._lifetime
        self._held[slot] = self._held.pop(slot)
        other = self._tasks.get(ref, slot)
        slot.ref, self._tasks[ref] = ref, slot
        if other is not slot:
            other.release()  # one task never takes two

    def _add(self) -> _Slot:
        slot = _Slot(self, self._loop.time() + self._lifetime)
        self._held[slot] = None
        self._watch()
        return slot

    def _watch(self) -> None:
        """Set the timer for the presumed end of the first, unless it is set."""
        if self._timer is None and self._held:
            self._timer = self._loop.call_at(next(iter(self._held)).ends_at, self._expire)

    def _expire(self) -> None:
        now = self._loop.time()
        for slot in [slot for slot in self._held if slot.ends_at <= now]:
            slot.release()
        self._timer = None
        self._watch()

    def give_back(self, slot: _Slot) -> None:
        del self._held[slot]
        if slot.ref is not None and self._tasks[slot.ref] is slot:
            del self._tasks[slot.ref]
        while self._waiting and len(self._held) < self._limit:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(self._add())
