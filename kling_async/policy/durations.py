"""How long tasks of one kind take: the vendor's estimate at first, then measured durations.

The last forty durations of a kind are kept. Nearly all tasks end between an early and a late mark.
All of the forty but the shortest and the longest lie between them; the fewer durations there are,
the wider the marks are set. At first there are eight durations spread over the vendor's estimate.
Each measured duration replaces the oldest. So one duration is enough for an unknown kind, and a
service that has become twice as slow is known to be so after forty tasks.

From the durations follow the times of polls (:mod:`kling_async.policy.polling`), the share of
tasks that still run at an age, and the age at which a task is presumed to have ended.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import pairwise
from math import sqrt
from operator import mul, sub
from typing import TYPE_CHECKING, NamedTuple

from attrs import field, frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kling_async.results import Snapshot

MEMORY = 40
_SEEDS = 8

# The age of a task, if only one poll was made, is an upper bound of its duration. Ten percent less
# for each task approaches the duration in a few steps.
_BEFORE_POLL = 0.9

# An accepted task is presumed to have ended at five times the late mark, or ten minutes after it
# if that is later: a service in trouble is slow, and a slot that is released too early leads to
# refused submits.
_ACCEPTED_FACTOR = 5.0
_ACCEPTED_MARGIN = 600.0

# A submit without an answer has probably started no task. If it has, the task ends like others.
_UNSURE_FACTOR = 1.25
_UNSURE_MARGIN = 2.0

# The same for an unknown kind, in seconds: two and a half times the vendor's longest estimate.
_UNSURE_UNKNOWN = 300.0

# The vendor's estimates in seconds, by model and length of the video. None: an unknown length.
_VENDOR: dict[tuple[str, int | None], tuple[float, float]] = {
    ("kling-2-1", 5): (60.0, 90.0),
    ("kling-2-1", 10): (90.0, 120.0),
    ("kling-2-1", None): (60.0, 120.0),
    ("kling-2-5-turbo-pro", 5): (30.0, 45.0),
    ("kling-2-5-turbo-pro", 10): (45.0, 60.0),
    ("kling-2-5-turbo-pro", None): (30.0, 60.0),
}


def _shares_between(number: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the shares of tasks that still run, and the means of the square roots of neighbours.

    The shares are those at the early mark, at each of ``number`` durations, and at the late mark.
    Lines between these points are the share at other ages. The last is half of one task's.
    """
    shares = (1.0, *(1 - min(ended, number + 0.5) / (number + 1) for ended in range(1, number + 2)))
    return shares, tuple((sqrt(one) + sqrt(other)) / 2 for one, other in pairwise(shares))


# They depend on the number alone, and the marks are computed for nearly each task.
_SHARES = [_shares_between(number) for number in range(MEMORY + 1)]


class Kind(NamedTuple):
    """The properties of a task that its duration depends on, as far as they are known."""

    model: str
    mode: str = ""
    duration: int | None = None
    provider: str | None = None


@frozen(init=False)
class Durations:
    """The durations of one kind of tasks, in seconds.

    Attributes:
        seen: The durations, the latest last.
        seeds: How many of them, from the first, are of the vendor's estimate.
        early: The age at which the first tasks usually end.
        late: The age at which the last tasks usually have ended.
        mean: The average duration.
        weight: The integral of the square root of :meth:`running` between the marks. A task that
            is polled every ``spacing * sqrt(running(age))`` seconds has ``weight / spacing`` polls.
        lifetime: Seconds after which an accepted task is presumed to have ended, since the last
            answer that said that it runs.
    """

    seen: tuple[float, ...]
    seeds: int
    early: float
    late: float
    mean: float
    weight: float
    lifetime: float
    _ages: list[float] = field(eq=False, repr=False)
    _shares: tuple[float, ...] = field(eq=False, repr=False)

    def __init__(self, seen: tuple[float, ...], seeds: int = 0) -> None:
        ranked, number = sorted(seen), len(seen)
        outliers = number // MEMORY
        early, late = ranked[outliers], ranked[-1 - outliers]
        # A few durations do not show how long a task can take, not even if all are equal.
        margin = 0.0 if seeds else max(late - early, late / 4) / number
        early, late = max(0.0, early - margin), late + margin
        between = ranked[bisect_right(ranked, early) : bisect_left(ranked, late)]
        ages = [early, *between, late]
        shares, roots = _SHARES[len(between)]
        weight = sum(map(mul, map(sub, ages[1:], ages), roots))
        mean = sum(seen) / number
        lifetime = max(late * _ACCEPTED_FACTOR, late + _ACCEPTED_MARGIN)
        self.__attrs_init__(seen, seeds, early, late, mean, weight, lifetime, ages, shares)

    def running(self, age: float) -> float:
        """Return the share of tasks that still run at an age: more than 0, and at most 1."""
        after = bisect_right(self._ages, age)
        if after == 0:
            return 1.0
        if after == len(self._ages):
            return self._shares[-1]
        start, end = self._ages[after - 1 : after + 1]
        share, next_share = self._shares[after - 1 : after + 1]
        return share + (next_share - share) * (age - start) / (end - start)


def vendor_estimate(kind: Kind) -> Durations | None:
    """Return the vendor's estimate of a kind, or None if it has not given one."""
    figures = _VENDOR.get((kind.model, kind.duration))
    if figures is None:
        return None
    low, high = figures
    spread = [low + (high - low) * step / (_SEEDS - 1) for step in range(_SEEDS)]
    # The first is replaced first, so the extremes are kept longest.
    spread.sort(key=lambda one: abs(one - (low + high) / 2))
    return Durations(tuple(spread), _SEEDS)


def observed(known: Durations | None, *durations: float) -> Durations:
    """Return what is known of a kind after tasks were measured, in this order; None: nothing."""
    seen, seeds = ((), 0) if known is None else (known.seen, known.seeds)
    replaced = min(seeds, len(durations))
    return Durations((*seen[replaced:], *durations)[-MEMORY:], seeds - replaced)


def unsure_lifetime(known: Durations | None) -> float:
    """Return the seconds after which a task has ended that a submit without an answer may start.

    Args:
        known: The durations of such tasks, or None if they are unknown.
    """
    return _UNSURE_UNKNOWN if known is None else known.late * _UNSURE_FACTOR + _UNSURE_MARGIN


def measured_duration(snapshot: Snapshot, ages: Sequence[float]) -> float | None:
    """Return how long a task has taken, in seconds, or None if that is unknown.

    Args:
        snapshot: The state of the ended task.
        ages: The age at which the task was last seen running, if it was, and the age at which it
            was found to have ended, in seconds. Empty if the age is unknown.
    """
    if snapshot.created_at is not None and snapshot.completed_at is not None:
        reported = (snapshot.completed_at - snapshot.created_at).total_seconds()
        if reported >= 0:
            # The service's clock may be wrong: the duration is at most the time waited.
            return min((reported, *ages[-1:]))
    match ages:
        case [running, ended]:
            return (running + ended) / 2
        case [ended]:
            return ended * _BEFORE_POLL
        case _:
            return None
