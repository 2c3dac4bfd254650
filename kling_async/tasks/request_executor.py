"""Executing one request of the API: within the limits, and repeated as the policy says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from random import random
from typing import TYPE_CHECKING, TypeVar

from attrs import frozen

from kling_async._utils.loops import PerLoop
from kling_async.errors import ClientClosedError, KlingError, RateLimitError
from kling_async.policy.retry import backoff

if TYPE_CHECKING:
    from kling_async.events import Hook
    from kling_async.limits.base import Limiter, Limits, Permit
    from kling_async.policy.retry import Retry
    from kling_async.protocol.requests import Request
    from kling_async.tasks.event_emitter import EventEmitter
    from kling_async.transport import Transport

_T = TypeVar("_T")

_log = logging.getLogger("kling_async")

# A 429 to a submit whose message has one of these words is about running tasks, not requests.
_CONCURRENCY_WORDS = ("concurren", "running", "task")


@frozen
class Failed:
    """The failure of a request that was sent once. Nothing else is ever repeated.

    An exception of a limiter or a journal says nothing about the request: it may be accepted.
    """

    error: KlingError


class RequestExecutor:
    """Sends the requests of one client.

    Attributes:
        events: Emits the client's events; None while there are no hooks, and nothing is logged.
    """

    def __init__(
        self, transport: Transport, limiter: Limiter, retry: Retry, hooks: tuple[Hook, ...]
    ) -> None:
        self.transport = transport
        self.limiter = limiter
        self.retry = retry
        self.events: EventEmitter | None = None
        self._logs = False
        self.limits: Limits = limiter.limits
        self._connections = PerLoop("client", lambda _: asyncio.Semaphore(self.limits.connections))
        self._interruptions = 0
        if hooks:
            self._emit_to(hooks)
        if _log.isEnabledFor(logging.INFO):
            self._emit_to_log()

    async def execute(
        self,
        request: Request,
        send: Callable[[Permit], Awaitable[_T | Failed]],
        *,
        prepare: Callable[[int], Awaitable[object]] | None = None,
        patience: float | None = None,
    ) -> _T:
        """Have a request sent within the limits, and repeat it as the policy says.

        Args:
            request: The request.
            send: Sends it once and returns the result or the failure, as :meth:`send` does; calls
                ``answered`` on the permit. What it raises is raised here.
            prepare: Awaited before each wait for a permit, with the number of the attempt from 1.
            patience: Seconds for which failures are repeated; None: as the policy says.
        """
        connections = self._connections.get()
        clock = asyncio.get_running_loop().time
        interruptions = self._interruptions
        started: float | None = None
        attempt = 0
        while True:
            attempt += 1
            if prepare is not None:
                await prepare(attempt)
            asked_at = 0.0 if self.events is None else clock()
            # The connection comes before the permit: a request with a permit is sent at once.
            async with connections:
                permit = await self.limiter.request()
                if self._interruptions != interruptions:
                    permit.answered()
                    raise ClientClosedError(
                        f"the client was closed before the {request.kind} request was sent",
                        ref=request.ref,
                        may_have_charged=request.ref is not None,
                    )
                started = clock() if started is None else started
                observed = permit
                if self.events is not None:
                    observed = self.events.observe(permit, attempt, clock() - asked_at)
                outcome = await send(observed)
            if not isinstance(outcome, Failed):
                return outcome
            error = outcome.error
            refused = isinstance(error, RateLimitError)
            limit = self.retry.patience if refused and request.kind == "submit" else patience
            chance = random()  # noqa: S311 - jitter
            delay = self.retry.next_delay(error, attempt, clock() - started, chance, patience=limit)
            if isinstance(error, RateLimitError):
                self.pause_after(request, error, permit, attempt, delay)
            if delay is None:
                raise error
            if self.events is not None:
                self.events.retrying(request, error, attempt, delay)
            if not refused:  # the limiter delays the repetition of a 429
                await asyncio.sleep(delay)

    async def send(self, request: Request, parse: Callable[..., _T], permit: Permit) -> _T | Failed:
        """Send a request once; return what ``parse(response, now=...)`` returns, or the failure.

        The permit is answered when the request is, or has failed. A cancelled request may still
        reach the service: its permit counts for as long as an answer could have taken.
        """
        if not self._logs and _log.isEnabledFor(logging.INFO):  # it was configured since
            self._emit_to_log()
        loop = asyncio.get_running_loop()
        timeout, status = self.retry.request_timeout, None
        sent_at = 0.0 if self.events is None else loop.time()
        outcome: _T | Failed
        try:
            response = await self.transport.send(request, timeout)
        except asyncio.CancelledError:
            loop.call_later(timeout, permit.answered)
            raise
        except KlingError as failure:
            permit.answered()
            outcome = Failed(failure)
        except BaseException:
            permit.answered()
            raise
        else:
            permit.answered()
            status = response.status
            try:
                outcome = parse(response, now=datetime.now(UTC))
            except KlingError as failure:
                outcome = Failed(failure)
        if self.events is not None:
            error = outcome.error if isinstance(outcome, Failed) else None
            self.events.request_answered(request, permit, sent_at, status, error)
        return outcome

    def interrupt(self) -> None:
        """Send no further request for the calls that run now: the client is being closed."""
        self._connections.get()  # raises on another running loop
        self._interruptions += 1

    def pause_after(
        self,
        request: Request,
        error: RateLimitError,
        permit: Permit,
        attempt: int = 1,
        delay: float | None = None,
    ) -> None:
        """Pause all requests after a 429, unless it concerns the number of running tasks.

        A 429 to a submit may mean either. Without a Retry-After it delays submits only, by the
        slots (see Submitter): if all requests are meant, the next status call is refused, too.
        """
        if request.kind == "submit" and (
            error.retry_after is None
            or any(word in error.message.casefold() for word in _CONCURRENCY_WORDS)
        ):
            return
        if delay is None:  # this request is not repeated; the others wait all the same
            asked = min(error.retry_after or 0.0, self.retry.cap)
            jitter = backoff(attempt, self.retry.base, self.retry.cap, random())  # noqa: S311 - jitter
            delay = max(asked, jitter)
        if self.limiter.pause(delay, permit) and self.events is not None:
            self.events.paused(delay)

    def _emit_to(self, hooks: tuple[Hook, ...]) -> None:
        from kling_async.tasks.event_emitter import EventEmitter

        base_url = getattr(self.transport, "base_url", "")
        self.events = EventEmitter(hooks, base_url, self.limits.requests_per_minute)

    def _emit_to_log(self) -> None:
        """Log the events from now on: the log is enabled for more than warnings."""
        from kling_async.telemetry.logs import EventLog

        self._logs = True
        self._emit_to((*(self.events.hooks if self.events is not None else ()), EventLog()))
