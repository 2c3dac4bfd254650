"""How far a batch is, as counts, rates and times."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kling_async._utils.text import format_count, format_duration
from kling_async.events import Event, Polled, Retrying, SubmitFailed
from kling_async.journal.base import ItemState
from kling_async.progress.opening import open_display

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kling_async.errors import KlingError

# Seconds over which the rate is measured: several task durations, which evens out waves.
_WINDOW = 300.0


class BatchStats:
    """Measures a batch while it runs; ``unsure`` are submits that may have been charged."""

    def __init__(
        self, rows: int, *, saving: bool, expected: float, clock: Callable[[], float]
    ) -> None:
        self.counts: Callable[[], Mapping[ItemState, int]] = Counter  # of the items read so far
        self.unsure: list[KlingError] = []
        self._rows = rows
        self._saving = saving
        self._expected = expected
        self._clock = clock
        self._started = clock()
        self._ended = self._retries = 0
        self._last_retry: KlingError | None = None
        self._marks = deque([(self._started, 0)])

    @property
    def elapsed(self) -> float:
        """The seconds since the start."""
        return self._clock() - self._started

    def on_event(self, event: Event) -> None:
        """Count an event: a hook of the client."""
        if isinstance(event, Polled):
            self._ended += event.snapshot.state.ended
        elif isinstance(event, Retrying):
            self._retries += 1
            self._last_retry = event.error
        elif isinstance(event, SubmitFailed) and event.error.may_have_charged:
            self.unsure.append(event.error)

    def fraction_done(self) -> float:
        """Return the fraction of the rows that need nothing more, from 0 to 1."""
        counts = Counter(self.counts())
        return min(1.0, self._done(counts) / max(1, self._total(counts)))

    def to_text(self) -> str:
        """Return the counts, the rate, the time left, and the last retry since the last call."""
        counts = Counter(self.counts())
        done, running = self._done(counts), counts[ItemState.SUBMITTED]
        failed, unsure = counts[ItemState.FAILED], counts[ItemState.UNSURE]
        to_save = counts[ItemState.FINISHED] * self._saving
        total = self._total(counts)
        left = total - done - to_save
        parts = [
            f"{done - failed - unsure:,} of {total:,} done",
            f"{running:,} running",
            f"{left - running:,} queued",
            *([f"{to_save:,} to save"] if to_save else []),
            f"{failed:,} failed",
            f"{unsure:,} unsure",
        ]
        rate = self._rate()
        if rate:
            parts.append(f"{rate * 60:,.0f} a minute")
        # Until a task has ended, only the vendor's figures are known.
        seconds = left / rate if rate else self._expected - self.elapsed
        if left and seconds > 0:
            parts.append(f"about {format_duration(seconds)} left")
        if self._last_retry is not None:
            retries = format_count(self._retries, "retry", "retries")
            parts.append(f"{retries}, the last after: {self._last_retry}")
            self._last_retry = None
        return ", ".join(parts)

    def _done(self, counts: Counter[ItemState]) -> int:
        finished = 0 if self._saving else counts[ItemState.FINISHED]
        return finished + sum(
            counts[state] for state in (ItemState.SAVED, ItemState.FAILED, ItemState.UNSURE)
        )

    def _total(self, counts: Counter[ItemState]) -> int:
        # There may be more items than rows: tasks of the journal that are not in the file.
        return max(self._rows, counts.total())

    def _rate(self) -> float:
        """Return how many tasks have ended per second within the window."""
        now = self._clock()
        self._marks.append((now, self._ended))
        while self._marks[0][0] < now - _WINDOW:
            self._marks.popleft()
        then, before = self._marks[0]
        return (self._ended - before) / (now - then) if now > then else 0.0


@contextmanager
def show_stats(stats: BatchStats, label: str, *, silent: bool = False) -> Iterator[None]:
    """Show how far a batch is, now and then and at the end, unless it is silent."""
    if silent:
        yield
        return
    progress, loop = open_display(), asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def show() -> None:
        progress.show_summary(label, stats.fraction_done(), stats.elapsed, stats.to_text())

    def show_repeatedly() -> None:
        nonlocal timer
        show()
        timer = loop.call_later(progress.summary_interval, show_repeatedly)

    timer = loop.call_later(progress.summary_interval, show_repeatedly)
    with progress:
        try:
            yield
        finally:
            timer.cancel()
            show()
