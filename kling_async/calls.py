"""One call of the API: within the limits, and sent again as often as the policy says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from itertools import count
from random import random
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from kling_async.errors import KlingError, RateLimitError
from kling_async.events import Event, Hook, Paused, Retrying

if TYPE_CHECKING:
    from kling_async.limits import Limiter
    from kling_async.policy.retry import Retry
    from kling_async.protocol.requests import Request
    from kling_async.protocol.responses import Response
    from kling_async.transport import Transport

__all__ = ["Calls"]

_T = TypeVar("_T")
_P = ParamSpec("_P")

_log = logging.getLogger("kling_async")


class Calls:
    """What all calls of a client share: the transport, the limiter, the policy, the hooks."""

    def __init__(
        self, transport: Transport, limiter: Limiter, retry: Retry, hooks: tuple[Hook, ...]
    ) -> None:
        self.limiter = limiter
        self.transport = transport
        self._retry = retry
        self._hooks = hooks
        self._loop: asyncio.AbstractEventLoop | None = None

    async def call(self, request: Request, once: Callable[[], Awaitable[_T]]) -> _T:
        """Let ``once`` send the request within the limits, again and again if that is right."""
        self._bind()
        begun: float | None = None
        for attempt in count(1):
            # The connection comes before the permit to use it: what has been admitted is on
            # its way, and cannot pile up and arrive all at once.
            await self._gate.acquire()
            try:
                permit = await self.limiter.request()
                begun = self._clock() if begun is None else begun
                try:
                    return await once()
                except KlingError as failed:
                    error = failed
            finally:
                self._gate.release()
            delay = self._retry.wait(error, attempt, self._clock() - begun, random())  # noqa: S311 - jitter, not secrets
            if isinstance(error, RateLimitError):
                pause = delay
                if pause is None:  # this request gives up; the others wait all the same
                    asked = min(error.retry_after or 0.0, self._retry.cap)
                    pause = max(asked, self._retry.backoff(attempt, random()))  # noqa: S311 - as above
                if self.limiter.pause(pause, permit):
                    self.tell(Paused, pause)
            if delay is None:
                raise error
            self.tell(Retrying, request.kind, error, attempt, delay)
            if not isinstance(error, RateLimitError):  # the limiter holds those back by itself
                await asyncio.sleep(delay)
        raise AssertionError  # pragma: no cover - count() does not end

    def send(self, request: Request) -> Awaitable[Response]:
        """Send once, whatever the limits."""
        return self.transport.send(request, self._retry.request_timeout)

    def tell(self, kind: Callable[_P, Event], *fields: _P.args, **more: _P.kwargs) -> None:
        """Make an event and tell it, if there is anybody to be told."""
        if not self._hooks:
            return
        event = kind(*fields, **more)
        for hook in self._hooks:
            try:
                hook(event)
            except Exception:  # noqa: BLE001 - a hook is the user's code; ours must go on
                _log.exception("a hook failed on %s", type(event).__name__)

    def _bind(self) -> None:
        """Make anew what belongs to one event loop."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._clock = loop, loop.time
            self._gate = asyncio.Semaphore(self.limiter.limits.connections)
