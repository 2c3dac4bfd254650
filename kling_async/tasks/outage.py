"""Submits wait while the service is out of reach, instead of failing one by one.

The decision is :class:`~kling_async.policy.circuit_breaker.CircuitBreaker`; this is the queue in
front of it. Nothing is sent from here: a submit waits for its turn, is sent as always, and says
what became of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from math import inf
from random import random
from typing import TYPE_CHECKING, Self

from attrs import define, field

from kling_async.policy.circuit_breaker import Admission, CircuitBreaker

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_log = logging.getLogger("kling_async")


class OutageGate:
    """Lets submits through while the service is within reach, and else one probe at a time.

    It may be used on several event loops one after another; what an earlier one knew is forgotten.

    Args:
        breaker: Makes the circuit breaker of an event loop.
        chance: Returns an even random number from 0 up to 1.
    """

    def __init__(
        self,
        breaker: Callable[[], CircuitBreaker] = CircuitBreaker,
        chance: Callable[[], float] = random,
    ) -> None:
        self._breaker = breaker
        self._chance = chance
        self._queue: _Queue | None = None

    async def wait(self) -> Attempt:
        """Wait until a request may be sent, first come, first served.

        What is returned must be given the outcome. Use it as a context manager, so that an
        attempt that is cancelled before it is sent leaves its turn to the next.
        """
        loop = asyncio.get_running_loop()
        if self._queue is None or self._queue.loop is not loop:
            self._queue = _Queue(loop, self._breaker(), self._chance)
        return Attempt(self._queue, await self._queue.admission())


@define(eq=False)
class Attempt:
    """The leave to send one request, and to say what became of it; the first word counts."""

    _queue: _Queue
    _admission: Admission
    _settled: bool = field(default=False, init=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.withdrawn()

    def succeeded(self) -> None:
        """The service has answered, be it with a refusal: it is within reach."""
        if self._settle():
            self._queue.breaker.succeeded(self._admission)
            self._queue.serve()

    def failed(self, error: BaseException, retry_after: float | None = None) -> None:
        """It failed, for free, with what every other request would have met, too.

        Args:
            error: What is logged when this makes the others wait.
            retry_after: Seconds that the service asks to wait, if it does.
        """
        if self._settle():
            queue = self._queue
            queue.breaker.failed(
                self._admission, queue.loop.time(), queue.chance(), retry_after or 0.0
            )
            queue.serve(error)

    def undecided(self) -> None:
        """It was sent, and what became of it says nothing of the service."""
        if self._settle():
            queue = self._queue
            queue.breaker.undecided(self._admission, queue.loop.time(), queue.chance())
            queue.serve()

    def withdrawn(self) -> None:
        """It was not sent."""
        if self._settle():
            self._queue.breaker.withdrawn(self._admission)
            self._queue.serve()

    def _settle(self) -> bool:
        settled, self._settled = self._settled, True
        return not settled


class _Queue:
    """Who waits on one event loop, and the timer for the next probe."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        breaker: CircuitBreaker,
        chance: Callable[[], float],
    ) -> None:
        self.loop = loop
        self.breaker = breaker
        self.chance = chance
        self._waiting: OrderedDict[asyncio.Future[Admission], None] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._was_open = False

    async def admission(self) -> Admission:
        """Wait for leave to send."""
        if not self._waiting and (admission := self.breaker.admit(self.loop.time())) is not None:
            return admission
        future: asyncio.Future[Admission] = self.loop.create_future()
        self._waiting[future] = None
        self.serve()
        try:
            return await future
        except asyncio.CancelledError:
            self._waiting.pop(future, None)
            if not future.cancelled():  # it was admitted in the same moment
                self.breaker.withdrawn(future.result())
            self.serve()
            raise

    def serve(self, error: BaseException | None = None) -> None:
        """Admit all who may be sent now, and come back for the next probe."""
        self._log_change(error)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and (admission := self.breaker.admit(self.loop.time())) is not None:
            future, _ = self._waiting.popitem(last=False)
            if future.cancelled():  # and about to leave the queue
                self.breaker.withdrawn(admission)
            else:
                future.set_result(admission)
        if self._waiting and (due := self.breaker.next_probe_at) < inf:
            self._timer = self.loop.call_at(due, self.serve)

    def _log_change(self, error: BaseException | None) -> None:
        if self.breaker.is_open and not self._was_open:
            _log.warning("submits wait until the service can be reached again: %s", error)
        elif self._was_open and not self.breaker.is_open:
            _log.warning("the service can be reached again; submits continue")
        self._was_open = self.breaker.is_open
