"""When requests may be sent: the sliding window that keeps the limit, and pauses after a 429.

The client does not know when a request reaches the service. It knows when the request was sent,
and when the answer came (or the request failed). The service counted it at some time in between.
So a request counts here from its grant until 60 s after its answer, and a request is granted while
fewer than the limit count.

Proof: take any 60 s at the service, and the request in them that was granted last. Every other
request in them was granted before it and reached the service less than 60 s before it did. So its
answer was less than 60 s old, or still to come, when the last one was granted. All of them counted
at that time; so they are at most as many as the limit.

Cost: at R requests a minute, the ones in flight count beside those of the last minute, so the
share ``60 / (60 + round trip)`` of the limit can be used: 99.7 % at 0.2 s.

Pure: no clock is read, times are arguments. They must not go backwards.
"""

from __future__ import annotations

from collections import deque
from math import inf

from attrs import define

from kling_async.errors import ConfigurationError

# The service's clock may run faster than ours by 500 parts per million, the most that NTP
# corrects: 0.03 s in a minute. The margin costs 0.08 % of the limit.
COUNTED_FOR = 60.05

# Refusals of requests that were in flight together arrive some time after each other. An
# extension of a pause by no more than this is not worth an event.
_SLIGHT = 0.5


class RequestWindow:
    """Counts requests from their grant until 60 s after their answer.

    Each operation takes amortised constant time; the memory is one number for each request of
    the minute before the last grant, and for each that was in flight then.
    """

    __slots__ = ("_expiries", "_in_flight", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_flight = 0
        self._expiries: deque[float] = deque()  # when answered requests cease to count

    def grant(self, now: float) -> bool:
        """Count one more request if the limit allows it; return whether it does."""
        while self._expiries and self._expiries[0] <= now:
            self._expiries.popleft()
        if self._in_flight + len(self._expiries) >= self._limit:
            return False
        self._in_flight += 1
        return True

    def answer(self, now: float) -> None:
        """Note that one of the requests in flight was answered, or failed."""
        self._in_flight -= 1
        self._expiries.append(now + COUNTED_FOR)

    def next_grant(self) -> float | None:
        """Return when to try again if `grant` has just refused; None: not before an answer."""
        return self._expiries[0] if self._expiries else None

    def rebased(self, now: float, shift: float) -> RequestWindow:
        """Return the same window for another clock.

        Args:
            now: The time on the new clock. What is in flight counts as answered now, since those
                who waited for the answers have ended with the old event loop.
            shift: The new clock's time minus the old one's.
        """
        window = RequestWindow(self._limit)
        window._expiries.extend(expiry + shift for expiry in self._expiries)
        window._expiries.extend([now + COUNTED_FOR] * self._in_flight)
        return window


@define
class RequestPause:
    """The pause of all requests that began with the last refusal."""

    began_at: float = -inf
    ends_at: float = -inf
    delay: float = 0.0  # with which it began

    def refuse(self, delay: float, granted_at: float, now: float) -> bool:
        """Note that a request was refused, and is to wait for ``delay`` seconds.

        A request that was granted before the pause began belongs to the same refusals. It can
        only extend the pause, or begin another one with a longer delay after it.

        Returns:
            Whether this began a pause or extended it by more than half a second.

        Raises:
            ConfigurationError: ``delay`` is negative, infinite or not a number.
        """
        if not 0 <= delay < inf:
            raise ConfigurationError(f"pause() needs a delay of 0 s or more, not {delay!r}")
        if granted_at <= self.began_at:
            longer = now + delay - self.ends_at
            if longer <= 0 or (self.ends_at <= now and delay <= self.delay):
                return False
            if longer <= _SLIGHT:
                self.ends_at += longer
                return False
        self.began_at, self.delay = now, delay
        self.ends_at = max(self.ends_at, now + delay)
        return True

    def begin_elsewhere(self, began_at: float) -> None:
        """Note that another process has begun a pause: earlier requests cannot begin one again."""
        if began_at > self.began_at:
            self.began_at, self.delay = began_at, inf

    def rebased(self, shift: float) -> RequestPause:
        """Return the same pause for another clock."""
        return RequestPause(self.began_at + shift, self.ends_at + shift, self.delay)
