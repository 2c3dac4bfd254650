"""Slots under shared limits: what this process holds, and reporting it to the engine in bulk.

A lease belongs to the remote task. It is kept under an id of our own, and under the task's
reference as soon as that is known: so a task has one lease, whichever process asks after it.
Until then it is short and renewed, so that it ends soon after its process has died.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING
from uuid import uuid4

from kling_async.errors import ConfigurationError, KlingError, LimiterError, copy_for_waiter
from kling_async.limits.expiry import Expiries
from kling_async.limits.shared._learned import LearnedCap
from kling_async.limits.shared.availability import CLOSED
from kling_async.limits.shared.backend import Lease, LeaseUpdate

if TYPE_CHECKING:
    from kling_async.limits.base import Limits, Slot
    from kling_async.limits.shared.availability import Link
    from kling_async.limits.shared.backend import LeaseStatus
    from kling_async.limits.shared.schedule import RequestSchedule
    from kling_async.results import TaskRef

# Seconds between tries of a process that finds no free slot. All try equally often, and so have
# equal chances.
POLL = 0.1

# Seconds that changes are gathered before they are told.
_GATHER = 0.01

# Seconds without any answer after which a process that holds leases asks whether they are known.
BEAT = 2.0

# Seconds in which an engine that has forgotten everything gives no slot: a process has then
# noticed, after its beat and a delayed try, and has told what it holds.
SETTLE = 3.5

# Seconds that the lease of a submit under way lasts: what a request takes at the most by default,
# and a margin. A living process renews it when half of them have passed.
PENDING = 40.0

# Seconds after which a process with such leases calls, whatever else it has heard of the engine.
_RENEW_EVERY = PENDING / 4

# New leases that one call asks for.
_AT_ONCE = 100

# The engine is told of another end of a lease if it differs by this share of the lifetime: not
# at each status answer, nor much too late.
_STALE = 1 / 8


class LeasedSlot:
    """A slot in use, until it is released or its task is presumed to have ended."""

    __slots__ = (
        "callbacks",
        "confirmed",
        "ended",
        "ends_at",
        "key",
        "known_until",
        "leases",
        "number",
        "since",
    )

    def __init__(self, leases: Leases, key: str, number: int, since: float, ends_at: float) -> None:
        self.leases = leases
        self.key = key
        self.number = number
        self.since = since
        self.ends_at = ends_at
        self.known_until = ends_at  # by the engine
        self.confirmed = False  # its task is known to run
        self.ended = False
        self.callbacks: list[Callable[[], None]] = []

    def confirm(
        self,
        ref: TaskRef,
        lifetime: float | None = None,
        on_expired: Callable[[], None] | None = None,
    ) -> None:
        """Name the task that holds the slot."""
        self.leases.confirm(self, str(ref), lifetime, on_expired)

    def expire_in(self, lifetime: float) -> None:
        """Give the slot back after so many seconds."""
        self.leases.expire_in(self, lifetime)

    def release(self) -> None:
        """Give the slot back now."""
        self.leases.release(self)


class Leases:
    """The slots of one process."""

    def __init__(
        self, limits: Limits, pace: RequestSchedule, recovery_delay: float | None, alone: int = 0
    ) -> None:
        self._limits = limits
        self._pace = pace
        self._settle = SETTLE if recovery_delay is None else recovery_delay
        self._alone = alone  # how many slots may be held without the engine
        self._held: dict[str, LeasedSlot] = {}
        self._numbers = count()
        self._numbered: dict[int, LeasedSlot] = {}
        self._renewed: set[LeasedSlot] = set()  # those whose submits are under way
        self._expiries = Expiries()
        self._untold: dict[str, None] = {}  # keys of which the engine does not know how they stand
        self._epoch: str | None = None
        self._learned = LearnedCap(limits.concurrent_tasks)
        self._teller: asyncio.Task[None] | None = None
        self._open = False

    @property
    def used(self) -> int:
        """How many this process holds."""
        return len(self._held)

    @property
    def cap(self) -> int:
        """How many all processes may hold, as far as this one knows."""
        return self._learned.cap

    def move(self, loop: asyncio.AbstractEventLoop, shift: float, link: Link, holder: str) -> None:
        """Go over to another loop. Slots stay taken; those who wait are lost with the old one."""
        self._loop, self._link, self._holder = loop, link, holder
        self._waiting: OrderedDict[asyncio.Future[LeasedSlot], None] = OrderedDict()
        self._take_at = self._told_at = float("-inf")
        self._woken = asyncio.Event()
        self._teller = None
        self._open = True
        self._expiries.shift(shift)
        self._learned.shift(shift)
        for slot in self._held.values():
            slot.since += shift
            slot.ends_at += shift
            slot.known_until += shift
        if self._held or self._untold:
            self._wake()

    async def take(self, *, first: bool = False) -> LeasedSlot:
        """Wait for a slot, at the head of the queue or at its end."""
        if not self._open:
            raise LimiterError(CLOSED)
        place: asyncio.Future[LeasedSlot] = self._loop.create_future()
        self._waiting[place] = None
        if first:
            self._waiting.move_to_end(place, last=False)
        self._wake()
        try:
            return await place
        except asyncio.CancelledError:
            self._waiting.pop(place, None)
            if place.done() and not place.cancelled() and place.exception() is None:
                self._give(place.result())  # handed over in the moment of the cancellation
            raise

    def adopt(
        self, key: str, lifetime: float | None, on_expired: Callable[[], None] | None
    ) -> LeasedSlot:
        """Hold a slot for a task that runs already; it is the same slot for all clients here."""
        slot = self._held.get(key)
        if slot is None:
            slot = self._add(key, self._loop.time())
            self._tell(key)
        self.confirm(slot, key, lifetime, on_expired)
        return slot

    def confirm(
        self,
        slot: LeasedSlot,
        key: str,
        lifetime: float | None,
        on_expired: Callable[[], None] | None,
    ) -> None:
        """Note that the task of a slot runs, and which one it is."""
        if slot.ended:
            return
        longest = self._limits.presumed_lifetime
        self._expire_at(slot, longest if lifetime is None else lifetime)
        if on_expired is not None and on_expired not in slot.callbacks:
            slot.callbacks.append(on_expired)
        if not slot.confirmed:
            slot.confirmed = True
            self._renewed.discard(slot)
            self._learned.accepted()
            self._tell(slot.key)
        if slot.key != key:
            del self._held[slot.key]
            self._tell(slot.key)  # which is free, since ...
            other = self._held.get(key)
            slot.key, self._held[key] = key, slot
            self._tell(key)  # ... this one is held instead
            if other is not None:  # one task never has two
                slot.callbacks += other.callbacks
                self._forget(other)

    def expire_in(self, slot: LeasedSlot, lifetime: float) -> None:
        """Let a slot end by itself."""
        if not slot.ended:
            self._renewed.discard(slot)
            self._expire_at(slot, lifetime)

    def release(self, slot: LeasedSlot) -> None:
        """Free a slot. The second time does nothing."""
        if not slot.ended:
            del self._held[slot.key]
            self._forget(slot)
            self._tell(slot.key)

    def refused(self, slot: Slot) -> None:
        """Free a slot whose submit was refused since too many tasks run."""
        if not isinstance(slot, LeasedSlot) or slot.leases is not self:
            raise ConfigurationError(f"refused() needs a slot of this limiter, not {slot!r}")
        if not slot.ended:
            self._learned.refused(slot.since, self._loop.time())
            self.release(slot)

    def heard(self, epoch: str) -> None:
        """Tell an engine that has forgotten everything what we hold."""
        if epoch != self._epoch:
            if self._epoch is not None:
                self._learned.forgotten()
                for key in self._held:
                    self._tell(key)
            self._epoch = epoch

    def stop(self) -> None:
        """Begin nothing more on this loop, which is winding up."""
        self._open = False

    async def close(self) -> None:
        """Tell what is still to be told, once. What is held stays so: its tasks go on."""
        self._open = False
        if self._teller is not None:
            self._teller.cancel()
            await asyncio.wait([self._teller])
        self._fail(LimiterError(CLOSED))
        if self._untold:
            with suppress(KlingError):  # then they are free after the presumed lifetime
                await self._exchange()

    def _add(self, key: str, since: float) -> LeasedSlot:
        ends_at = since + self._limits.presumed_lifetime
        slot = LeasedSlot(self, key, next(self._numbers), since, ends_at)
        self._held[key] = self._numbered[slot.number] = slot
        self._renewed.add(slot)
        self._expiries.set(slot.number, ends_at)
        return slot

    def _forget(self, slot: LeasedSlot) -> None:
        slot.ended = True
        self._renewed.discard(slot)
        del self._numbered[slot.number]
        self._expiries.discard(slot.number)
        if slot.confirmed:
            self._learned.ended()

    def _expire_at(self, slot: LeasedSlot, lifetime: float) -> None:
        if not lifetime >= 0:
            raise ConfigurationError(f"a slot needs a lifetime of 0 s or more, not {lifetime!r}")
        lifetime = min(lifetime, self._limits.presumed_lifetime)
        slot.ends_at = self._loop.time() + lifetime
        self._expiries.set(slot.number, slot.ends_at)
        if abs(slot.known_until - slot.ends_at) > lifetime * _STALE:
            self._tell(slot.key)

    def _lease_of(self, slot: LeasedSlot, now: float) -> float:
        """Return how long the engine is to keep a lease."""
        left = slot.ends_at - now
        return min(PENDING, left) if slot in self._renewed else left

    def _give(self, slot: LeasedSlot) -> None:
        """Give a slot to the oldest waiter, or back."""
        while self._waiting:
            place, _ = self._waiting.popitem(last=False)
            if not place.done():
                place.set_result(slot)
                return
        self.release(slot)

    def _tell(self, key: str) -> None:
        self._untold[key] = None
        self._wake()

    def _wake(self) -> None:
        if self._link.gone:
            self._go_alone()
        self._woken.set()
        # A task may have ended before it is assigned: some factories begin it at once.
        idle = self._teller is None or self._teller.done()
        if idle and self._open and asyncio.get_running_loop() is self._loop:
            self._teller = self._loop.create_task(self._run())

    async def _run(self) -> None:
        """Tell the engine what changes, as long as there is anything to tell or to ask."""
        try:
            while self._needed():
                self._woken.clear()
                if self._due():
                    await self._try()
                if self._needed():
                    await self._rest()
                    self._expire()
        except Exception as error:  # noqa: BLE001 - whatever it is, no waiter must wait for ever
            self._fail(error)
        finally:
            self._teller = None

    async def _try(self) -> None:
        try:
            await self._exchange()
        except LimiterError as error:
            if self._link.on_unavailable == "raise":
                self._fail(error)
            self._go_alone()
            await self._link.retry()
        except ConfigurationError as error:  # it may be put right while we hold slots
            self._fail(error)
            await self._link.retry()

    def _needed(self) -> bool:
        return bool(self._held or self._untold or self._waiting)

    def _due(self) -> bool:
        asking = bool(self._waiting) and self._loop.time() >= self._take_at
        return asking or bool(self._untold) or self._loop.time() >= self._call_at()

    def _call_at(self) -> float:
        """Return when to call though nothing changes."""
        beat = self._link.heard_at + BEAT
        return min(beat, self._told_at + _RENEW_EVERY) if self._renewed else beat

    async def _exchange(self) -> None:
        """Tell and ask everything in one call."""
        sent = self._loop.time()
        for one in self._renewed:
            if one.known_until - sent < PENDING / 2:
                self._untold[one.key] = None
        wanted = min(_AT_ONCE, len(self._waiting)) if sent >= self._take_at else 0
        take = tuple(uuid4().hex for _ in range(self._learned.admit(wanted, sent)))
        untold, self._untold = self._untold, {}
        held = [slot for key in untold if (slot := self._held.get(key)) is not None]
        holds = [
            Lease(slot.key, self._holder, sent - slot.since, self._lease_of(slot, sent))
            for slot in held
        ]
        change = LeaseUpdate(
            renew=tuple(holds),
            acquire=take,
            release=tuple(key for key in untold if key not in self._held),
            limit=self._limits.concurrent_tasks,
            cap=self._learned.most(len(take)),
            lifetime=min(PENDING, self._limits.presumed_lifetime),
            holder=self._holder,
            recovery_delay=self._settle,
            schedule=self._pace,
            learned=self._learned.news(),
        )
        try:
            leased = await self._link.ask(self._link.engine.update_leases(change))
        except BaseException:  # what became of it is not known: all of it is told again
            self._untold = {**untold, **dict.fromkeys(take), **self._untold}
            raise
        self._told_at = sent
        for slot, hold in zip(held, holds, strict=True):
            slot.known_until = sent + hold.ends_in
        if len(leased.acquired) < wanted:
            self._take_at = sent + POLL
        self._received(leased, sent)

    def _received(self, leased: LeaseStatus, sent: float) -> None:
        self._link.warn(leased.set_back)
        self.heard(leased.epoch)
        self._learned.heard(leased, self._loop.time(), settled=not self._untold)
        for key in leased.acquired:
            slot = self._add(key, sent)
            slot.known_until = sent + min(PENDING, self._limits.presumed_lifetime)
            self._give(slot)

    async def _rest(self) -> None:
        """Wait until there is something to tell, to ask, or to give up."""
        now = self._loop.time()
        waits = [self._call_at() - now]
        if self._waiting:
            waits.append(self._take_at - now)
        if (expiry := self._expiries.next()) is not None:
            waits.append(expiry - now)
        try:
            async with asyncio.timeout(max(0.0, min(waits))):
                await self._woken.wait()
        except TimeoutError:
            return
        if self._untold:
            await asyncio.sleep(_GATHER)

    def _expire(self) -> None:
        for number in self._expiries.pop(self._loop.time()):
            ended = self._numbered[number]
            del self._held[ended.key]
            self._forget(ended)
            # The engine ends it by itself, unless another process has renewed it.
            self._untold.pop(ended.key, None)
            for callback in ended.callbacks:
                self._loop.call_soon(callback)  # the loop reports what it raises

    def _go_alone(self) -> None:
        """Give slots of our own share to waiters, if there is one."""
        while self._waiting and len(self._held) < self._alone:
            now = self._loop.time()
            if not self._learned.admit_alone(len(self._held), now):
                return
            slot = self._add(uuid4().hex, now)
            self._untold[slot.key] = None
            self._give(slot)

    def _fail(self, error: Exception) -> None:
        """Tell all who wait, each with an error of its own: one may add to it."""
        while self._waiting:
            place, _ = self._waiting.popitem(last=False)
            if not place.done():
                place.set_exception(copy_for_waiter(error))
