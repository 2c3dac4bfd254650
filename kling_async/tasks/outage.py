"""Submits wait during an outage of the service, instead of failing one by one.

The decision is :class:`~kling_async.policy.circuit_breaker.CircuitBreaker`; this is the queue in
front of it. It sends nothing: a submit waits here, is sent as always, and reports its outcome.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from math import inf
from random import random
from typing import TYPE_CHECKING

from attrs import define, field

from kling_async.errors import APIError, KlingError
from kling_async.policy.circuit_breaker import Admission, CircuitBreaker
from kling_async.protocol import verdicts
from kling_async.protocol.verdicts import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("kling_async")


class OutageGate:
    """Admits submits while the service can be reached, and otherwise one probe at a time.

    Args:
        loop: The event loop on which it is used.
        breaker: The circuit breaker; None creates one.
        chance: Returns an even random number from 0 up to 1.
        longest_wait: The longest ``Retry-After`` that is obeyed, in seconds.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        breaker: CircuitBreaker | None = None,
        chance: Callable[[], float] = random,
        longest_wait: float = inf,
    ) -> None:
        self.loop = loop
        self.longest_wait = longest_wait
        self.breaker: CircuitBreaker = breaker or CircuitBreaker()
        self.chance = chance
        self._waiting: OrderedDict[asyncio.Future[Admission], None] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._was_open = False

    async def wait(self) -> Attempt:
        """Wait until a request may be sent, in the order of the calls."""
        if not self.breaker.is_open:  # no submit waits
            return Attempt(self, self.breaker.admission)
        future: asyncio.Future[Admission] = self.loop.create_future()
        self._waiting[future] = None
        self.admit_waiting()
        try:
            return Attempt(self, await future)
        except asyncio.CancelledError:
            self._waiting.pop(future, None)
            if not future.cancelled():  # it was admitted in the moment of the cancellation
                self.breaker.withdrawn(future.result())
            self.admit_waiting()
            raise

    def admit_waiting(self, error: BaseException | None = None) -> None:
        """Admit all that may be sent now, and set the timer for the next probe.

        If submits wait from now on, ``error`` is logged.
        """
        is_open = self.breaker.is_open
        if is_open and not self._was_open:
            _log.warning("submits wait until the service can be reached again: %s", error)
        elif self._was_open and not is_open:
            _log.warning("the service can be reached again; submits continue")
        self._was_open = is_open
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and (admission := self.breaker.admit(self.loop.time())) is not None:
            future, _ = self._waiting.popitem(last=False)
            if future.cancelled():
                self.breaker.withdrawn(admission)
            else:
                future.set_result(admission)
        if self._waiting and (due := self.breaker.next_probe_at) < inf:
            self._timer = self.loop.call_at(due, self.admit_waiting)


@define(eq=False)
class Attempt:
    """The admission of one request, to be recorded or withdrawn. The first call counts."""

    _gate: OutageGate
    _admission: Admission
    _settled: bool = field(default=False, init=False)

    def record(self, error: KlingError | None) -> None:
        """Record the outcome of the request: the error, or None if it was accepted."""
        gate, breaker, admission = self._gate, self._gate.breaker, self._admission
        if self._settled:
            return
        self._settled = True
        if error is None and not breaker.is_open and not breaker.failures:
            return  # nothing changes
        verdict = None if error is None else verdicts.judge_error(error)
        if verdict is Verdict.UNKNOWN:
            breaker.undecided(admission, gate.loop.time(), gate.chance())
        elif verdict and verdicts.CONSEQUENCES[verdict].systemic and error and error.retryable:
            asked = (isinstance(error, APIError) and error.retry_after) or 0.0
            wait = min(asked, gate.longest_wait)
            breaker.failed(admission, gate.loop.time(), gate.chance(), wait)
        else:
            breaker.succeeded(admission)
        gate.admit_waiting(error)

    def withdraw(self) -> None:
        """Record that the request was not sent."""
        if not self._settled:
            self._settled = True
            self._gate.breaker.withdrawn(self._admission)
            self._gate.admit_waiting()
