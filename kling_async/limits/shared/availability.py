"""Calls to a backend: when to give up, when to retry, and what is logged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from math import inf
from random import random
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from kling_async._utils.backends import answer_timeout
from kling_async.errors import ConfigurationError, KlingError, LimiterError
from kling_async.limits.shared.backend import LeaseStatus, Reservation
from kling_async.policy.retry import backoff

if TYPE_CHECKING:
    from kling_async.limits.shared.backend import LimitsBackend

WhenGone: TypeAlias = Literal["wait", "raise", "local"]

_T = TypeVar("_T")

_log = logging.getLogger("kling_async")

# Seconds after which a call is given up. The backends in Redis and PostgreSQL have a shorter limit
# of their own; this one holds whatever the driver does.
_CALL_TIMEOUT = 2.0

# Seconds between retries, growing: frequent enough to report what is held to a backend that has
# lost its state, before that grants anything.
_FIRST_RETRY, _LONGEST_RETRY = 0.05, 1.0

# Answers in a row that may come too late to be of use.
_MAX_LATE = 2

_CONSEQUENCES = {
    "wait": "everything waits until it is back",
    "raise": "calls raise LimiterError until it is back",
    "local": "this process keeps to its own share until it is back",
}


class MonitoredBackend:
    """Calls a backend, and keeps track of whether it is available and has kept its state.

    Args:
        backend: The backend.
        label: Where it is, for messages.
        when_gone: What the limiter does while it is unavailable; only for messages.
        epoch: The last one that was seen on an earlier event loop.

    Attributes:
        on_state_lost: Called when an answer shows that the backend has lost some of its state.
        retry_at: The loop's time before which it is of no use to call.
        answered_at: When the last answer came.
    """

    def __init__(
        self, backend: LimitsBackend, label: str, when_gone: WhenGone, epoch: str = ""
    ) -> None:
        self.backend = backend
        self.when_gone: WhenGone = when_gone
        self.epoch: str = epoch
        self.on_state_lost: list[Callable[[], None]] = []
        self.retry_at: float = -inf
        self.answered_at: float = -inf
        self._label = label
        self._failures = self._late = 0
        self._has_refused = False

    @property
    def unavailable(self) -> bool:
        """Whether the last call failed."""
        return self._failures > 0

    async def call(self, call: Awaitable[_T], within: float = inf) -> _T:
        """Return the answer to a call.

        Args:
            call: One of the backend's methods, called.
            within: Seconds after which the answer is of no use. A late answer is returned
                nevertheless, but after several in a row an error is raised.

        Raises:
            LimiterError: The backend cannot be reached, or did not answer in time.
            ConfigurationError: Repeating the call cannot help.
        """
        clock = asyncio.get_running_loop().time
        sent = clock()
        try:
            try:
                async with answer_timeout(_CALL_TIMEOUT):
                    answer = await call
            except TimeoutError:
                raise LimiterError(f"no answer within {_CALL_TIMEOUT:g} s") from None
            took = clock() - sent
            if within < inf:
                self._late = self._late + 1 if took > within else 0
                if self._late > _MAX_LATE:
                    raise LimiterError(  # noqa: TRY301 - handled as any other failure
                        f"answers take too long, {took:.2f} s the last one"
                    )
        except KlingError as error:
            message = f"the limits at {self._label} cannot be kept: {error}"
            self._note_failure(error, message)
            if isinstance(error, LimiterError):
                raise LimiterError(message) from error
            raise
        except Exception:
            self.retry_at = clock() + _LONGEST_RETRY
            raise
        self.answered_at = clock()
        # After late answers, only one in time shows that the backend is available again.
        if self._failures and self._late <= (_MAX_LATE if within == inf else 0):
            _log.warning("the limits at %s are kept again", self._label)
            self._failures, self._has_refused, self.retry_at = 0, False, -inf
        if isinstance(answer, Reservation | LeaseStatus):
            self._check_state(answer.epoch, answer.set_back)
        return answer

    def _check_state(self, epoch: str, set_back: float) -> None:
        if set_back:
            _log.warning(
                "the clock of the limits at %s was set back by %.1f s: all processes report again"
                " what they use",
                self._label,
                set_back,
            )
        known, self.epoch = self.epoch, epoch
        if known not in ("", epoch):
            for callback in self.on_state_lost:
                callback()

    def _note_failure(self, error: KlingError, message: str) -> None:
        if isinstance(error, ConfigurationError):
            if not self._has_refused:  # once: it is retried while slots are held
                _log.error("%s", message)
            self._has_refused = True
        elif not self._failures:
            _log.warning("%s; %s", message, _CONSEQUENCES[self.when_gone])
        self._failures += 1
        # Not all processes at the same time.
        chance = 0.5 + random() / 2  # noqa: S311 - no secret
        wait = backoff(self._failures, _FIRST_RETRY, _LONGEST_RETRY, chance)
        self.retry_at = asyncio.get_running_loop().time() + wait
