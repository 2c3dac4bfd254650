"""Slots under shared limits: what this process holds, and telling the engine of it in bulk.

A lease belongs to the remote task. It is kept under an id of our own, and under the task's
reference as soon as that is known: so a task has one lease, whoever asks after it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import uuid4

from kling_async.errors import ConfigurationError, KlingError, LimiterError, own
from kling_async.limits._link import CLOSED
from kling_async.limits.engines import Change, Hold

if TYPE_CHECKING:
    from kling_async.limits import Limits
    from kling_async.limits._link import Link
    from kling_async.limits.pace import Pace
    from kling_async.results import TaskRef

__all__ = ["Leases"]

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

# New leases that one call asks for.
_AT_ONCE = 100

# A lease is renewed when its end in the engine is earlier than it could be by this share of
# the lifetime: not at each status answer, nor much too late.
_STALE = 1 / 8


class _Slot:
    """A slot in use, until it is released or its task is presumed to have ended."""

    __slots__ = ("_leases", "ended", "ends_at", "key", "known_until", "since")

    def __init__(self, leases: Leases, key: str, since: float, ends_at: float) -> None:
        self._leases = leases
        self.key = key
        self.since = since
        self.ends_at = ends_at
        self.known_until = ends_at  # by the engine
        self.ended = False

    def confirm(self, ref: TaskRef) -> None:
        self._leases.confirm(self, str(ref))

    def release(self) -> None:
        self._leases.release(self)


class Leases:
    """The slots of one process."""

    def __init__(self, limits: Limits, pace: Pace, settle: float | None, alone: int = 0) -> None:
        self._limits = limits
        self._pace = pace
        self._settle = SETTLE if settle is None else settle
        self._alone = alone  # how many slots may be held without the engine
        # In the order of their presumed ends.
        self._held: dict[str, _Slot] = {}
        self._untold: dict[str, None] = {}  # keys of which the engine does not know how they stand
        self._epoch: str | None = None
        self._teller: asyncio.Task[None] | None = None
        self._open = False

    @property
    def used(self) -> int:
        """How many this process holds."""
        return len(self._held)

    def move(self, loop: asyncio.AbstractEventLoop, shift: float, link: Link, holder: str) -> None:
        """Go over to another loop. Slots stay taken; those who wait are lost with the old one."""
        self._loop, self._link, self._holder = loop, link, holder
        self._waiting: OrderedDict[asyncio.Future[_Slot], None] = OrderedDict()
        self._take_at = float("-inf")
        self._woken = asyncio.Event()
        self._teller = None
        self._open = True
        for slot in self._held.values():
            slot.since += shift
            slot.ends_at += shift
            slot.known_until += shift
        if self._held or self._untold:
            self._wake()

    async def take(self) -> _Slot:
        """Wait for a slot."""
        if not self._open:
            raise LimiterError(CLOSED)
        place: asyncio.Future[_Slot] = self._loop.create_future()
        self._waiting[place] = None
        self._wake()
        try:
            return await place
        except asyncio.CancelledError:
            self._waiting.pop(place, None)
            if place.done() and not place.cancelled() and place.exception() is None:
                self._give(place.result())  # handed over in the moment of the cancellation
            raise

    def adopt(self, key: str) -> _Slot:
        """Hold a slot for a task that runs already; it is the same slot for everybody here."""
        slot = self._held.get(key)
        if slot is None:
            slot = self._add(key, self._loop.time())
            self._tell(key)
        else:
            self.confirm(slot, key)
        return slot

    def confirm(self, slot: _Slot, key: str) -> None:
        """Note that the task of a slot runs, and which one it is."""
        if slot.ended:
            return
        self._held.pop(slot.key, None)
        slot.ends_at = self._loop.time() + self._limits.presumed_lifetime
        if slot.key != key:
            self._tell(slot.key)  # which is free, since ...
            slot.key = key
            self._tell(key)  # ... this one is held instead
        elif slot.known_until < slot.ends_at - self._limits.presumed_lifetime * _STALE:
            self._tell(key)
        self._held.pop(key, None)  # or it would keep its old place
        self._held[key] = slot

    def release(self, slot: _Slot) -> None:
        """Free a slot. The second time does nothing."""
        if not slot.ended:
            slot.ended = True
            self._held.pop(slot.key, None)
            self._tell(slot.key)

    def heard(self, epoch: str) -> None:
        """Tell an engine that has forgotten everything what we hold."""
        if epoch != self._epoch:
            if self._epoch is not None:
                for key in self._held:
                    self._tell(key)
            self._epoch = epoch

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

    def _add(self, key: str, since: float) -> _Slot:
        slot = _Slot(self, key, since, since + self._limits.presumed_lifetime)
        self._held[key] = slot
        return slot

    def _give(self, slot: _Slot) -> None:
        """Give a slot to the oldest who waits, or back."""
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
        if self._teller is None and self._open and asyncio.get_running_loop() is self._loop:
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
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody shall wait for ever
            self._fail(error)
        finally:
            self._teller = None

    async def _try(self) -> None:
        try:
            await self._exchange()
        except LimiterError as error:
            if self._link.when_gone == "raise":
                self._fail(error)
            self._go_alone()
            await self._link.retry()
        except ConfigurationError as error:  # it may be put right while we hold slots
            self._fail(error)
            await self._link.retry()

    def _needed(self) -> bool:
        return bool(self._held or self._untold or self._waiting)

    def _due(self) -> bool:
        now = self._loop.time()
        asking = bool(self._waiting) and now >= self._take_at
        return asking or bool(self._untold) or now >= self._link.heard_at + BEAT

    async def _exchange(self) -> None:
        """Tell and ask everything in one call."""
        sent = self._loop.time()
        take: tuple[str, ...] = ()
        if sent >= self._take_at:
            take = tuple(uuid4().hex for _ in range(min(_AT_ONCE, len(self._waiting))))
        untold, self._untold = self._untold, {}
        held = [slot for key in untold if (slot := self._held.get(key)) is not None]
        change = Change(
            tuple(Hold(one.key, sent - one.since, one.ends_at - sent) for one in held),
            take,
            tuple(key for key in untold if key not in self._held),
            self._limits.concurrent_tasks,
            self._limits.presumed_lifetime,
            self._holder,
            self._settle,
            self._pace,
        )
        ends = [one.ends_at for one in held]
        try:
            leased = await self._link.ask(self._link.engine.lease(change))
        except BaseException:  # what became of it is not known: all of it is told again
            self._untold = {**untold, **dict.fromkeys(take), **self._untold}
            raise
        for one, ends_at in zip(held, ends, strict=True):
            one.known_until = ends_at
        for key in leased.taken:
            self._give(self._add(key, sent))
        if len(leased.taken) < len(take):
            self._take_at = sent + POLL
        self.heard(leased.epoch)

    async def _rest(self) -> None:
        """Wait until there is something to tell, to ask, or to give up."""
        now = self._loop.time()
        waits = [self._link.heard_at + BEAT - now]
        if self._waiting:
            waits.append(self._take_at - now)
        if self._held:
            waits.append(next(iter(self._held.values())).ends_at - now)
        try:
            async with asyncio.timeout(max(0.0, min(waits))):
                await self._woken.wait()
        except TimeoutError:
            return
        if self._untold:
            await asyncio.sleep(_GATHER)

    def _expire(self) -> None:
        now = self._loop.time()
        while self._held and (slot := next(iter(self._held.values()))).ends_at <= now:
            slot.ended = True
            del self._held[slot.key]
            # The engine ends it by itself, unless another process has renewed it.
            self._untold.pop(slot.key, None)

    def _go_alone(self) -> None:
        """Give slots of our own share to those who wait, if there is one."""
        while self._waiting and len(self._held) < self._alone:
            slot = self._add(uuid4().hex, self._loop.time())
            self._untold[slot.key] = None
            self._give(slot)

    def _fail(self, error: Exception) -> None:
        """Tell all who wait, each with an error of its own: one may add to it."""
        while self._waiting:
            place, _ = self._waiting.popitem(last=False)
            if not place.done():
                place.set_exception(own(error))
