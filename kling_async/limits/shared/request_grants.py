"""Requests under shared limits: a queue in each process, and one pump that reserves for it.

The pump reserves a small batch of turns and hands each to the oldest waiter when it is due.
It asks for the next batch while half of the last one is still to come, so that the way to the
engine costs no throughput, and never holds more. The engine gives turns in the order in which
processes ask, so that all of them get equal shares, wherever they are. With each call it reports
what has been answered since the last one.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from kling_async.errors import ConfigurationError, KlingError, LimiterError, copy_for_waiter
from kling_async.limits.shared.availability import CLOSED
from kling_async.limits.shared.schedule import ANSWER_LIFETIME, GRANT_LIFETIME, RequestSchedule
from kling_async.limits.shared.window import STEP, Ledger

if TYPE_CHECKING:
    from kling_async.limits.base import Permit
    from kling_async.limits.local import LocalLimiter
    from kling_async.limits.shared.availability import Link
    from kling_async.limits.shared.backend import Reservation

# Turns that lie within so many seconds are handed out with the last of them: to wake up takes more
# CPU time than all the rest.
_TOGETHER = 0.05


# Seconds after which an engine that fails in a way of its own is asked again.
_AGAIN = 1.0

# Refusals of one storm come some time after each other. What they add to a pause that is no more
# than this is not worth an event, nor a call.
_SAME_STORM = 0.5

# Seconds between tries while too many requests are under way for any turn to be given, at the
# least, and as a part of the time between turns.
_FULL = 0.25
_FULL_PART = 1 / 20

# Seconds after which a process reports what it has under way or answered, if it has had no other
# reason to call: often enough not to count as dead.
REPORT_EVERY = 10.0


class _Turn(NamedTuple):
    due: float
    until: float  # later it would be of no use to the pace
    local: Permit | None = None  # of our own share


class _Permit:
    """A turn that was handed out."""

    __slots__ = ("_binding", "_local", "_requests", "granted_at")

    def __init__(self, requests: Requests, granted_at: float, local: Permit | None) -> None:
        self._requests = requests
        self._binding: int | None = requests.bindings
        self._local = local
        self.granted_at = granted_at

    def answered(self) -> None:
        """Note that the request has been answered, or has failed."""
        binding, self._binding = self._binding, None
        # When another loop was begun, all of the last one counted as answered.
        if binding == self._requests.bindings:
            self._requests.answered()
            if self._local is not None:
                self._local.answered()


def _runs(task: asyncio.Task[None] | None) -> bool:
    # A task may have ended before it is assigned: some factories begin it at once.
    return task is not None and not task.done()


class Requests:
    """Admits requests one by one, in the order they asked, and not at all while paused."""

    def __init__(
        self, pace: RequestSchedule, local: LocalLimiter | None, heard: Callable[[str], None]
    ) -> None:
        self._pace = pace
        self._local = local
        self._heard = heard  # is told the epoch of each answer
        self._paused_at = self._resume_at = float("-inf")
        self._epoch: str | None = None
        self._ledger = Ledger("")
        self.bindings = 0  # to loops
        self._pump: asyncio.Task[None] | None = None
        self._prober: asyncio.Task[None] | None = None
        self._open = False

    def move(self, loop: asyncio.AbstractEventLoop, shift: float, link: Link, holder: str) -> None:
        """Go over to another loop. Turns are lost with the old one, and so are waiters."""
        self._loop, self._link = loop, link
        self.bindings += 1
        self._waiting: OrderedDict[asyncio.Future[_Turn], None] = OrderedDict()
        self._turns: deque[_Turn] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._pump = self._prober = None
        self._open = True
        self._telling: set[asyncio.Task[None]] = set()
        self._heard_at = float("-inf")  # when we asked for the last answer that came
        self._reported_at = loop.time()
        self._ask_at = float("-inf")
        self._paused_at += shift
        self._resume_at += shift
        if self._ledger.holder != holder:  # a process of its own: the first, or a forked one
            self._ledger = Ledger(holder)
        self._ledger.shift(shift)
        if self._ledger.in_flight:  # what waited for the answers has ended with the old loop
            self._ledger.answered(loop.time(), self._ledger.in_flight)

    async def request(self) -> _Permit:
        """Wait for a turn."""
        if not self._open:
            raise LimiterError(CLOSED)
        if not self._waiting and self._at_hand():
            return self._permit(self._turns.popleft())
        place: asyncio.Future[_Turn] = self._loop.create_future()
        self._waiting[place] = None
        self._go_on()
        try:
            return self._permit(await place)
        except asyncio.CancelledError:
            self._waiting.pop(place, None)
            if place.done() and not place.cancelled() and place.exception() is None:
                self._give(place.result())  # it was given in the moment of the cancellation
            raise

    def answered(self) -> None:
        """Take note that a request is not under way any more."""
        self._ledger.answered(self._loop.time())
        if self._timer is None and self._open and not self._loop.is_closed():
            self._report_later()

    def pause(self, delay: float, permit: Permit) -> bool:
        """Hold everybody back, here at once, and elsewhere as soon as the engine knows."""
        if not 0 <= delay < inf:
            raise ConfigurationError(f"pause() needs a delay of 0 s or more, not {delay!r}")
        now = self._loop.time()
        if permit.granted_at < self._paused_at:  # it is of the storm that began the last pause
            longer = now + delay - self._resume_at
            if longer <= 0 or now >= self._resume_at:
                return False
            if longer <= _SAME_STORM:
                self._hold_back(now + delay)
                return False
        self._paused_at = now
        self._hold_back(now + delay)
        if not self._open:
            return True
        telling = self._loop.create_task(self._tell(now + delay, permit.granted_at))
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)
        return True

    def stop(self) -> None:
        """Begin nothing more on this loop, which is winding up."""
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def close(self) -> None:
        """Report what was answered, and end what runs. Waiters get an error."""
        self.stop()
        tasks = {*self._telling, *(task for task in (self._pump, self._prober) if task)}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._fail(LimiterError(CLOSED))
        self._void()
        if self._ledger.pending and not self._link.gone:
            with suppress(KlingError):  # then it counts as dead after a while
                await self._ask(0)

    def _permit(self, turn: _Turn) -> _Permit:
        return _Permit(self, self._loop.time(), turn.local)

    def _at_hand(self) -> bool:
        """Return whether the first turn may be used now."""
        now = self._loop.time()
        self._drop_late(now)
        return bool(self._turns) and self._turns[0].due <= min(
            now, self._heard_at + ANSWER_LIFETIME
        )

    def _drop_late(self, now: float) -> None:
        """Give up the turns that were not used in time."""
        while self._turns and self._turns[0].until < now:
            self._drop(self._turns.popleft())

    def _drop(self, turn: _Turn) -> None:
        """Note that a turn will not be used."""
        self._ledger.in_flight -= 1
        if turn.local is not None:
            turn.local.answered()

    def _void(self) -> None:
        """Use none of the turns at hand."""
        while self._turns:
            self._drop(self._turns.popleft())

    def _give(self, turn: _Turn) -> None:
        """Give a turn to the oldest waiter."""
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
        if not _runs(self._pump) and self._open and self._wanted() is not None:
            self._pump = self._loop.create_task(self._run())
        if self._waiting and self._turns:
            due = self._turns[0].due
            if due <= self._heard_at + ANSWER_LIFETIME:
                last = min(len(self._turns), len(self._waiting)) - 1
                self._wake_at(min(self._turns[last].due, due + _TOGETHER))
            else:
                self._wake_at(max(due, self._loop.time() + ANSWER_LIFETIME) - ANSWER_LIFETIME / 2)
        if self._waiting and self._ask_at > self._loop.time():
            self._wake_at(self._ask_at)
        self._report_later()

    def _report_later(self) -> None:
        """See to it that what was not reported by then is reported in a while."""
        if not _runs(self._pump) and self._ledger.pending:
            self._wake_at(self._reported_at + REPORT_EVERY)

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
        """Return how many turns to reserve now.

        0 is for hearing whether those at hand are still ours, or for the report alone.
        """
        turns, now = self._turns, self._loop.time()
        short = len(turns) <= self._pace.batch // 2 and len(self._waiting) > len(turns)
        if short and now >= self._ask_at:
            return min(self._pace.batch, len(self._waiting) - len(turns))
        if (
            self._waiting
            and turns
            and self._heard_at + ANSWER_LIFETIME < turns[0].due <= now + ANSWER_LIFETIME / 2
        ):
            return 0
        return 0 if self._ledger.pending and now >= self._reported_at + REPORT_EVERY else None

    async def _run(self) -> None:
        """Reserve as long as there are waiters, or anything to report."""
        try:
            while (number := self._wanted()) is not None:
                try:
                    if self._local is not None and self._link.gone and self._waiting:
                        await self._go_alone(self._local)
                    elif (
                        rest := self._resume_at - ANSWER_LIFETIME / 2 - self._loop.time()
                    ) > 0 and number:
                        # The engine may know of a shorter pause, or of none yet: its turns would
                        # be of no use, here or to others.
                        await asyncio.sleep(rest)
                    else:
                        await self._reserve(number)
                except LimiterError as error:
                    if self._link.on_unavailable == "raise":
                        self._fail(error)
                    elif self._link.on_unavailable == "wait":
                        await self._link.retry()
                except Exception as error:  # noqa: BLE001 - whatever it is, no waiter must wait for ever
                    self._fail(error)
        finally:
            self._pump = None
            if self._open:
                self._report_later()

    async def _ask(self, number: int) -> Reservation:
        """Report, reserve, and take in how things are."""
        sent = self._reported_at = self._loop.time()
        self._drop_late(sent)
        report = self._ledger.report(sent)
        reserving = self._link.engine.reserve(number, report, self._pace)
        got = await self._link.ask(reserving, GRANT_LIFETIME)
        now, self._heard_at = self._loop.time(), sent
        self._ledger.acknowledge(got.acknowledged)
        self._ledger.in_flight += len(got.delays)
        if got.acknowledged == report.sequence and len(got.delays) < number:
            self._ask_at = now + max(_FULL, self._pace.interval * _FULL_PART)
        if got.epoch != self._epoch:
            self._void()  # others may be given them, too
            self._epoch = got.epoch
        self._link.warn(got.set_back)
        self._heard(got.epoch)
        self._paused_at = max(self._paused_at, now - got.paused_for)
        if got.pause:
            self._hold_back(now + got.pause)
        return got

    async def _reserve(self, number: int) -> None:
        sent = self._loop.time()
        got = await self._ask(number)
        # When the engine's now was, we do not know: after we sent, before we heard. A turn is
        # never used too early by the one, nor too late by the other.
        now = self._loop.time()
        for delay in got.delays:
            left = max(0.0, delay)
            turn = _Turn(now + left, sent + left + GRANT_LIFETIME)
            if turn.until >= turn.due >= self._resume_at:
                self._turns.append(turn)
            else:
                self._drop(turn)
        self._go_on()
        # The engine may not know of a pause of ours.
        if got.delays and now + got.delays[0] < self._resume_at <= now + ANSWER_LIFETIME / 2:
            await asyncio.sleep(self._resume_at - now)

    async def _go_alone(self, local: LocalLimiter) -> None:
        """Hand out turns of our own share until the engine is back."""
        self._void()  # what others know of must not come on top of the share
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
            try:
                await self._ask(0)
            except KlingError:
                continue
            except Exception:  # noqa: BLE001 - an engine's mistake: its own share is all there is
                await asyncio.sleep(_AGAIN)

    async def _serve(self, local: LocalLimiter) -> None:
        while self._waiting:
            await asyncio.sleep(max(0.0, self._resume_at - self._loop.time()))
            # What it has had of the engine counts as part of its share.
            if self._ledger.count(self._loop.time()) >= local.limits.requests_per_minute:
                await asyncio.sleep(STEP)
                continue
            permit = await local.request()
            self._ledger.in_flight += 1  # the engine is told of it when it is back
            self._give(_Turn(permit.granted_at, permit.granted_at + GRANT_LIFETIME, permit))

    async def _tell(self, until: float, granted_at: float) -> None:
        """Tell the engine of a pause, as long as that is of use."""
        while (now := self._loop.time()) < until:
            try:
                told = await self._link.ask(self._link.engine.pause(until - now, now - granted_at))
            except LimiterError:
                await self._link.retry()
            except KlingError:
                return  # nobody else is told anything either
            else:
                self._hold_back(self._loop.time() + told.remaining)
                return

    def _hold_back(self, until: float) -> None:
        """Use no turn before this moment."""
        if until > self._resume_at:
            self._resume_at = until
            turns, self._turns = self._turns, deque()
            for turn in turns:
                if turn.due >= until:
                    self._turns.append(turn)
                else:
                    self._drop(turn)

    def _fail(self, error: Exception) -> None:
        """Tell all who wait, each with an error of its own: one may add to it."""
        while self._waiting:
            place, _ = self._waiting.popitem(last=False)
            if not place.done():
                place.set_exception(copy_for_waiter(error))
