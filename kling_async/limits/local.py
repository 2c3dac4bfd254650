"""The limits of an account that one process uses alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING

from attrs import frozen

from kling_async.errors import ConfigurationError
from kling_async.limits.base import Limits, Permit, Slot
from kling_async.limits.request_queue import RequestPermit, RequestQueue
from kling_async.limits.slot_queue import HeldSlot, SlotQueue

if TYPE_CHECKING:
    from kling_async.results import TaskRef


@frozen(eq=False)
class _OnLoop:
    """What belongs to one event loop."""

    loop: asyncio.AbstractEventLoop
    requests: RequestQueue
    slots: SlotQueue


class LocalLimiter:
    """Keeps one process within the limits. It may be shared by several clients.

    It serves one event loop at a time. What counts outlives the loop: after another
    ``asyncio.run`` the slots are still held, and the requests of the last minute still count.

    Args:
        limits: The numbers to keep.

    All methods raise ConfigurationError if the limiter is in use on another loop that is running.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._on_loop: _OnLoop | None = None

    def __repr__(self) -> str:
        return f"<LocalLimiter {self._limits!r} slots in use: {self.slots_in_use}>"

    @property
    def limits(self) -> Limits:
        """The numbers that it keeps."""
        return self._limits

    @property
    def slots_in_use(self) -> int:
        """How many slots are in use now."""
        return self._on_loop.slots.used if self._on_loop else 0

    @property
    def effective_tasks(self) -> int:
        """How many tasks may run; see :class:`~kling_async.limits.Limiter`."""
        return self._on_loop.slots.cap.cap if self._on_loop else self._limits.concurrent_tasks

    def request(self) -> Coroutine[object, object, RequestPermit]:
        """Wait until one more request may be sent, and return its permit."""
        return self._here().requests.request()

    def pause(self, delay: float, permit: Permit) -> bool:
        """Let every request wait ``delay`` seconds; see :class:`~kling_async.limits.Limiter`."""
        return self._here().requests.pause(delay, permit.granted_at)

    def slot(self, *, first: bool = False) -> Coroutine[object, object, HeldSlot]:
        """Wait until one more task may run, and hold its slot."""
        return self._here().slots.slot(first=first)

    def adopt(
        self,
        ref: TaskRef,
        lifetime: float | None = None,
        on_expired: Callable[[], None] | None = None,
    ) -> HeldSlot:
        """Hold the slot of a task that is found to be running already, even beyond the limit."""
        return self._here().slots.adopt(ref, lifetime, on_expired)

    def refused(self, slot: Slot) -> None:
        """Note that the service answered 429 to the submit that holds this slot."""
        if not isinstance(slot, HeldSlot):
            raise ConfigurationError(f"refused() needs a slot of this limiter, not {slot!r}")
        self._here().slots.refused(slot)

    def _here(self) -> _OnLoop:
        """Return what belongs to the running loop."""
        loop = asyncio.get_running_loop()
        here = self._on_loop
        return here if here is not None and here.loop is loop else self._move(loop)

    def _move(self, loop: asyncio.AbstractEventLoop) -> _OnLoop:
        requests = RequestQueue(loop, self._limits.requests_per_minute)
        slots = SlotQueue(loop, self._limits, lambda: self._here().slots)
        before = self._on_loop
        if before is not None:
            if before.loop.is_running():
                raise ConfigurationError(
                    "a limiter, and the clients that share it, serve one running event loop: use "
                    "one client and limiter for each loop, or run the coroutines on the loop that "
                    "has them, by asyncio.run_coroutine_threadsafe"
                )
            # Loops may count time from different zeros, as virtual ones do.
            shift = loop.time() - before.loop.time()
            requests.take_over(before.requests, shift)
            slots.take_over(before.slots, shift)
        self._on_loop = _OnLoop(loop, requests, slots)
        return self._on_loop
