"""Whether a request is sent again, and when: a pure decision.

What may be repeated at all was settled when the error was made: ``retryable`` is false for
every submit that may have started a task (``protocol/verdicts.py``). What remains is how long to
wait and when to stop.
"""

from __future__ import annotations

from typing import cast

from attrs import frozen

from kling_async.errors import APIError, ConfigurationError, KlingError, RateLimitError


@frozen
class Retry:
    """How failed requests are repeated. Only those that cannot have cost money ever are.

    The wait before repetition *n* is drawn evenly between 0 and ``base`` × 2^(n-1) ("full
    jitter"), at most ``cap``. A ``Retry-After`` from the service is the least wait, up to ``cap``.
    A wait that would pass the deadline is not begun: the error is raised.

    A 429 is bounded by time, not by attempts: a submit waits for up to ``patience`` seconds, since
    a full account has a free place again when one of its tasks ends. The submits of a fan-out
    or batch wait as long for a service that cannot be reached or is unavailable.

    Attributes:
        attempts: How often a request is sent at the most; 1 never repeats.
        base: Seconds, the widest first wait.
        cap: Seconds, the longest single wait.
        deadline: Seconds from the first sending after which nothing is repeated.
        request_timeout: Seconds that one sending may take in all.
        patience: Seconds from the first sending of a submit for which a 429 is waited for; in
            fan-outs and batches, an outage too.

    Raises:
        ConfigurationError: A number is out of range.
    """

    attempts: int = 6
    base: float = 0.5
    cap: float = 60.0
    deadline: float = 180.0
    request_timeout: float = 30.0
    patience: float = 3600.0

    def __attrs_post_init__(self) -> None:
        if type(self.attempts) is not int or self.attempts < 1:
            raise ConfigurationError(f"retry needs attempts >= 1, not {self.attempts!r}")
        for name in ("base", "cap", "deadline", "request_timeout", "patience"):
            value: object = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 < cast("float", value) < float("inf"):
                raise ConfigurationError(
                    f"retry needs {name} > 0 as a number of seconds, not {value!r}"
                )

    def wait(
        self,
        error: KlingError,
        attempt: int,
        elapsed: float,
        chance: float,
        *,
        patience: float | None = None,
    ) -> float | None:
        """Decide about a request that has just failed.

        Args:
            error: What it failed with.
            attempt: How often it has been sent, from 1.
            elapsed: Seconds since it was first sent.
            chance: An even random number from 0 up to 1.
            patience: Seconds for which it is repeated, however often; None: as ``attempts`` and
                ``deadline`` say.

        Returns:
            Seconds to wait before it is sent again, or None to give up.
        """
        if not error.retryable or self.attempts == 1:
            return None
        counted = patience is None and not isinstance(error, RateLimitError)
        if counted and attempt >= self.attempts:
            return None
        delay = backoff(attempt, self.base, self.cap, chance)
        asked = error.retry_after if isinstance(error, APIError) else None
        if asked is not None:
            delay = max(delay, min(asked, self.cap))
        limit = self.deadline if patience is None else patience
        return delay if elapsed + delay <= limit else None


def backoff(attempt: int, base: float, cap: float, chance: float = 1.0) -> float:
    """Return the exponential backoff after consecutive failures, in seconds.

    Args:
        attempt: The number of failures, from 1. Any integer is valid.
        base: The longest first wait, in seconds. It doubles with each failure.
        cap: The longest wait, in seconds.
        chance: The fraction of that wait to return, from 0 to 1. A uniform random number gives
            "full jitter".
    """
    # 2.0 ** 64 exceeds any cap. A larger exponent would raise OverflowError.
    return chance * min(cap, base * 2.0 ** min(attempt - 1, 64))
