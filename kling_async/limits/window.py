"""The request limit, exactly: at most so many requests in any 60 seconds at the service.

The client does not know when a request reaches the service. It does know two moments: the one at
which it sent the request, and the one at which the answer came (or the request failed). The
service counted it somewhere between them. So a request counts here from the moment at which it
was granted until 60 s after its answer, and a request is granted while fewer than the limit count.

Why this is enough: take any 60 s at the service, and the request in them that was granted last.
Every other request in them was granted before it and reached the service less than 60 s before
it did, so that its answer was less than 60 s old, or still to come, when the last one was granted.
All of them counted at that moment; so they are at most as many as the limit.

What it costs: at R requests a minute, the ones on their way count beside those of the last
minute, so that the share ``60 / (60 + round trip)`` of the limit can be used: 99.7 % at 0.2 s.

Pure: no clock is read, moments come in as arguments. They must not go backwards.
"""

from __future__ import annotations

from collections import deque

# The service's clock may run faster than ours by 500 parts in a million, which is the most that
# NTP corrects: 0.03 s in a minute. The margin costs 0.08 % of the limit.
_SPAN = 60.05


class RequestWindow:
    """Counts requests from their grant until 60 s after their answer.

    Each operation takes constant time, amortised; the memory is one number for each request of
    the last minute.
    """

    __slots__ = ("_frees_at", "_limit", "_under_way")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._under_way = 0
        self._frees_at: deque[float] = deque()  # when the answered ones cease to count

    def grant(self, now: float) -> bool:
        """Count one more request if the limit allows it; return whether it does."""
        if self._under_way + len(self._frees_at) >= self._limit:
            self._forget(now)
            if self._under_way + len(self._frees_at) >= self._limit:
                return False
        self._under_way += 1
        return True

    def answer(self, now: float) -> None:
        """Note that one of the requests under way was answered, or failed."""
        self._under_way -= 1
        frees_at = self._frees_at
        frees_at.append(now + _SPAN)
        if frees_at[0] <= now:
            self._forget(now)

    def next_grant(self, now: float) -> float | None:
        """Return the moment of the next possible grant; None: not before another answer."""
        self._forget(now)
        if self._under_way + len(self._frees_at) < self._limit:
            return now
        return self._frees_at[0] if self._frees_at else None

    def moved(self, now: float, shift: float) -> RequestWindow:
        """Return the same window on another clock.

        Args:
            now: The time on the new clock. What is under way counts as answered now: whoever
                waited for its answer has ended with the old clock.
            shift: What the new clock shows more than the old one.
        """
        other = RequestWindow(self._limit)
        other._frees_at.extend(moment + shift for moment in self._frees_at)
        other._frees_at.extend([now + _SPAN] * self._under_way)
        return other

    def _forget(self, now: float) -> None:
        frees_at = self._frees_at
        while frees_at and frees_at[0] <= now:
            frees_at.popleft()
