"""What an emulator records, as frozen values for the assertions of tests.

Moments (`at`) are the running loop's time, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from attrs import evolve, frozen

# Enough for the longest test; an emulator that runs for days must not fill the memory.
_KEEP: Final = 500_000


@frozen
class Submission:
    """A task that has been started and paid for."""

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
        at: When it arrived, before the emulator's latency and the fault ``late`` delay it.
        method: Its method.
        path: Its path and query.
        kind: Its kind, as in scenarios.
        status: The HTTP status of its answer; None: not answered (yet).
        counted_at: When the account's limit counted it; None: not counted, because it was refused,
            was answered by a fault, or is for a file.
    """

    at: float
    method: str
    path: str
    kind: str
    status: int | None = None
    counted_at: float | None = None


@frozen
class Delivery:
    """One attempt to deliver a callback; `status` is None if no answer came in time."""

    at: float
    task_id: str
    url: str
    attempt: int
    status: int | None


class RequestLog:
    """The arrivals, oldest first; of more than half a million the oldest are forgotten."""

    def __init__(self, keep: int = _KEEP) -> None:
        self._keep = keep
        self._first = 0
        self._arrivals: list[Arrival] = []

    def __iter__(self) -> Iterator[Arrival]:
        return iter(self._arrivals)

    def add(self, arrival: Arrival) -> int:
        """Add an arrival; return its number."""
        if len(self._arrivals) >= 2 * self._keep:
            del self._arrivals[: self._keep]
            self._first += self._keep
        self._arrivals.append(arrival)
        return self._first + len(self._arrivals) - 1

    def update(self, number: int, **changes: Any) -> None:  # noqa: ANN401 - of any attribute
        """Change attributes of an arrival, unless it has been forgotten."""
        if (index := number - self._first) >= 0:
            self._arrivals[index] = evolve(self._arrivals[index], **changes)
