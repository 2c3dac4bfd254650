"""Whether and when a request is sent again: a pure decision.

Which requests may be repeated is decided in ``protocol/verdicts.py``: ``retryable`` is false for a
submit that may have started a task. Here it is decided how long to wait, and when to give up.
"""

from __future__ import annotations

from attrs import frozen

from kling_async._utils.numbers import is_number
from kling_async.errors import APIError, ConfigurationError, KlingError, RateLimitError


@frozen
class Retry:
    """How failed requests are repeated. A request that may have cost money is never repeated.

    The wait before repetition *n* is a random number of seconds from 0 to ``base`` × 2^(n-1)
    ("full jitter"), at most ``cap``. It is not shorter than the service's ``Retry-After``, up to
    ``cap``. If a wait would exceed the deadline, the error is raised at once.

    A 429 is limited by time and not by attempts: a submit is repeated for up to ``patience``
    seconds, since a full account accepts another task when one has ended. The submits of fan-outs
    and batches wait as long for a service that is unavailable.

    Attributes:
        attempts: How often a request is sent at most; 1 never repeats.
        base: The longest first wait, in seconds.
        cap: The longest wait, in seconds.
        deadline: Seconds after the first sending, after which nothing is repeated.
        request_timeout: The longest time for sending a request once, in seconds.
        patience: Seconds after the first sending of a submit for which it is repeated after a 429;
            in fan-outs and batches, also during an outage.

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
            if not is_number(value) or value <= 0:
                raise ConfigurationError(
                    f"retry needs {name} > 0 as a number of seconds, not {value!r}"
                )

    def next_delay(
        self,
        error: KlingError,
        attempt: int,
        elapsed: float,
        chance: float,
        *,
        patience: float | None = None,
    ) -> float | None:
        """Return the number of seconds after which a request is sent again, or None to give up.

        Args:
            error: The error of the last sending.
            attempt: How often the request has been sent.
            elapsed: Seconds since it was first sent.
            chance: A random number from 0 up to 1.
            patience: Seconds for which it is repeated, however often. None: as ``attempts`` and
                ``deadline`` say.
        """
        if not error.retryable or self.attempts == 1:
            return None
        counted = patience is None and not isinstance(error, RateLimitError)
        if counted and attempt >= self.attempts:
            return None
        delay = backoff(attempt, self.base, self.cap, chance)
        if isinstance(error, APIError) and error.retry_after is not None:
            delay = max(delay, min(error.retry_after, self.cap))
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
