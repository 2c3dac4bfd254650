"""How long videos of one kind take: the vendor's word at first, then what was seen.

The estimate is a short memory: the latest forty durations of a kind. Nearly all tasks end
between its early and its late mark. Between them lie all of the forty but the quickest and the
slowest; the fewer were seen, the wider the marks are set. It begins with eight durations spread
over the vendor's figures, and each result that comes in takes the place of one of them. So one
result of an unknown kind is enough to start, and a service that has become twice as slow is
known as such forty results later.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kling_async.results import Snapshot

__all__ = ["Durations", "Kind", "expected", "took"]

MEMORY = 40
_SEEDS = 8

# An unseen end lies before the only question. A tenth less each time finds it in a few steps.
_BEFORE = 0.9

# The vendor's figures, in seconds: "a 5 s video takes about 60-90 s". Of a task whose mode and
# length are not known, the range of all.
_VENDOR: dict[tuple[str, int | None], tuple[float, float]] = {
    ("kling-2-1", 5): (60.0, 90.0),
    ("kling-2-1", 10): (90.0, 120.0),
    ("kling-2-1", None): (60.0, 120.0),
    ("kling-2-5-turbo-pro", 5): (30.0, 45.0),
    ("kling-2-5-turbo-pro", 10): (45.0, 60.0),
    ("kling-2-5-turbo-pro", None): (30.0, 60.0),
}


class Kind(NamedTuple):
    """What is alike in the time it takes. What is not known of a task is left out."""

    model: str
    mode: str = ""
    duration: int | None = None
    provider: str | None = None


@frozen
class Durations:
    """What is known of one kind: in seconds, the latest last.

    Attributes:
        seen: The durations.
        seeds: How many of them, from the first, are the vendor's word and not yet replaced.
    """

    seen: tuple[float, ...]
    seeds: int = 0

    @property
    def early(self) -> float:
        """When the first usually end."""
        return self._marks[0]

    @property
    def late(self) -> float:
        """When the last usually have ended."""
        return self._marks[1]

    @cached_property
    def _marks(self) -> tuple[float, float]:
        ranked, many = sorted(self.seen), len(self.seen)
        odd = many // MEMORY
        early, late = ranked[odd], ranked[-1 - odd]
        # So few have not shown how quick and how slow a task can be. That all took the same time
        # proves little, too: hence the quarter.
        margin = 0.0 if self.seeds else max(late - early, late / 4) / many
        return max(0.0, early - margin), late + margin

    def learn(self, duration: float) -> Durations:
        """Return what is known once another task has taken so many seconds."""
        oldest = 1 if self.seeds or len(self.seen) == MEMORY else 0
        return Durations((*self.seen[oldest:], duration), max(0, self.seeds - 1))


def expected(kind: Kind) -> Durations | None:
    """Return the vendor's word on a kind, or None if there is none."""
    figures = _VENDOR.get((kind.model, kind.duration))
    if figures is None:
        return None
    low, high = figures
    spread = [low + (high - low) * step / (_SEEDS - 1) for step in range(_SEEDS)]
    # The first is the first to be replaced: the extremes stay longest.
    spread.sort(key=lambda one: abs(one - (low + high) / 2))
    return Durations(tuple(spread), _SEEDS)


def took(snapshot: Snapshot, ages: Sequence[float]) -> float | None:
    """Return how long an ended task has taken, in seconds, as far as can be known.

    Args:
        snapshot: What the service said of it.
        ages: How old the task was when it was last seen running, if it was, and when it was
            found ended, in seconds. Empty, if nobody knows how old it is.
    """
    if snapshot.created_at is not None and snapshot.completed_at is not None:
        said = (snapshot.completed_at - snapshot.created_at).total_seconds()
        if said >= 0:
            # A clock that runs wild must not make us wait longer than we have waited.
            return min((said, *ages[-1:]))
    match ages:
        case [running, ended]:
            return (running + ended) / 2
        case [ended]:
            return ended * _BEFORE
        case _:
            return None
