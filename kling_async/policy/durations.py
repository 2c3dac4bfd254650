"""How long videos of one kind take: the vendor's word at first, then what was seen.

The estimate is a short memory: the latest forty durations of a kind. Nearly all tasks end
between its early and its late mark. Between them lie all of the forty but the quickest and the
slowest; the fewer were seen, the wider the marks are set. It begins with eight durations spread
over the vendor's figures, and each result that comes in takes the place of one of them. So one
result of an unknown kind is enough to start, and a service that has become twice as slow is
known as such forty results later.

Three things follow from it: when to poll (:mod:`kling_async.policy.polling`), what share of the
tasks still runs at an age, and after how long a task is presumed to have ended although the
service has not said so.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from itertools import pairwise
from math import inf, sqrt
from typing import TYPE_CHECKING, NamedTuple

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kling_async.results import Snapshot

MEMORY = 40
_SEEDS = 8

# An unseen end lies before the only question. A tenth less each time finds it in a few steps.
_BEFORE = 0.9

# A task that was accepted is presumed to have ended five times later than nearly all of its kind,
# or ten minutes later if that is longer: a service in trouble is slow, and a slot that is given
# away too early leads to refused submits.
_ACCEPTED_FACTOR = 5.0
_ACCEPTED_MARGIN = 600.0

# A submit without an answer has probably started no task. If it has, the task ends like others.
_UNSURE_FACTOR = 1.25
_UNSURE_MARGIN = 2.0

# Seconds for such a submit where nothing is known of the kind: twice and a half the longest of the
# vendor's figures.
_UNSURE_UNKNOWN = 300.0

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
    def mean(self) -> float:
        """How long a task takes on average."""
        return sum(self.seen) / len(self.seen)

    @cached_property
    def weight(self) -> float:
        """The integral of the square root of :meth:`running` between the marks, in seconds.

        Polls that are ``sqrt(running(age))`` seconds apart would be so many for each task.
        """
        return sum(
            (later - age) * (sqrt(share) + sqrt(smaller)) / 2
            for (age, share), (later, smaller) in pairwise(zip(*self._survival, strict=True))
        )

    def running(self, age: float) -> float:
        """Return the share of tasks that still run at an age, more than 0 and at most 1."""
        ages, shares = self._survival
        after = bisect_right(ages, age)
        if after == 0:
            return 1.0
        if after == len(ages):
            return shares[-1]
        before = after - 1
        passed = (age - ages[before]) / (ages[after] - ages[before])
        return shares[before] + (shares[after] - shares[before]) * passed

    @cached_property
    def _survival(self) -> tuple[list[float], list[float]]:
        """Ages from the early to the late mark, and the share that still runs at each of them.

        Straight lines between them smooth what so few tasks can show. Some always run on after
        the late mark: half as many as each of the tasks seen accounts for.
        """
        early, late = self._marks
        between = sorted(one for one in self.seen if early < one < late)
        pieces = len(between) + 1
        shares = [1 - number / pieces for number in range(pieces)]
        return [early, *between, late], [*shares, 0.5 / pieces]

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


def presumed_lifetime(known: Durations | None, *, accepted: bool) -> float:
    """Return the seconds after which a task is presumed to have ended, for want of an answer.

    Args:
        known: How long such tasks take, or None where nothing is known.
        accepted: The service has accepted the task; the seconds count from when it last said
            that the task runs, and are infinite where nothing is known. Otherwise it is not
            known whether a submit has started a task, and they count from the submit.
    """
    if accepted:
        if known is None:
            return inf
        return max(known.late * _ACCEPTED_FACTOR, known.late + _ACCEPTED_MARGIN)
    return _UNSURE_UNKNOWN if known is None else known.late * _UNSURE_FACTOR + _UNSURE_MARGIN


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
