"""A circuit breaker: submits are held back while the service cannot be reached.

Some failures cost nothing and concern all requests alike: a refused connection, the service's own
503, the page of a gateway. A few of them in a row open the breaker. While it is open, single
requests are admitted as probes, at growing intervals. The first that succeeds closes it.

Outcomes arrive late: requests that were sent before the breaker opened fail after it, and some
after it has closed again. So each request carries the period in which it was admitted, and the
outcome of a request of an earlier period changes nothing.
"""

from __future__ import annotations

from math import inf

from attrs import define, field, frozen

from kling_async.policy.retry import backoff


@frozen
class Admission:
    """The permission to send one request.

    Attributes:
        period: The number of times that the breaker had opened or closed before.
        probe: The breaker was open.
    """

    period: int
    probe: bool


@define(eq=False)
class CircuitBreaker:
    """Decides whether a request may be sent now.

    Args:
        threshold: The number of failures in a row that opens it.
        interval: Seconds until the first probe. The interval doubles with each failed probe.
        longest: The longest interval, in seconds.

    Attributes:
        is_open: Only probes are admitted.
        next_probe_at: The moment from which :meth:`admit` admits a request: ``-inf`` while the
            breaker is closed, and ``inf`` while the outcome of a probe is awaited.
    """

    threshold: int = 5
    interval: float = 1.0
    longest: float = 30.0
    is_open: bool = field(default=False, init=False)
    next_probe_at: float = field(default=-inf, init=False)
    _period: int = field(default=0, init=False)
    _failures: int = field(default=0, init=False)  # in a row; while it is open, of probes

    def admit(self, now: float) -> Admission | None:
        """Admit a request, or return None.

        Each admission must be followed by :meth:`succeeded`, :meth:`failed`, :meth:`undecided` or
        :meth:`withdrawn`.
        """
        if now < self.next_probe_at:
            return None
        if self.is_open:
            self.next_probe_at = inf
        return Admission(self._period, probe=self.is_open)

    def succeeded(self, admission: Admission) -> None:
        """Record that the service has answered, whatever its answer."""
        if admission.period == self._period:
            self._failures = 0
            if self.is_open:
                self._begin(opened=False)
                self.next_probe_at = -inf

    def failed(
        self, admission: Admission, now: float, chance: float, retry_after: float = 0.0
    ) -> None:
        """Record a failure that cost nothing and does not depend on the request.

        Args:
            admission: The admission of the request.
            now: The current time.
            chance: A random number from 0 up to 1. Half of it is the share by which the interval
                is shortened.
            retry_after: The number of seconds that the service asks to wait.
        """
        if admission.period != self._period:
            return
        self._failures += 1
        if self.is_open or self._failures >= self.threshold:
            if not self.is_open:
                self._begin(opened=True)
            wait = backoff(self._failures + 1, self.interval, self.longest, 1 - chance / 2)
            self.next_probe_at = now + max(retry_after, wait)

    def undecided(self, admission: Admission, now: float, chance: float) -> None:
        """Record an outcome that proves nothing about the service, such as a lost answer.

        After a probe, the next one waits as after a failure.
        """
        if admission.probe:
            self.failed(admission, now, chance)

    def withdrawn(self, admission: Admission) -> None:
        """Record that the request was not sent. Another one may be admitted at once."""
        if admission.probe and admission.period == self._period:
            self.next_probe_at = -inf

    def _begin(self, *, opened: bool) -> None:
        self._period += 1
        self.is_open, self._failures = opened, 0
