"""What an emulator remembers of its life, as frozen values for tests to look at.

Moments (`at`) are the running loop's time, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from attrs import evolve, frozen

# Enough for the longest test; an emulator left running for days must not fill the memory.
_KEEP: Final = 500_000


@frozen
class Submission:
    """A task that was really started, and paid for."""

    at: float
    model: str
    mode: str
    input: Mapping[str, object]
    task_id: str
    callback_url: str | None


@frozen
class Arrival:
    """A request that arrived.

    Attributes:
        at: When it arrived, before the emulator's latency and the fault ``late`` hold it up.
        method: Its method.
        path: Its path and query.
        kind: Its kind, as in scenarios.
        status: The HTTP status that it got; None: no answer (yet).
        counted_at: When the account's limit counted it; None: it did not, since it was refused,
            met a fault that comes before, or is for a file.
    """

    at: float
    method: str
    path: str
    kind: str
    status: int | None = None
    counted_at: float | None = None


@frozen
class Delivery:
    """One attempt to deliver a callback; `status` is None where no answer came in time."""

    at: float
    task_id: str
    url: str
    attempt: int
    status: int | None


class RequestLog:
    """The last half million arrivals, at least; older ones are forgotten."""

    def __init__(self, keep: int = _KEEP) -> None:
        self._keep = keep
        self._first = 0
        self._arrivals: list[Arrival] = []

    def __iter__(self) -> Iterator[Arrival]:
        """Go through the arrivals, oldest first."""
        return iter(self._arrivals)

    def add(self, arrival: Arrival) -> int:
        """Note an arrival; return the number under which the other methods know it."""
        if len(self._arrivals) >= 2 * self._keep:
            del self._arrivals[: self._keep]
            self._first += self._keep
        self._arrivals.append(arrival)
        return self._first + len(self._arrivals) - 1

    def answered(self, number: int, status: int) -> None:
        """Note the status that an arrival got."""
        if (index := number - self._first) >= 0:
            self._arrivals[index] = evolve(self._arrivals[index], status=status)

    def counted(self, number: int, at: float) -> None:
        """Note when the account's limit counted an arrival."""
        if (index := number - self._first) >= 0:
            self._arrivals[index] = evolve(self._arrivals[index], counted_at=at)
