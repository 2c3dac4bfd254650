"""The way to an engine: patience with it, and what to do without it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from random import random
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from kling_async._utils.backends import in_time
from kling_async.errors import ConfigurationError, KlingError, LimiterError
from kling_async.policy.retry import backoff

if TYPE_CHECKING:
    from kling_async.limits.shared.backend import LimitsBackend

OnUnavailable: TypeAlias = Literal["wait", "raise", "local"]

_T = TypeVar("_T")

_log = logging.getLogger("kling_async")

# Seconds after which a silent engine is given up. Connections have a limit of their own, which
# is shorter; this one holds whatever the driver does.
PATIENCE = 2.0

# Seconds between one try and the next, growing: often enough to be back soon, and to tell an
# engine that has forgotten everything what is held before it gives anything away.
_SOONEST, _LATEST = 0.05, 1.0

# What those who wait are told when the limiter is closed, and those who come while it is.
CLOSED = "the limiter was closed"

# Answers in a row that may come too late to be of use, before the engine is as good as gone.
_LATE = 3

_INSTEAD = {
    "wait": "everything waits until it is back",
    "raise": "calls raise LimiterError until it is back",
    "local": "this process keeps to its own share until it is back",
}


class Link:
    """Asks an engine, and notes whether it is of use."""

    def __init__(self, engine: LimitsBackend, shown: str, on_unavailable: OnUnavailable) -> None:
        self.engine = engine
        self.on_unavailable = on_unavailable
        self.retry_at = float("-inf")  # of the loop's time: there is no use in trying before
        self.heard_at = float("-inf")
        self._shown = shown
        self._failures = self._late = 0
        self._refused = False

    @property
    def gone(self) -> bool:
        """Whether the engine was of no use when it was last asked."""
        return self._failures > 0

    async def ask(self, call: Awaitable[_T], within: float | None = None) -> _T:
        """Return the engine's answer.

        Args:
            call: What asks it.
            within: Seconds after which an answer is of no use. It is returned all the same,
                unless this goes on. None: it is of use whenever it comes.

        Raises:
            LimiterError: It cannot be reached, or gave no answer in time.
            ConfigurationError: It will never answer like this.
        """
        clock = asyncio.get_running_loop().time
        sent = clock()
        try:
            try:
                async with in_time(PATIENCE):
                    answer = await call
            except TimeoutError:
                raise LimiterError(f"no answer within {PATIENCE:g} s") from None
            took = clock() - sent
            if within is not None:
                self._late = self._late + 1 if took > within else 0
                if self._late >= _LATE:
                    raise LimiterError(f"answers take too long, {took:.2f} s the last one")
        except KlingError as error:
            words = f"the limits at {self._shown} cannot be kept: {error}"
            self._lost(error, words)
            if isinstance(error, LimiterError):
                raise LimiterError(words) from error
            raise
        self.heard_at = clock()
        # Calls that do not mind late answers say nothing about those that do.
        if self._failures and self._late < (_LATE if within is None else 1):
            _log.warning("the limits at %s are kept again", self._shown)
            self._failures, self._refused = 0, False
        return answer

    async def retry(self) -> None:
        """Wait until it makes sense to ask again."""
        await asyncio.sleep(max(0.0, self.retry_at - asyncio.get_running_loop().time()))

    def warn(self, set_back: float) -> None:
        """Log that the engine's clock was set back, if it was."""
        if set_back:
            _log.warning(
                "the clock of the limits at %s was set back by %.1f s: all processes report again"
                " what they use",
                self._shown,
                set_back,
            )

    def _lost(self, error: KlingError, words: str) -> None:
        if isinstance(error, ConfigurationError):
            if not self._refused:  # once: slots that are held are told of again and again
                _log.error("%s", words)
            self._refused = True
        elif not self._failures:
            _log.warning("%s; %s", words, _INSTEAD[self.on_unavailable])
        self._failures += 1
        chance = 0.5 + random() / 2  # noqa: S311 - not all processes at the same moment
        wait = backoff(self._failures, _SOONEST, _LATEST, chance)
        self.retry_at = asyncio.get_running_loop().time() + wait
