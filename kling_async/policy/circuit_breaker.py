"""When submits are held back because the service is out of reach: a pure circuit breaker.

Some failures are free and concern every request alike: a refused connection, the service's own
503, the page of a gateway in front of it. A few of them in a row open the breaker. While it is
open, one probe at a time may be sent, at growing intervals; the first that succeeds closes it.

Outcomes arrive late: a hundred requests that were under way when the breaker opened fail after it,
and some after it has closed again. So every request carries the period in which it was admitted,
and the outcome of an earlier period changes nothing.
"""

from __future__ import annotations

from math import inf

from attrs import define, field, frozen

from kling_async.policy.retry import backoff


@frozen
class Admission:
    """The leave to send one request.

    Attributes:
        period: Which time of being open or closed it was admitted in.
        probe: Whether it tries out a service that was out of reach.
    """

    period: int
    probe: bool


@define(eq=False)
class CircuitBreaker:
    """Decides whether a request may be sent now.

    Args:
        threshold: How many failures in a row open it.
        interval: Seconds from its opening to the first probe, doubled with each that fails.
        longest: Seconds, the longest interval.
    """

    threshold: int = 5
    interval: float = 1.0
    longest: float = 30.0
    _period: int = field(default=0, init=False)
    _failures: int = field(default=0, init=False)  # in a row; while it is open, of probes
    _open: bool = field(default=False, init=False)
    _probing: bool = field(default=False, init=False)
    _due: float = field(default=-inf, init=False)

    @property
    def is_open(self) -> bool:
        """Whether requests are held back, but for probes."""
        return self._open

    @property
    def next_probe_at(self) -> float:
        """The moment from which :meth:`admit` admits: ``-inf`` while it is closed.

        It is ``inf`` while a probe is under way, since nothing is admitted before it has ended.
        """
        return inf if self._probing else self._due

    def admit(self, now: float) -> Admission | None:
        """Admit a request, or return None: wait for :attr:`next_probe_at`, or for an outcome.

        An admitted request must be followed by :meth:`succeeded`, :meth:`failed`,
        :meth:`undecided` or :meth:`withdrawn`.
        """
        if now < self.next_probe_at:
            return None
        self._probing = self._open
        return Admission(self._period, probe=self._open)

    def succeeded(self, admission: Admission) -> None:
        """Note that the service has answered, whatever it said: it is within reach."""
        if admission.period == self._period:
            self._failures = 0
            if self._open:
                self._begin(opened=False)
                self._due = -inf

    def failed(
        self, admission: Admission, now: float, chance: float, retry_after: float = 0.0
    ) -> None:
        """Note a failure that cost nothing and that any other request would have met, too.

        Args:
            admission: Of the request that failed.
            now: The moment.
            chance: An even random number from 0 up to 1: by half of it the interval is shorter.
            retry_after: Seconds that the service asks to wait, if it does.
        """
        if admission.period == self._period:
            self._failures += 1
            if self._open or self._failures >= self.threshold:
                if not self._open:
                    self._begin(opened=True)
                self._wait(now, chance, retry_after)

    def undecided(self, admission: Admission, now: float, chance: float) -> None:
        """Note an outcome that says nothing of the service, such as a lost answer.

        The next probe waits as after a failure, since this one was sent.
        """
        if admission.probe:
            self.failed(admission, now, chance)

    def withdrawn(self, admission: Admission) -> None:
        """Note that the request was not sent: another may take its place at once."""
        if admission.period == self._period:
            self._probing = False

    def _begin(self, *, opened: bool) -> None:
        self._period += 1
        self._open, self._failures, self._probing = opened, 0, False

    def _wait(self, now: float, chance: float, retry_after: float) -> None:
        wait = backoff(self._failures + 1, self.interval, self.longest, 1 - chance / 2)
        self._due = now + max(retry_after, wait)
        self._probing = False
