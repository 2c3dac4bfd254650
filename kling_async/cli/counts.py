"""Counts and times of a batch, in words."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from kling_async._utils.text import format_duration
from kling_async.events import Event, Polled, Retrying, SubmitFailed
from kling_async.journal.base import ItemState

if TYPE_CHECKING:
    from kling_async.errors import KlingError

WORDS: Mapping[ItemState, str] = {
    ItemState.SAVED: "saved",
    ItemState.FINISHED: "finished",
    ItemState.SUBMITTED: "running",
    ItemState.SUBMITTING: "being sent",
    ItemState.PLANNED: "queued",
    ItemState.FAILED: "failed",
    ItemState.UNSURE: "unsure",
}
"""What a reader calls the states, in the order in which they are told."""

# Seconds over which the rate is taken: several times what a task takes, so that waves even out.
_WINDOW = 300.0


def standing(counts: Mapping[ItemState, int]) -> str:
    """Say how many stand in which state: those that there are."""
    told = [f"{counts[state]:,} {word}" for state, word in WORDS.items() if counts.get(state)]
    return ", ".join(told) or "nothing"


class Tally:
    """Counts a batch as it goes on, and says how far it is. A hook of its client.

    Args:
        rows: How many rows there are.
        saving: Results are downloaded.
        expected: About how many seconds it will take.
        clock: Tells the time.

    Attributes:
        counts: Tells how many of those drawn stand in each state.
        unsure: The submits that may have been charged without a task that is known.
    """

    def __init__(
        self, rows: int, *, saving: bool, expected: float, clock: Callable[[], float]
    ) -> None:
        self.counts: Callable[[], Mapping[ItemState, int]] = Counter
        self.unsure: list[KlingError] = []
        self._rows = rows
        self._saving = saving
        self._expected = expected
        self._clock = clock
        self._begun = clock()
        self._ends = self._repeated = 0
        self._trouble: KlingError | None = None
        self._marks = deque([(self._begun, 0)])

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._begun

    def hook(self, event: Event) -> None:
        """Count what happens."""
        if isinstance(event, Polled):
            self._ends += event.snapshot.state.ended
        elif isinstance(event, Retrying):
            self._repeated += 1
            self._trouble = event.error
        elif isinstance(event, SubmitFailed) and event.error.may_have_charged:
            self.unsure.append(event.error)

    def share(self) -> float:
        """Return the share of the rows that nothing more is done with, from 0 to 1."""
        counts = Counter(self.counts())
        return min(1.0, self._over(counts) / max(1, self._total(counts)))

    def words(self) -> str:
        """Say how far it is, how fast, how long it will still take, and what is in the way."""
        counts = Counter(self.counts())
        over, running = self._over(counts), counts[ItemState.SUBMITTED]
        failed, unsure = counts[ItemState.FAILED], counts[ItemState.UNSURE]
        to_save = counts[ItemState.FINISHED] * self._saving
        total = self._total(counts)
        left = total - over - to_save
        told = [
            f"{over - failed - unsure:,} of {total:,} done",
            f"{running:,} running",
            f"{left - running:,} queued",
            *([f"{to_save:,} to save"] if to_save else []),
            f"{failed:,} failed",
            f"{unsure:,} unsure",
        ]
        rate = self._rate()
        if rate:
            told.append(f"{rate * 60:,.0f} a minute")
        if left:
            # Before anything has ended, only the vendor's word is known.
            more = left / rate if rate else self._expected - self.elapsed
            if more > 0:
                told.append(f"about {format_duration(more)} left")
        if self._trouble is not None:
            told.append(f"sent again so far: {self._repeated:,}, the last after: {self._trouble}")
            self._trouble = None
        return ", ".join(told)

    def _over(self, counts: Counter[ItemState]) -> int:
        finished = 0 if self._saving else counts[ItemState.FINISHED]
        ends = (ItemState.SAVED, ItemState.FAILED, ItemState.UNSURE)
        return finished + sum(counts[state] for state in ends)

    def _total(self, counts: Counter[ItemState]) -> int:
        # There may be more than rows: tasks of the journal that the file does not name.
        return max(self._rows, counts.total())

    def _rate(self) -> float:
        """Return how many tasks end in a second, of late."""
        now = self._clock()
        self._marks.append((now, self._ends))
        while self._marks[0][0] < now - _WINDOW:
            self._marks.popleft()
        then, before = self._marks[0]
        return (self._ends - before) / (now - then) if now > then else 0.0
