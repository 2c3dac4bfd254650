"""The slots in use on one event loop: each with its task and the time at which it expires."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from attrs import define

from kling_async.errors import ConfigurationError
from kling_async.limits.task_cap import TaskCap
from kling_async.limits.waiters import Timer, WaitQueue
from kling_async.results import TaskRef

if TYPE_CHECKING:
    from kling_async.limits.base import Limits, Slot

# A timer may be early by the resolution of the loop's clock.
_EARLY = 1e-6

# Seconds in which other clients that share a slot may see for themselves that its task has ended.
_SHARED_RELEASE = 60.0


@define(eq=False)
class HeldSlot:
    """A slot in use, until it is released or expires; see `kling_async.limits.Slot`."""

    table: SlotTable[Any, Any]  # of the event loop on which it was used last
    acquired_at: float
    expires_at: float
    ref: TaskRef | None = None  # of its task, once that is known
    ran: bool = False  # its task, as far as is known
    shared: bool = False  # by several clients
    released: bool = False
    callbacks: tuple[Callable[[], None], ...] = ()

    def confirm(
        self,
        ref: TaskRef,
        lifetime: float | None = None,
        on_expired: Callable[[], None] | None = None,
    ) -> None:
        """Note that the service has just accepted the slot's task, or reported that it runs."""
        if not self.released:
            lifetime = self.table.lifetime if lifetime is None else lifetime
            self.table.update(self, lifetime, ref, on_expired)

    def expire_in(self, lifetime: float) -> None:
        """Let the slot expire in so many seconds: it is unknown whether a task was started."""
        if not self.released:
            self.table.update(self, lifetime)

    def release(self) -> None:
        """Give the slot back. Further calls do nothing."""
        if not self.released:
            self.table.release(self)
            loop = self.table.loop
            for callback in self.callbacks if self.shared and not loop.is_closed() else ():
                loop.call_later(_SHARED_RELEASE, callback)


class _Cap(Protocol):
    """How many tasks may run; see `TaskCap`."""

    @property
    def cap(self) -> int:
        """The learned limit."""

    def accepted(self, running: int) -> None:
        """Note that the service has accepted a task, or named one that runs."""

    def shift(self, shift: float) -> None:
        """Change to a clock that shows so much more."""


SlotT = TypeVar("SlotT", bound=HeldSlot)
CapT = TypeVar("CapT", bound=_Cap)


class SlotTable(Generic[SlotT, CapT]):
    """The slots in use on one event loop.

    Args:
        loop: The event loop.
        limits: What the account may do.
        move: Moves all slots to the running event loop, and returns its state.
        cap: How many tasks may run.
    """

    slot_type: type[SlotT]

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        move: Callable[[], object],
        cap: CapT,
    ) -> None:
        self.loop = loop
        self.lifetime: float = limits.presumed_lifetime
        self.cap: CapT = cap
        self.held: set[SlotT] = set()
        self._by_ref: dict[TaskRef, SlotT] = {}
        self._waiters: WaitQueue[SlotT] = WaitQueue(loop, self.give_back)
        self._move = move
        # Set for the first slot to expire. Most are confirmed again and again, and released
        # before: then it fires too early, and is set again.
        self._expiry = Timer(loop, self._expire_due)

    def take_over(self, previous: Self, shift: float) -> None:
        """Continue with the slots of an event loop that has ended.

        Args:
            previous: The table of that loop.
            shift: This loop's clock minus that one's.
        """
        previous._expiry.cancel()
        self.cap, self.held, self._by_ref = previous.cap, previous.held, previous._by_ref
        self.cap.shift(shift)
        for slot in self.held:
            slot.table = self
            slot.acquired_at += shift
            slot.expires_at += shift
            self._expiry.set(slot.expires_at)

    def adopt(
        self, ref: TaskRef, lifetime: float | None, on_expired: Callable[[], None] | None
    ) -> SlotT:
        """Return the slot of a task that runs already."""
        slot = self._by_ref.get(ref)
        if slot is None:
            slot = self.add(self.loop.time())
        else:
            slot.shared = True
        lifetime = self.lifetime if lifetime is None else lifetime
        self.update(slot, lifetime, ref, on_expired, seen=False)
        return slot

    def add(self, now: float) -> SlotT:
        """Add a slot, acquired now."""
        slot = self.slot_type(self, now, now + self.lifetime)
        self.held.add(slot)
        if slot.expires_at < self._expiry.when:
            self._expiry.set(slot.expires_at)
        return slot

    def update(
        self,
        slot: SlotT,
        lifetime: float,
        ref: TaskRef | None = None,
        on_expired: Callable[[], None] | None = None,
        *,
        seen: bool = True,
    ) -> None:
        """Let a slot expire in so many seconds, and note which task it belongs to, if known.

        If the task has another slot, that is dropped. ``seen`` is whether the service has just
        accepted the task, or has reported that it runs.
        """
        if not lifetime >= 0:
            raise ConfigurationError(f"a slot needs a lifetime of 0 s or more, not {lifetime!r}")
        if self.loop is not asyncio.get_running_loop():
            self._move()  # which changes the slot's table
            slot.table.update(slot, lifetime, ref, on_expired, seen=seen)
            return
        slot.expires_at = self.loop.time() + min(lifetime, self.lifetime)
        if slot.expires_at < self._expiry.when:
            self._expiry.set(slot.expires_at)
        if on_expired is not None and on_expired not in slot.callbacks:
            slot.callbacks += (on_expired,)
        if ref is not None and ref != slot.ref:
            if slot.ref is not None:
                del self._by_ref[slot.ref]
            if (other := self._by_ref.get(ref)) is not None:
                slot.callbacks += tuple(one for one in other.callbacks if one not in slot.callbacks)
                slot.shared = True
                self.remove(other)
            slot.ref, self._by_ref[ref], slot.ran = ref, slot, False
        if seen and ref is not None and not slot.ran:
            slot.ran = True
            self.cap.accepted(len(self._by_ref))
            if self._waiters.urgent or self._waiters.normal:
                self.serve()

    def remove(self, slot: SlotT) -> None:
        """Forget a slot."""
        slot.released = True
        self.held.remove(slot)
        if slot.ref is not None:
            del self._by_ref[slot.ref]

    @abstractmethod
    async def acquire(self, *, first: bool) -> SlotT:
        """Wait until one more task may run, and return its slot."""

    @abstractmethod
    def refuse(self, slot: Slot) -> None:
        """Note that the service answered 429 to the submit that holds the slot."""

    @abstractmethod
    def release(self, slot: SlotT) -> None:
        """Free a slot."""

    def give_back(self, slot: SlotT) -> None:
        """Take back a slot that was given to a waiter as it was cancelled."""
        self.release(slot)

    def expire(self, slot: SlotT) -> None:
        """Free a slot whose lifetime is over."""
        self.release(slot)

    @abstractmethod
    def serve(self) -> None:
        """Give slots to those who wait."""

    def _expire_due(self) -> None:
        now = self.loop.time() + _EARLY
        for slot in [*self.held]:
            if slot.expires_at > now:
                self._expiry.set(slot.expires_at)
            else:
                for callback in slot.callbacks:
                    self.loop.call_soon(callback)  # the loop reports what it raises
                self.expire(slot)


class SlotQueue(SlotTable[HeldSlot, TaskCap]):
    """The slots of a process that no other shares the limits with: first in, first out."""

    slot_type = HeldSlot

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limits: Limits, move: Callable[[], object]
    ) -> None:
        super().__init__(loop, limits, move, TaskCap(limits.concurrent_tasks))
        self._admission = Timer(loop, self.serve)

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

    def release(self, slot: HeldSlot) -> None:
        """Free a slot."""
        self.remove(slot)
        if slot.ran:
            self.cap.probing = False
        if (self._waiters.urgent or self._waiters.normal) and not self.loop.is_closed():
            self.serve()

    def serve(self) -> None:
        """Give as many slots as the cap allows to those who wait."""
        while self._waiters.purge():
            now = self.loop.time()
            if not self.cap.try_admit(len(self.held), now):
                self._set_timer()
                return
            self._waiters.give(self.add(now))

    def _set_timer(self) -> None:
        """Call `serve` when the cap may allow more though nothing has happened."""
        if (when := self.cap.next_admission(len(self.held))) is not None:
            self._admission.set(when)
