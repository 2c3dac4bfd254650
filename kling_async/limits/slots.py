"""The slots in use on one event loop: each with its task and the time at which it expires."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from attrs import define, field

from kling_async.errors import ConfigurationError
from kling_async.limits.task_cap import TaskCap
from kling_async.results import TaskRef

if TYPE_CHECKING:
    from kling_async.limits.base import Limits, Slot


@define(eq=False)
class HeldSlot:
    """A slot in use, until it is released or expires; see `kling_async.limits.Slot`."""

    table: SlotTable[Any]  # of the event loop on which it was used last
    acquired_at: float
    expires_at: float
    ref: TaskRef | None = None  # of its task, once that is known
    released: bool = False
    callbacks: tuple[Callable[[], None], ...] = ()
    timer: asyncio.TimerHandle = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.table.held.add(self)
        self.timer = self.table.loop.call_at(self.expires_at, self._expire)

    def confirm(
        self,
        ref: TaskRef,
        lifetime: float | None = None,
        on_expired: Callable[[], None] | None = None,
    ) -> None:
        """Note that the service has just accepted the slot's task, or reported that it runs."""
        if self.released:
            return
        self.expire_in(self.table.lifetime if lifetime is None else lifetime)
        if on_expired is not None and on_expired not in self.callbacks:
            self.callbacks += (on_expired,)
        if self.ref != ref:
            self.table.assign(self, ref)

    def expire_in(self, lifetime: float) -> None:
        """Let the slot expire in so many seconds: it is unknown whether a task was started."""
        if self.released:
            return
        if not lifetime >= 0:
            raise ConfigurationError(f"a slot needs a lifetime of 0 s or more, not {lifetime!r}")
        if self.table.loop is not asyncio.get_running_loop():
            self.table.move()  # which replaces self.table
        self.expires_at = self.table.loop.time() + min(lifetime, self.table.lifetime)
        # Most slots are confirmed again and again: a timer that is too early is set again
        # when it fires.
        if self.expires_at < self.timer.when():
            self.timer.cancel()
            self.set_timer()

    def release(self) -> None:
        """Give the slot back. Further calls do nothing."""
        if not self.released:
            self.table.release(self)

    def set_timer(self) -> None:
        """Set the timer for the time at which the slot expires."""
        self.timer = self.table.loop.call_at(self.expires_at, self._expire)

    def _expire(self) -> None:
        if self.expires_at > self.timer.when():
            self.set_timer()
            return
        for callback in self.callbacks:
            self.table.loop.call_soon(callback)  # the loop reports what it raises
        self.table.expire(self)


SlotT = TypeVar("SlotT", bound=HeldSlot)


class SlotTable(Generic[SlotT]):
    """The slots in use on one event loop.

    Args:
        loop: The event loop.
        limits: What the account may do.
        move: Moves all slots to the running event loop.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        move: Callable[[], object],
    ) -> None:
        self.loop = loop
        self.lifetime = limits.presumed_lifetime
        self.cap = TaskCap(limits.concurrent_tasks)
        self.move = move
        self.held: set[SlotT] = set()
        self._by_ref: dict[TaskRef, SlotT] = {}

    def take_over(self, previous: Self, shift: float) -> None:
        """Continue with the slots of an event loop that has ended.

        Args:
            previous: The table of that loop.
            shift: This loop's clock minus that one's.
        """
        self.cap, self.held, self._by_ref = previous.cap, previous.held, previous._by_ref
        self.cap.shift(shift)
        for slot in self.held:
            slot.table = self
            slot.acquired_at += shift
            slot.expires_at += shift
            slot.timer.cancel()
            slot.set_timer()

    def adopt(
        self, ref: TaskRef, lifetime: float | None, on_expired: Callable[[], None] | None
    ) -> SlotT:
        """Return the slot of a task that runs already."""
        slot = self._by_ref.get(ref) or self.add(self.loop.time())
        slot.confirm(ref, lifetime, on_expired)
        return slot

    def assign(self, slot: SlotT, ref: TaskRef) -> None:
        """Note which task a slot belongs to. If the task has another slot, that is dropped."""
        if slot.ref is not None:
            del self._by_ref[slot.ref]
        if (other := self._by_ref.get(ref)) is not None:
            slot.callbacks += tuple(one for one in other.callbacks if one not in slot.callbacks)
            self.remove(other)
        slot.ref, self._by_ref[ref] = ref, slot

    def remove(self, slot: SlotT) -> None:
        """Forget a slot."""
        slot.released = True
        slot.timer.cancel()
        self.held.remove(slot)
        if slot.ref is not None:
            del self._by_ref[slot.ref]
            self.cap.ended()

    @abstractmethod
    async def acquire(self, *, first: bool) -> SlotT:
        """Wait until one more task may run, and return its slot."""

    @abstractmethod
    def refuse(self, slot: Slot) -> None:
        """Note that the service answered 429 to the submit that holds the slot."""

    @abstractmethod
    def add(self, now: float) -> SlotT:
        """Add a slot, acquired now."""

    @abstractmethod
    def release(self, slot: SlotT) -> None:
        """Give a slot back."""

    @abstractmethod
    def expire(self, slot: SlotT) -> None:
        """Remove a slot whose time is over."""
