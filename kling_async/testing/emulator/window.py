"""A true sliding window: never more than so many in any span of 60 seconds."""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW: Final = 60.0


class SlidingWindow:
    """Remember when the last requests were admitted; what was refused does not count."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._admitted: deque[float] = deque()

    def admit(self, now: float) -> float:
        """Admit a request and give 0.0, or give the seconds until one would be admitted."""
        while self._admitted and now - self._admitted[0] >= WINDOW:
            self._admitted.popleft()
        if len(self._admitted) >= self._limit:
            return WINDOW - (now - self._admitted[0])
        self._admitted.append(now)
        return 0.0
