"""The limits of an account that only one process uses."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiolimiter import AsyncLimiter
from attrs import define, field

from kling_async.errors import ConfigurationError
from kling_async.limits.loop_limiter import LoopLimiter, LoopState
from kling_async.limits.slots import HeldSlot, SlotTable
from kling_async.limits.waiters import Timer, WaitQueue
from kling_async.limits.window import RequestPause, RequestWindow

if TYPE_CHECKING:
    from collections.abc import Callable

    from kling_async.limits.base import Limits, Slot
    from kling_async.results import TaskRef

# A second of the limit, so that late timers cost no throughput; more than these are hardly ever
# in flight together.
_MAX_BURST = 100

# The burst of small limits: a submit need not wait after the poll that found its slot free. The
# window keeps the limit whatever the burst is.
_SMALL_BURST = 4


class LocalLimiter(LoopLimiter[LoopState]):
    """Keeps one process within the limits. Several clients may share it.

    It serves one event loop at a time. After another ``asyncio.run`` the slots are still held,
    and the requests of the last minute still count. Its methods are those of
    :class:`~kling_async.limits.Limiter`; all of them raise ConfigurationError if the limiter is in
    use on another loop that is running.

    Args:
        limits: The limits to keep.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        super().__init__(limits)

    def __repr__(self) -> str:
        return f"<LocalLimiter {self._limits!r} slots in use: {self.slots_in_use}>"

    def _create_state(self, loop: asyncio.AbstractEventLoop) -> LoopState:
        requests = _RequestQueue(loop, self._limits.requests_per_minute)
        return LoopState(loop, requests, _SlotQueue(loop, self._limits, self._on_loop))


@define(eq=False)
class _RequestPermit:
    """See :class:`~kling_async.limits.Permit`."""

    _queue: _RequestQueue
    granted_at: float
    _is_answered: bool = field(default=False, init=False)

    def answered(self) -> None:
        """Note that the request has been answered, or has failed."""
        if not self._is_answered:
            self._is_answered = True
            queue = self._queue
            queue.window.answer(queue.loop.time())
            if queue.answer is not None and not queue.answer.done():
                queue.answer.set_result(None)


class _RequestQueue:
    """Grants requests on one event loop: first in, first out.

    aiolimiter's token bucket keeps the rate of the limit, with a small burst. The window
    guarantees the limit, whatever the latencies.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, requests_per_minute: int) -> None:
        self.loop = loop
        self.window = RequestWindow(requests_per_minute)
        self._pause = RequestPause()
        burst = max(min(_SMALL_BURST, requests_per_minute), requests_per_minute // 60)
        burst = min(_MAX_BURST, burst)
        self._bucket = AsyncLimiter(burst, burst * 60 / requests_per_minute)
        self._has_token = False  # taken from the bucket, and not used yet
        self._lock = asyncio.Lock()  # aiolimiter alone lets newcomers overtake
        self._waiting = 0
        self.answer: asyncio.Future[None] | None = None  # awaited by the first in line

    def take_over(self, previous: _RequestQueue, shift: float) -> None:
        """Continue with the window and the pause of an event loop that has ended."""
        self.window = previous.window.rebased(self.loop.time(), shift)
        self._pause = previous._pause.rebased(shift)

    async def request(self) -> _RequestPermit:
        """Wait until one more request may be sent, and return its permit."""
        if not self._waiting:
            now = self.loop.time()
            if not self._has_token and self._bucket.has_capacity():
                await self._bucket.acquire()  # does not wait
                self._has_token = True
            if self._has_token and self._pause.ends_at <= now and self.window.grant(now):
                self._has_token = False
                return _RequestPermit(self, now)
        self._waiting += 1
        try:
            async with self._lock:
                return await self._wait_in_line()
        finally:
            self._waiting -= 1

    async def _wait_in_line(self) -> _RequestPermit:
        if not self._has_token:
            await self._bucket.acquire()
            self._has_token = True  # if this waiter is cancelled, the next one uses it
        # A pause may begin, or grow, meanwhile; the window may be full after it.
        while True:
            now = self.loop.time()
            if now < self._pause.ends_at:
                await asyncio.sleep(self._pause.ends_at - now)
            elif self.window.grant(now):
                self._has_token = False
                return _RequestPermit(self, now)
            elif (when := self.window.next_grant(now)) is not None:
                await asyncio.sleep(when - now)
            else:
                self.answer = self.loop.create_future()
                await self.answer

    def refuse(self, delay: float, granted_at: float) -> bool:
        """Grant nothing for ``delay`` seconds."""
        return self._pause.refuse(delay, granted_at, self.loop.time())


class _SlotQueue(SlotTable[HeldSlot]):
    """Gives slots on one event loop: first in, first out, as many as the cap allows."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limits: Limits, move: Callable[[], object]
    ) -> None:
        super().__init__(loop, limits, move)
        self._waiters: WaitQueue[HeldSlot] = WaitQueue(loop, self.release)
        self._timer = Timer(loop, self._give)

    async def acquire(self, *, first: bool) -> HeldSlot:
        """Wait until one more task may run, and return its slot."""
        waiters, now = self._waiters, self.loop.time()
        is_next = not waiters.urgent and (first or not waiters.normal)
        if is_next and self.cap.try_admit(len(self.held), now):
            return self.add(now)
        waiter = waiters.join(urgent=first)
        self._set_timer()
        return await waiters.result(waiter)

    def refuse(self, slot: Slot) -> None:
        """Note that the service answered 429 to the submit that holds the slot."""
        if not isinstance(slot, HeldSlot):
            raise ConfigurationError(f"refused() needs a slot of this limiter, not {slot!r}")
        self.cap.refused(slot.acquired_at, len(self._by_ref), self.loop.time())
        slot.release()

    def add(self, now: float) -> HeldSlot:
        """Add a slot, acquired now."""
        return HeldSlot(self, now, now + self.lifetime)

    def assign(self, slot: HeldSlot, ref: TaskRef) -> None:
        """Note which task a slot belongs to."""
        super().assign(slot, ref)
        self.cap.accepted(len(self._by_ref))
        if self._waiters.urgent or self._waiters.normal:
            self._give()

    def release(self, slot: HeldSlot) -> None:
        """Give a slot back."""
        self.remove(slot)
        if not self.loop.is_closed():
            self._give()

    expire = release

    def _give(self) -> None:
        """Give as many slots as the cap allows to those who wait."""
        while self._waiters.purge():
            now = self.loop.time()
            if not self.cap.try_admit(len(self.held), now):
                self._set_timer()
                return
            self._waiters.give(self.add(now))

    def _set_timer(self) -> None:
        """Call `_give` when the cap may allow more though nothing has happened."""
        if (when := self.cap.next_admission(len(self.held))) is not None:
            self._timer.set(when)
