"""One call of the API: within the limits, and sent again as often as the policy says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from random import random
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from attrs import frozen

from kling_async._utils.loops import OneLoop
from kling_async.errors import ClientClosedError, KlingError, RateLimitError
from kling_async.events import Event, Hook, Paused, Retrying
from kling_async.policy.retry import backoff

if TYPE_CHECKING:
    from kling_async.limits.base import Limiter, Permit
    from kling_async.policy.retry import Retry
    from kling_async.protocol.requests import Request
    from kling_async.protocol.responses import Response
    from kling_async.transport import Transport

_T = TypeVar("_T")
_P = ParamSpec("_P")

_log = logging.getLogger("kling_async")

# Words by which a 429 to a submit speaks of running tasks, and not of requests.
_CONCURRENCY_WORDS = ("concurren", "running", "task")


@frozen
class Failed:
    """A request that was sent once and failed. Only such a failure is ever repeated.

    Whatever else is raised on the way (by a hook of the user's, a limiter, a journal) ends the
    call: it says nothing about the request, which may have been accepted.
    """

    error: KlingError


class Calls:
    """What all calls of a client share: the transport, the limiter, the policy, the hooks."""

    def __init__(
        self, transport: Transport, limiter: Limiter, retry: Retry, hooks: tuple[Hook, ...]
    ) -> None:
        self.limiter = limiter
        self.transport = transport
        self.retry = retry
        self.loops: OneLoop = OneLoop("client")
        self._hooks = hooks
        self._interruptions = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    async def read(self, request: Request, parse: Callable[[Response], _T]) -> _T:
        """Send a request that costs nothing, within the limits, and return what it answers.

        Args:
            request: A status or balance call.
            parse: Reads the answer; raises a ``KlingError`` if it is not the one expected.

        Raises:
            KlingError: It failed, and is not repeated any more.
        """
        return await self.call(request, partial(self._read_once, request, parse))

    async def call(
        self,
        request: Request,
        once: Callable[[Permit], Awaitable[_T | Failed]],
        *,
        prepare: Callable[[], Awaitable[object]] | None = None,
        patience: float | None = None,
    ) -> _T:
        """Let ``once`` send the request within the limits, repeatedly if that is right.

        Args:
            request: What is sent.
            once: Sends it once with a permit, which it must give back; returns the result, or
                the failure of the request. What it raises is raised here.
            prepare: Is awaited before each sending, and before a permit is waited for.
            patience: Seconds for which failures are repeated; None: as the policy says.
        """
        self._bind()
        begun: float | None = None
        interruptions = self._interruptions
        for attempt in count(1):
            if prepare is not None:
                await prepare()
            # The connection comes before the permit to use it: what has been admitted is on
            # its way, and cannot pile up and arrive all at once.
            await self._gate.acquire()
            try:
                permit = await self.limiter.request()
                if self._interruptions != interruptions:
                    permit.answered()
                    raise ClientClosedError(
                        f"the client was closed before the {request.kind} request was sent",
                        ref=request.ref,
                        may_have_charged=request.ref is not None,
                    )
                begun = self._clock() if begun is None else begun
                outcome = await once(permit)
            finally:
                self._gate.release()
            if not isinstance(outcome, Failed):
                return outcome
            error = outcome.error
            delay = self._delay(request, error, attempt, self._clock() - begun, patience)
            if isinstance(error, RateLimitError):
                self._hold_back(request, error, attempt, delay, permit)
            if delay is None:
                raise error
            self.tell(Retrying, request.kind, error, attempt, delay)
            if not isinstance(error, RateLimitError):  # the limiter holds those back by itself
                await asyncio.sleep(delay)
        raise AssertionError  # pragma: no cover - count() does not end

    def interrupt(self) -> None:
        """Let the calls that have not ended yet send nothing more: the client is being closed."""
        self._interruptions += 1

    async def send(self, request: Request, permit: Permit) -> Response:
        """Send once, and give the permit back when the request is answered or has failed.

        A request that is cancelled may be on its way all the same, and be counted by the service
        when it arrives: its permit is kept for as long as an answer could have taken.
        """
        timeout = self.retry.request_timeout
        try:
            response = await self.transport.send(request, timeout)
        except asyncio.CancelledError:
            asyncio.get_running_loop().call_later(timeout, permit.answered)
            raise
        except BaseException:
            permit.answered()
            raise
        permit.answered()
        return response

    def tell(self, kind: Callable[_P, Event], *fields: _P.args, **more: _P.kwargs) -> None:
        """Make an event and pass it to the hooks, if there are any."""
        if not self._hooks:
            return
        event = kind(*fields, **more)
        for hook in self._hooks:
            try:
                hook(event)
            except Exception:  # noqa: BLE001 - a hook is the user's code; ours must go on
                _log.exception("a hook failed on %s", type(event).__name__)

    async def _read_once(
        self, request: Request, parse: Callable[[Response], _T], permit: Permit
    ) -> _T | Failed:
        try:
            return parse(await self.send(request, permit))
        except KlingError as error:
            return Failed(error)

    def _delay(
        self,
        request: Request,
        error: KlingError,
        attempt: int,
        elapsed: float,
        patience: float | None,
    ) -> float | None:
        """Return the seconds until the request is sent again; None if it is not."""
        if request.kind == "submit" and isinstance(error, RateLimitError):
            patience = self.retry.patience
        return self.retry.wait(error, attempt, elapsed, random(), patience=patience)  # noqa: S311 - jitter, not secrets

    def _hold_back(
        self,
        request: Request,
        error: RateLimitError,
        attempt: int,
        delay: float | None,
        permit: Permit,
    ) -> None:
        """Pause all requests after a 429, unless it concerns the number of running tasks.

        A 429 to a submit may mean either. Without a Retry-After it holds back submits only, by
        the slots (see Submits): if all requests are meant, the next status call is refused, too.
        """
        if request.kind == "submit" and (
            error.retry_after is None
            or any(word in error.message.casefold() for word in _CONCURRENCY_WORDS)
        ):
            return
        pause = delay
        if pause is None:  # this request gives up; the others wait all the same
            asked = min(error.retry_after or 0.0, self.retry.cap)
            jitter = backoff(attempt, self.retry.base, self.retry.cap, random())  # noqa: S311 - as above
            pause = max(asked, jitter)
        if self.limiter.pause(pause, permit):
            self.tell(Paused, pause)

    def _bind(self) -> None:
        """Make the gate of this event loop."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self.loops.check()
            self._loop, self._clock = loop, loop.time
            self._gate = asyncio.Semaphore(self.limiter.limits.connections)
