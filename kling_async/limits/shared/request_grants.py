"""Requests under shared limits: a queue in each process, and grants reserved in small batches.

A process reserves a batch of grants and gives each to the first waiter when it is due. It reserves
the next batch while half of the last one is still to come, so that the round trip costs no
throughput, and never holds more. The backend grants in the order in which processes ask, so all of
them get equal shares, however far away they are. Each call also reports which requests have been
answered since the last one.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING

from attrs import define

from kling_async.errors import KlingError, LimiterError
from kling_async.limits.base import Permit
from kling_async.limits.shared._call_loop import CLOSED, CallLoop
from kling_async.limits.shared.schedule import (
    ANSWER_LIFETIME,
    GRANT_LIFETIME,
    Grant,
    GrantBuffer,
)
from kling_async.limits.shared.window import STEP, Ledger
from kling_async.limits.waiters import Timer, WaitQueue
from kling_async.limits.window import RequestPause

if TYPE_CHECKING:
    from kling_async.limits.local import LocalLimiter
    from kling_async.limits.shared.availability import MonitoredBackend
    from kling_async.limits.shared.schedule import RequestSchedule

# Grants that are due within so many seconds are given with the last of them: to wake up takes more
# CPU time than all the rest.
_TOGETHER = 0.05

# Seconds between calls while too many requests are in flight for any grant: at least so many, and
# at least this part of the time between grants.
_FULL_RETRY = 0.25
_FULL_RETRY_PART = 1 / 20

# Seconds after which a process reports what it has in flight or answered, if it has had no other
# reason to call: often enough not to count as dead.
REPORT_EVERY = 10.0


@define(eq=False)
class _SharedPermit:
    """See :class:`~kling_async.limits.Permit`."""

    _grants: RequestGrants | None
    granted_at: float
    _local: Permit | None

    def answered(self) -> None:
        """Note that the request has been answered, or has failed."""
        grants, self._grants = self._grants, None
        if grants is not None:
            grants.answer(self._local)


class RequestGrants:
    """Grants requests on one event loop: first in, first out, none during a pause.

    Args:
        loop: The event loop.
        backend: The backend, which other processes use too.
        schedule: The rate.
        local: Grants of this process's own share, for ``when_gone="local"``.
        holder: The name of this process.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        backend: MonitoredBackend,
        schedule: RequestSchedule,
        local: LocalLimiter | None,
        holder: str,
    ) -> None:
        self._loop = loop
        self._backend = backend
        self._schedule = schedule
        self.local = local
        self._local_task: asyncio.Task[None] | None = None
        self._waiters: WaitQueue[Grant] = WaitQueue(loop, self._give)
        self._buffer = GrantBuffer(Ledger(holder))
        self._pause = RequestPause()
        self._unreported_pause: float | None = None  # when the refused request was granted
        self._reserve_at = -inf  # it is of no use to reserve earlier
        self._timer = Timer(loop, self._serve)
        self.calls: CallLoop = CallLoop(loop, self._next_call, self._call)
        self.calls.called_at = loop.time()
        backend.on_state_lost.append(self._buffer.clear)  # other processes may get the same grants

    def take_over(self, previous: RequestGrants, shift: float) -> None:
        """Continue with the pause, and with what is to be reported, of an earlier event loop."""
        self._pause = previous._pause.rebased(shift)
        ledger, previous._buffer.ledger = previous._buffer.ledger, Ledger("")
        if ledger.holder == self._buffer.ledger.holder:  # else this process is a forked one
            self._buffer.ledger = ledger
            ledger.shift(shift)
            # Those who waited for the answers have ended with the old loop.
            ledger.answered(self._loop.time(), ledger.in_flight)

    async def request(self) -> _SharedPermit:
        """Wait until one more request may be sent, and return its permit."""
        if self.calls.stopped:
            raise LimiterError(CLOSED)
        grant = None if self._waiters else self._buffer.pop(self._loop.time())
        if grant is None:
            waiter = self._waiters.join()
            self._serve()
            grant = await self._waiters.result(waiter)
        return _SharedPermit(self, self._loop.time(), grant.local)

    def answer(self, local: Permit | None) -> None:
        """Note that a request has been answered, or has failed."""
        self._buffer.ledger.answered(self._loop.time())
        if local is not None:
            local.answered()
        self.calls.update()

    def refuse(self, delay: float, granted_at: float) -> bool:
        """Grant nothing for ``delay`` seconds: here at once, elsewhere when it is reported."""
        is_new = self._pause.refuse(delay, granted_at, self._loop.time())
        self._extend_pause(self._pause.ends_at)
        if is_new:
            self._unreported_pause = max(granted_at, self._unreported_pause or -inf)
            self.calls.update()
        return is_new

    def stop(self) -> None:
        """Begin nothing more on this event loop."""
        self.calls.stop()
        self._timer.cancel()

    async def close(self) -> None:
        """Report what was answered, and raise an error in those who wait."""
        self.stop()
        await self.calls.close()
        if self._local_task is not None:
            self._local_task.cancel()
            await asyncio.wait([self._local_task])
        self._waiters.set_exception(LimiterError(CLOSED))
        self._buffer.clear()
        if self._buffer.ledger.pending and not self._backend.unavailable:
            with suppress(KlingError):  # then this process counts as dead after a while
                await self._reserve(0)

    def _give(self, grant: Grant) -> None:
        if not self._waiters.give(grant):
            self._buffer.grants.appendleft(grant)

    def _serve(self) -> None:
        """Give the grants that are due, and reserve more if necessary."""
        while self._waiters.purge() and (grant := self._buffer.pop(self._loop.time())):
            self._waiters.give(grant)
        if self._waiters and self.local is not None and self._backend.unavailable:
            self._serve_locally(self.local)
        if self._waiters and (grants := self._buffer.grants):
            first, last = grants[0], grants[min(len(grants), len(self._waiters)) - 1]
            if first.due <= self._buffer.usable_until:
                self._timer.set(min(last.due, first.due + _TOGETHER))
        self.calls.update()

    def _missing(self) -> int:
        """Return how many grants to reserve; 0 while half of a batch is still to come."""
        buffered, batch = len(self._buffer.grants), self._schedule.batch
        return 0 if buffered > batch // 2 else min(batch, len(self._waiters) - buffered)

    def _next_reservation(self) -> float:
        # The backend may know of a shorter pause, or of none yet: then its grants would be of no
        # use, here or elsewhere.
        return max(self._reserve_at, self._pause.ends_at - ANSWER_LIFETIME / 2)

    def _next_call(self) -> float | None:
        backend, grants = self._backend, self._buffer.grants
        if self.local is not None and backend.unavailable:
            return backend.retry_at
        times = []
        if self._buffer.ledger.pending:
            times.append(self.calls.called_at + REPORT_EVERY)
        if self._unreported_pause is not None:
            times.append(-inf)
        if self._missing() > 0:
            times.append(self._next_reservation())
        if self._waiters and grants and grants[0].due > self._buffer.usable_until:
            # Ask whether the backend still knows of the grant.
            times.append(grants[0].due - ANSWER_LIFETIME / 2)
        if not times:
            return None
        if self._waiters and backend.when_gone == "raise":
            return min(times)
        return max(min(times), backend.retry_at)

    async def _call(self) -> None:
        was_unavailable = self._backend.unavailable
        try:
            if self._unreported_pause is not None:
                await self._report_pause(self._unreported_pause)
            else:
                is_probe = self.local is not None and was_unavailable
                is_early = self._loop.time() < self._next_reservation()
                await self._reserve(0 if is_probe or is_early else max(0, self._missing()))
        except LimiterError as error:
            if self._backend.when_gone == "raise":
                self._waiters.set_exception(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, no caller waits for ever
            if self.local is None or not was_unavailable:
                self._waiters.set_exception(error)
        self._serve()

    async def _reserve(self, number: int) -> None:
        """Report what was answered, and reserve grants."""
        buffer, sent = self._buffer, self._loop.time()
        buffer.drop_late(sent)
        report = buffer.ledger.create_report(sent)
        reserving = self._backend.backend.reserve(number, report, self._schedule)
        reservation = await self._backend.call(reserving, GRANT_LIFETIME)
        now = self._loop.time()
        buffer.ledger.acknowledge(reservation.acknowledged)
        if reservation.acknowledged == report.sequence and len(reservation.delays) < number:
            interval = self._schedule.interval
            self._reserve_at = now + max(_FULL_RETRY, interval * _FULL_RETRY_PART)
        self._pause.begin_elsewhere(now - reservation.paused_for)
        if reservation.pause:
            self._extend_pause(now + reservation.pause)
        delays, resumed_at = reservation.delays, self._pause.ends_at
        buffer.add(delays, sent, now, resumed_at)
        if delays and now + delays[0] < resumed_at <= now + ANSWER_LIFETIME / 2:
            self._reserve_at = resumed_at  # the backend does not know of this pause
        if self._local_task is not None:
            self._local_task.cancel()

    async def _report_pause(self, granted_at: float) -> None:
        """Report a pause to the other processes, as long as it lasts."""
        now, ends_at = self._loop.time(), self._pause.ends_at
        if now < ends_at:
            pausing = self._backend.backend.pause(ends_at - now, now - granted_at)
            try:
                remaining = await self._backend.call(pausing)
                self._extend_pause(self._loop.time() + remaining)
            except LimiterError:
                raise  # it is repeated
            except Exception as error:  # noqa: BLE001 - it is for other processes only
                del error
        if self._unreported_pause == granted_at:
            self._unreported_pause = None

    def _extend_pause(self, until: float) -> None:
        """Use no grant before this time."""
        self._pause.ends_at = max(self._pause.ends_at, until)
        self._buffer.drop_before(self._pause.ends_at)

    def _serve_locally(self, local: LocalLimiter) -> None:
        """Give grants of this process's own share until the backend is available again."""
        if self._local_task is None or self._local_task.done():
            # What other processes know of must not come on top of the share.
            self._buffer.clear()
            self._local_task = self._loop.create_task(self._give_locally(local))

    async def _give_locally(self, local: LocalLimiter) -> None:
        ledger = self._buffer.ledger
        while self._waiters.purge():
            now = self._loop.time()
            if now < self._pause.ends_at:
                await asyncio.sleep(self._pause.ends_at - now)
            # What the backend has granted counts as part of the share.
            elif ledger.count(now) >= local.limits.requests_per_minute:
                await asyncio.sleep(STEP)
            else:
                permit = await local.request()
                ledger.in_flight += 1  # the backend learns of it when it is back
                self._give(Grant(permit.granted_at, permit.granted_at + GRANT_LIFETIME, permit))
