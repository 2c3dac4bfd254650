"""Slots under shared limits: what this process holds, reported to the backend in bulk.

A lease belongs to the remote task. Its key is random at first, and the task's reference as soon as
that is known: so a task has one lease, whichever process polls it. Until then the lease is short
and renewed, so that it ends soon after its process has died.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from math import inf
from random import random
from typing import TYPE_CHECKING, Self
from uuid import uuid4

from attrs import define, field, frozen

from kling_async.errors import ConfigurationError, KlingError, LimiterError
from kling_async.limits.base import Limits
from kling_async.limits.shared._call_loop import CLOSED, CallLoop
from kling_async.limits.shared._learned_cap import LearnedCap
from kling_async.limits.shared.backend import Lease, LeaseUpdate
from kling_async.limits.shared.schedule import RequestSchedule
from kling_async.limits.slots import HeldSlot, SlotTable
from kling_async.limits.task_cap import TaskCap

if TYPE_CHECKING:
    import asyncio

    from kling_async.limits.base import Slot
    from kling_async.limits.shared.availability import MonitoredBackend
    from kling_async.results import TaskRef

# Seconds between attempts of a process that finds no free slot, on average. All processes try
# equally often, and not always in the same order, and so have equal chances.
_RETRY_EVERY = 0.1

# Seconds for which changes are gathered before they are reported.
_GATHER_FOR = 0.01

# Seconds without any answer after which a process that holds leases asks whether they are known.
_HEARTBEAT = 2.0

# Seconds for which a backend that has lost its state grants no slot: a process has noticed by
# then, after its heartbeat and a delayed retry, and has reported what it holds.
RECOVERY_DELAY = 3.5

# Seconds that the lease of a submit in flight lasts: what a request takes at most by default, and
# a margin. A living process renews it when half of them have passed.
SUBMIT_LEASE = 40.0

# Seconds after which a process that holds leases reports, whatever else it has called for.
_RENEW_EVERY = SUBMIT_LEASE / 4

# New leases that one call asks for.
_MAX_ACQUIRED = 100

# Another expiry of a lease is reported if it differs by this part of the lifetime: not at each
# status answer, nor much too late.
_STALE = 1 / 8


@define(eq=False)
class LeasedSlot(HeldSlot):
    """A slot in use, which all processes know by the key of its lease."""

    key: str = field(factory=lambda: uuid4().hex)
    reported_until: float = inf  # when the lease expires, as far as the backend knows
    is_submitting: bool = True


@frozen
class LeaseSettings:
    """What all leases of a limiter have in common.

    Attributes:
        limits: What the account may do.
        schedule: The schedule of the requests.
        settle: Seconds for which a backend that has lost its state grants no slot.
        local_slots: How many slots this process may hold while the backend is unavailable.
        holder: The name of this process.
    """

    limits: Limits
    schedule: RequestSchedule
    settle: float
    local_slots: int
    holder: str


class SlotLeases(SlotTable[LeasedSlot, LearnedCap]):
    """The slots of this process on one event loop.

    Args:
        loop: The event loop.
        backend: The backend, which other processes use too.
        settings: What all leases have in common.
        move: Moves all slots to the running event loop.
    """

    slot_type = LeasedSlot

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        backend: MonitoredBackend,
        settings: LeaseSettings,
        move: Callable[[], object],
    ) -> None:
        cap = TaskCap(settings.limits.concurrent_tasks)
        super().__init__(loop, settings.limits, move, LearnedCap(cap))
        self.calls: CallLoop = CallLoop(loop, self._next_call, self._call)
        self._backend = backend
        self._settings = settings
        # What the backend does not know yet: the slot of each key, None for one that is free.
        self._unreported: dict[str, LeasedSlot | None] = {}
        backend.on_state_lost.append(self._report_all)

    def take_over(self, previous: Self, shift: float) -> None:
        """Continue with the slots of an event loop that has ended."""
        super().take_over(previous, shift)
        for slot in self.held:
            slot.reported_until += shift
        self._unreported = previous._unreported
        self.calls.update()

    async def acquire(self, *, first: bool) -> LeasedSlot:
        """Wait until one more task may run, and return its slot."""
        if self.calls.stopped:
            raise LimiterError(CLOSED)
        waiter = self._waiters.join(urgent=first)
        self.serve()
        self.calls.update()
        return await self._waiters.result(waiter)

    def refuse(self, slot: Slot) -> None:
        """Note that the service answered 429 to the submit that holds the slot."""
        if not isinstance(slot, LeasedSlot) or slot.table is not self:
            raise ConfigurationError(f"refused() needs a slot of this limiter, not {slot!r}")
        if not slot.released:
            self.cap.refused(slot.acquired_at, len(self._by_ref), self.loop.time())
            slot.release()

    def stop(self) -> None:
        """Begin nothing more on this event loop."""
        self.calls.stop()

    async def close(self) -> None:
        """Report what has changed, once, and raise an error in those who wait.

        The slots are still held, since their tasks run.
        """
        await self.calls.close()
        self._waiters.set_exception(LimiterError(CLOSED))
        if self._unreported:
            with suppress(KlingError):  # then they are free after their lifetime
                await self._exchange()

    def add(self, now: float, key: str = "") -> LeasedSlot:
        """Add a slot; without a key the backend does not know it yet."""
        slot = super().add(now)
        if key:
            slot.key, slot.reported_until = key, now + min(SUBMIT_LEASE, self.lifetime)
        else:
            self._unreported[slot.key] = slot
        return slot

    def update(
        self,
        slot: LeasedSlot,
        lifetime: float,
        ref: TaskRef | None = None,
        on_expired: Callable[[], None] | None = None,
        *,
        seen: bool = True,
    ) -> None:
        """Let a slot expire in so many seconds, and note which task it belongs to, if known."""
        before = slot.ref
        super().update(slot, lifetime, ref, on_expired, seen=seen)
        if slot.table is not self:
            return  # it has moved to another event loop, whose table has reported it
        slot.is_submitting = False
        if slot.ref != before:
            self._unreported[slot.key] = None
            slot.key = str(ref)
            self.report_lease(slot.key, slot)
        elif abs(slot.reported_until - slot.expires_at) > min(lifetime, self.lifetime) * _STALE:
            self.report_lease(slot.key, slot)

    def remove(self, slot: LeasedSlot) -> None:
        """Forget a slot."""
        super().remove(slot)
        if slot.ran:
            self.cap.own.probing = False

    def report_lease(self, key: str, slot: LeasedSlot | None) -> None:
        """Report a lease with the next call."""
        self._unreported[key] = slot
        self.serve()
        self.calls.report_change()

    def release(self, slot: LeasedSlot) -> None:
        """Free a slot."""
        self.remove(slot)
        self.report_lease(slot.key, None)

    def expire(self, slot: LeasedSlot) -> None:
        """Remove a slot whose time is over. Its lease ends too, unless another process has it."""
        self.remove(slot)
        self._unreported.pop(slot.key, None)

    def _report_all(self) -> None:
        self.cap.report_again()
        self._unreported |= {slot.key: slot for slot in self.held}
        self.calls.update()

    def give_back(self, slot: LeasedSlot) -> None:
        """Give a slot to the first one that waits, or free it."""
        if not self._waiters.give(slot):
            slot.release()

    def serve(self) -> None:
        """Give slots of this process's own share while the backend is unavailable."""
        while (
            self._backend.unavailable
            and len(self.held) < self._settings.local_slots
            and self._waiters.purge()
            and self.cap.own.try_admit(len(self.held), self.loop.time())
        ):
            self._waiters.give(self.add(self.loop.time()))

    def _next_call(self) -> float | None:
        times = []
        if self.held:
            times += [self._backend.answered_at + _HEARTBEAT, self.calls.called_at + _RENEW_EVERY]
        if self._unreported:
            times.append(self.calls.changed_at + _GATHER_FOR)
        if self._waiters:
            times.append(self.cap.acquire_at)
        return max(min(times), self._backend.retry_at) if times else None

    async def _call(self) -> None:
        try:
            await self._exchange()
        except LimiterError as error:
            if self._backend.when_gone == "raise":
                self._waiters.set_exception(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, no caller waits for ever
            self._waiters.set_exception(error)
        self.serve()

    async def _exchange(self) -> None:
        """Report all changes and acquire slots, in one call."""
        sent = self.loop.time()
        for slot in self.held:
            if slot.is_submitting and slot.reported_until - sent < SUBMIT_LEASE / 2:
                self._unreported[slot.key] = slot
        wanted = min(_MAX_ACQUIRED, len(self._waiters))
        acquire = tuple(uuid4().hex for _ in range(self.cap.try_admit(wanted, sent)))
        changes, self._unreported = self._unreported, {}
        renewed = [slot for slot in changes.values() if slot is not None and not slot.released]
        update = LeaseUpdate(
            renew=tuple(self._lease(slot, sent) for slot in renewed),
            acquire=acquire,
            release=tuple(key for key, slot in changes.items() if slot is None),
            limit=self._settings.limits.concurrent_tasks,
            cap=self.cap.most(len(acquire), len(self._by_ref)),
            lifetime=min(SUBMIT_LEASE, self.lifetime),
            holder=self._settings.holder,
            settle=self._settings.settle,
            schedule=self._settings.schedule,
            learned=self.cap.unreported(),
        )
        try:
            status = await self._backend.call(self._backend.backend.update_leases(update))
        except BaseException:  # the result is unknown: all of it is reported again
            self._unreported = {**changes, **dict.fromkeys(acquire), **self._unreported}
            raise
        for slot, lease in zip(renewed, update.renew, strict=True):
            slot.reported_until = sent + lease.ends_in
        if len(status.acquired) < wanted and sent >= self.cap.acquire_at:
            jitter = 0.75 + random() / 2  # noqa: S311 - no secret
            self.cap.acquire_at = sent + _RETRY_EVERY * jitter
        running = None if self._unreported else len(self._by_ref)
        self.cap.apply(status, running, self.loop.time())
        for key in status.acquired:
            self.give_back(self.add(sent, key))

    def _lease(self, slot: LeasedSlot, now: float) -> Lease:
        left = slot.expires_at - now
        ends_in = min(SUBMIT_LEASE, left) if slot.is_submitting else left
        return Lease(slot.key, self._settings.holder, now - slot.acquired_at, ends_in)
