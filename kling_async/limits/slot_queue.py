"""Slots on one event loop: first in, first out, as many as the cap allows, each with its end."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from itertools import count
from typing import TYPE_CHECKING

from kling_async.errors import ConfigurationError
from kling_async.limits.expiry import Expiries
from kling_async.limits.task_cap import TaskCap

if TYPE_CHECKING:
    from collections.abc import Callable

    from kling_async.limits.base import Limits
    from kling_async.results import TaskRef

_Turns = OrderedDict[asyncio.Future["HeldSlot"], None]


class HeldSlot:
    """A slot in use, until it is released or expires."""

    def __init__(self, queue: SlotQueue, number: int, given_at: float) -> None:
        self.queue: SlotQueue | None = queue  # None: it is not held any more
        self.number = number
        self.given_at = given_at
        self.ref: TaskRef | None = None  # of its task, once the service has named it
        self.on_expired: tuple[Callable[[], None], ...] = ()

    def confirm(
        self,
        ref: TaskRef,
        lifetime: float | None = None,
        on_expired: Callable[[], None] | None = None,
    ) -> None:
        """Note that the service has just accepted the slot's task, or said that it runs."""
        if self.queue is not None:
            self.queue.here().confirm(self, ref, lifetime, on_expired)

    def expire_in(self, lifetime: float) -> None:
        """Let the slot expire in so many seconds: it is not known whether a task was started."""
        if self.queue is not None:
            self.queue.here().expire_in(self, lifetime)

    def release(self) -> None:
        """Give the slot back; the second call and later do nothing."""
        if self.queue is not None:
            self.queue.release(self)


class SlotQueue:
    """The slots in use, and those who wait for one.

    Args:
        loop: The loop on which it is used.
        limits: The numbers that it keeps.
        here: Returns the queue of the running loop, which takes over from this one if this
            one's loop has ended.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limits: Limits, here: Callable[[], SlotQueue]
    ) -> None:
        self._loop = loop
        self._longest = limits.presumed_lifetime
        self.here = here
        self.cap: TaskCap = TaskCap(limits.concurrent_tasks)
        self._numbers = count()
        self._held: dict[int, HeldSlot] = {}
        self._tasks: dict[TaskRef, HeldSlot] = {}  # those of them whose tasks are known to run
        self._expiries = Expiries()
        self._expiry: asyncio.TimerHandle | None = None
        self._first: _Turns = OrderedDict()  # served before the others
        self._others: _Turns = OrderedDict()
        self._wake: asyncio.TimerHandle | None = None

    def take_over(self, previous: SlotQueue, shift: float) -> None:
        """Begin with the slots of a loop that has ended; its waiters have ended with it.

        Args:
            previous: The queue of that loop.
            shift: What this loop's clock shows more than that one's.
        """
        self.cap, self._numbers = previous.cap, previous._numbers
        self._held, self._tasks = previous._held, previous._tasks
        self._expiries = previous._expiries
        self.cap.shift(shift)
        self._expiries.shift(shift)
        for slot in self._held.values():
            slot.queue = self
            slot.given_at += shift
        self._watch(self._expiries.next())

    @property
    def used(self) -> int:
        """How many slots are in use."""
        return len(self._held)

    async def slot(self, *, first: bool = False) -> HeldSlot:
        """Wait until one more task may run, and hold its slot."""
        now = self._loop.time()
        is_next = not self._first and (first or not self._others)
        if is_next and self.cap.admit(len(self._held), now):
            return self._add(now)
        turn: asyncio.Future[HeldSlot] = self._loop.create_future()
        turns = self._first if first else self._others
        turns[turn] = None
        self._wake_later()
        try:
            return await turn
        except asyncio.CancelledError:
            turns.pop(turn, None)
            if turn.done() and not turn.cancelled():
                turn.result().release()  # it was handed over in the moment of the cancellation
            raise

    def adopt(
        self, ref: TaskRef, lifetime: float | None, on_expired: Callable[[], None] | None
    ) -> HeldSlot:
        """Hold the slot of a task that is found to be running already."""
        slot = self._tasks.get(ref)
        if slot is None:
            slot = self._add(self._loop.time())
        self.confirm(slot, ref, lifetime, on_expired)
        return slot

    def confirm(
        self,
        slot: HeldSlot,
        ref: TaskRef,
        lifetime: float | None,
        on_expired: Callable[[], None] | None,
    ) -> None:
        """Note that a slot's task runs."""
        self.expire_in(slot, self._longest if lifetime is None else lifetime)
        if on_expired is not None and on_expired not in slot.on_expired:
            slot.on_expired += (on_expired,)
        if slot.ref == ref:
            return
        if slot.ref is not None:
            del self._tasks[slot.ref]
        other = self._tasks.get(ref)
        if other is not None:  # one task never holds two
            slot.on_expired += tuple(c for c in other.on_expired if c not in slot.on_expired)
            self._drop(other)
        slot.ref, self._tasks[ref] = ref, slot
        self.cap.accepted(len(self._tasks))
        self._serve()

    def expire_in(self, slot: HeldSlot, lifetime: float) -> None:
        """Let a slot expire in so many seconds."""
        if not lifetime >= 0:
            raise ConfigurationError(f"a slot needs a lifetime of 0 s or more, not {lifetime!r}")
        moment = self._loop.time() + min(lifetime, self._longest)
        self._expiries.set(slot.number, moment)
        self._watch(moment)

    def refused(self, slot: HeldSlot) -> None:
        """Note that the service answered 429 to the submit that holds the slot."""
        self.cap.refused(slot.given_at, len(self._tasks), self._loop.time())
        slot.release()

    def release(self, slot: HeldSlot) -> None:
        """Give a slot back."""
        self._drop(slot)
        if slot.ref is not None:
            self.cap.ended()
        if not self._loop.is_closed():
            self._serve()

    def _add(self, now: float) -> HeldSlot:
        slot = HeldSlot(self, next(self._numbers), now)
        self._held[slot.number] = slot
        moment = now + self._longest
        self._expiries.set(slot.number, moment)
        self._watch(moment)
        return slot

    def _drop(self, slot: HeldSlot) -> None:
        slot.queue = None
        del self._held[slot.number]
        self._expiries.discard(slot.number)
        if slot.ref is not None:
            del self._tasks[slot.ref]

    def _serve(self) -> None:
        """Hand out what the cap allows, oldest first."""
        while turns := self._first or self._others:
            turn = next(iter(turns))
            if not turn.done():  # else it was cancelled, and will find out
                now = self._loop.time()
                if not self.cap.admit(len(self._held), now):
                    self._wake_later()
                    return
                turn.set_result(self._add(now))
            del turns[turn]

    def _wake_later(self) -> None:
        """Set the timer for the moment at which the cap may allow more by itself."""
        moment = self.cap.next_admission(len(self._held))
        if moment is not None and (self._wake is None or moment < self._wake.when()):
            if self._wake is not None:
                self._wake.cancel()
            self._wake = self._loop.call_at(moment, self._woken)

    def _woken(self) -> None:
        self._wake = None
        self._serve()

    def _watch(self, moment: float | None) -> None:
        """Have expired slots released at this moment, if there is nothing to do sooner."""
        if moment is not None and (self._expiry is None or moment < self._expiry.when()):
            if self._expiry is not None:
                self._expiry.cancel()
            self._expiry = self._loop.call_at(moment, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        for number in self._expiries.pop(self._loop.time()):
            slot = self._held[number]
            for callback in slot.on_expired:
                self._loop.call_soon(callback)  # the loop reports what it raises
            self.release(slot)
        self._watch(self._expiries.next())
