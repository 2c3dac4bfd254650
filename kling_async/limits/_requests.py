"""Requests under shared limits: a queue in each process, and one pump that reserves for it.

The pump reserves a small batch of turns and hands each to the oldest who waits when it is due.
It asks for the next batch while half of the last one is still to come, so that the way to the
engine costs no throughput, and never holds more. The engine gives turns in the order in which
processes ask, so that all of them get equal shares, wherever they are.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from kling_async.errors import KlingError, LimiterError, own
from kling_async.limits._link import CLOSED
from kling_async.limits.pace import KEPT, SURE, Pace

if TYPE_CHECKING:
    from kling_async.limits._link import Link
    from kling_async.limits.engines import Reservation
    from kling_async.limits.local import LocalLimiter

__all__ = ["Requests"]


# Turns that lie within so many seconds are handed out with the last of them: to wake up takes more
# CPU time than all the rest.
_TOGETHER = 0.05


# Seconds after which an engine that fails in a way of its own is asked again.
_AGAIN = 1.0


class _Turn(NamedTuple):
    due: float
    until: float  # later it would crowd another minute


class Requests:
    """Admits requests one by one, in the order they asked, and not at all while paused."""

    def __init__(
        self, pace: Pace, local: LocalLimiter | None, heard: Callable[[str], None]
    ) -> None:
        self._pace = pace
        self._local = local
        self._heard = heard  # is told the epoch of each answer
        self._paused_at = self._resume_at = float("-inf")
        self._epoch: str | None = None
        self._pump: asyncio.Task[None] | None = None
        self._prober: asyncio.Task[None] | None = None
        self._open = False

    def move(self, loop: asyncio.AbstractEventLoop, shift: float, link: Link) -> None:
        """Go over to another loop. Turns are lost with the old one, and so are waiters."""
        self._loop, self._link = loop, link
        self._waiting: OrderedDict[asyncio.Future[_Turn], None] = OrderedDict()
        self._turns: deque[_Turn] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._pump = self._prober = None
        self._open = True
        self._telling: set[asyncio.Task[None]] = set()
        self._heard_at = float("-inf")  # when we asked for the last answer that came
        self._paused_at += shift
        self._resume_at += shift

    async def request(self) -> float:
        """Wait for a turn; return the moment."""
        if not self._open:
            raise LimiterError(CLOSED)
        if not self._waiting and self._at_hand():
            self._turns.popleft()
            return self._loop.time()
        place: asyncio.Future[_Turn] = self._loop.create_future()
        self._waiting[place] = None
        self._go_on()
        try:
            await place
        except asyncio.CancelledError:
            self._waiting.pop(place, None)
            if place.done() and not place.cancelled() and place.exception() is None:
                self._give(place.result())  # it was given in the moment of the cancellation
            raise
        return self._loop.time()

    def pause(self, delay: float, permit: float) -> bool:
        """Hold everybody back, here at once, and elsewhere as soon as the engine knows."""
        if permit < self._paused_at:
            return False
        now = self._paused_at = self._loop.time()
        self._hold_back(now + delay)
        if not self._open:
            return True
        telling = self._loop.create_task(self._tell(now + delay, permit))
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)
        return True

    async def close(self) -> None:
        """End what runs. Who waits is told so."""
        self._open = False
        tasks = {*self._telling, *(task for task in (self._pump, self._prober) if task)}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._timer is not None:
            self._timer.cancel()
        self._fail(LimiterError(CLOSED))

    def _at_hand(self) -> bool:
        """Return whether the first turn may be used now."""
        turns, now = self._turns, self._loop.time()
        while turns and turns[0].until < now:
            turns.popleft()
        return bool(turns) and turns[0].due <= min(now, self._heard_at + SURE)

    def _give(self, turn: _Turn) -> None:
        """Give a turn to the oldest who waits."""
        while self._waiting:
            place, _ = self._waiting.popitem(last=False)
            if not place.done():  # else it was cancelled just now
                place.set_result(turn)
                return
        self._turns.appendleft(turn)

    def _go_on(self) -> None:
        """Hand out the turns that are due, and see to it that there will be more."""
        while self._waiting and self._at_hand():
            self._give(self._turns.popleft())
        if self._waiting and self._pump is None and self._wanted() is not None:
            self._pump = self._loop.create_task(self._run())
        if self._waiting and self._turns:
            due = self._turns[0].due
            if due <= self._heard_at + SURE:
                last = min(len(self._turns), len(self._waiting)) - 1
                self._wake_at(min(self._turns[last].due, due + _TOGETHER))
            else:
                self._wake_at(max(due, self._loop.time() + SURE) - SURE / 2)

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._go_on()

    def _wanted(self) -> int | None:
        """Return how many turns to reserve now; 0 to hear whether those at hand are still ours."""
        turns = self._turns
        if len(turns) <= self._pace.batch // 2 and len(self._waiting) > len(turns):
            return min(self._pace.batch, len(self._waiting) - len(turns))
        if self._waiting and turns and turns[0].due > self._heard_at + SURE:
            return 0 if turns[0].due <= self._loop.time() + SURE / 2 else None
        return None

    async def _run(self) -> None:
        """Reserve as long as anybody waits."""
        try:
            while (number := self._wanted()) is not None:
                try:
                    if self._local is not None and self._link.gone:
                        await self._go_alone(self._local)
                    elif (rest := self._resume_at - SURE / 2 - self._loop.time()) > 0:
                        # The engine may know of a shorter pause, or of none yet: its turns would
                        # be of no use, here or to others.
                        await asyncio.sleep(rest)
                    else:
                        await self._reserve(number)
                except LimiterError as error:
                    if self._link.when_gone == "raise":
                        self._fail(error)
                    elif self._link.when_gone == "wait":
                        await self._link.retry()
                except Exception as error:  # noqa: BLE001 - whatever it is, nobody shall wait for ever
                    self._fail(error)
        finally:
            self._pump = None

    async def _reserve(self, number: int) -> None:
        sent = self._loop.time()
        got = await self._link.ask(self._link.engine.reserve(number, self._pace), KEPT)
        self._hear(got, sent)
        # When the engine's now was, we do not know: after we sent, before we heard. A turn is
        # never used too early by the one, nor too late by the other.
        now = self._loop.time()
        for i in range(number):
            delay = max(0.0, got.delay + i * self._pace.interval)
            turn = _Turn(now + delay, sent + delay + KEPT)
            if turn.until >= turn.due >= self._resume_at:
                self._turns.append(turn)
        self._go_on()
        if now + got.delay < self._resume_at <= now + SURE / 2:  # the engine does not know of it
            await asyncio.sleep(self._resume_at - now)

    def _hear(self, got: Reservation, sent: float) -> None:
        """Take in how things are."""
        now, self._heard_at = self._loop.time(), sent
        if got.epoch != self._epoch:
            self._turns.clear()  # others may be given them, too
            self._epoch = got.epoch
        self._heard(got.epoch)
        self._paused_at = max(self._paused_at, now - got.paused_for)
        if got.pause:
            self._hold_back(now + got.pause)

    async def _go_alone(self, local: LocalLimiter) -> None:
        """Hand out turns of our own share until the engine is back."""
        self._turns.clear()  # what others know of must not come on top of the share
        # It outlives those who wait now: with few requests it would never come to its turn.
        if self._prober is None or self._prober.done():
            self._prober = self._loop.create_task(self._probe())
        serving = self._loop.create_task(self._serve(local))
        try:
            await asyncio.wait((self._prober, serving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            serving.cancel()
            await asyncio.wait([serving])

    async def _probe(self) -> None:
        """Return when the engine is back."""
        while self._link.gone:
            await self._link.retry()
            sent = self._loop.time()
            try:
                got = await self._link.ask(self._link.engine.reserve(0, self._pace), KEPT)
                self._hear(got, sent)
            except KlingError:
                continue
            except Exception:  # noqa: BLE001 - an engine's mistake: its own share is all there is
                await asyncio.sleep(_AGAIN)

    async def _serve(self, local: LocalLimiter) -> None:
        while self._waiting:
            await asyncio.sleep(max(0.0, self._resume_at - self._loop.time()))
            now = await local.request()
            self._give(_Turn(now, now + KEPT))

    async def _tell(self, until: float, permit: float) -> None:
        """Tell the engine of a pause, as long as that is of use."""
        while (now := self._loop.time()) < until:
            try:
                told = await self._link.ask(self._link.engine.pause(until - now, now - permit))
            except LimiterError:
                await self._link.retry()
            except KlingError:
                return  # nobody else is told anything either
            else:
                self._hold_back(self._loop.time() + told.pause)
                return

    def _hold_back(self, until: float) -> None:
        """Use no turn before this moment."""
        if until > self._resume_at:
            self._resume_at = until
            self._turns = deque(turn for turn in self._turns if turn.due >= until)

    def _fail(self, error: Exception) -> None:
        """Tell all who wait, each with an error of its own: one may add to it."""
        while self._waiting:
            place, _ = self._waiting.popitem(last=False)
            if not place.done():
                place.set_exception(own(error))
