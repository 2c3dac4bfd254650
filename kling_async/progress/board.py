"""What a display shows: the rows of tasks, and their numbers once they are too many for rows.

A board keeps a row for each task that runs, and for ended ones while there is room. When more tasks
run than there is room for, it counts them until none runs: its size does not depend on how many
tasks there have been.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from kling_async._utils.clock import find_clock
from kling_async._utils.text import format_duration, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from kling_async.tasks.updates import TaskUpdate

WAITING = "waiting"
LEFT = "left running"
ENDS = ("done", "failed", "cancelled", LEFT)

# A label is cut by displays; this limits what is kept of a prompt.
_LABEL_LENGTH = 200


class LineDisplay(Protocol):
    """Where a line is shown."""

    @property
    def board(self) -> Board:
        """Counts it."""

    def add(self, line: ProgressLine) -> None:
        """Show another task."""

    def show_state(self, line: ProgressLine, remark: str) -> None:
        """Show the new state of a task."""

    def show_end(self, line: ProgressLine, message: str) -> None:
        """Show the end of a task."""


class ProgressLine:
    """The progress of one task: its label, about how many seconds it takes, and its state."""

    def __init__(
        self, display: LineDisplay, label: str, expected: float | None = None, detail: str = ""
    ) -> None:
        self.label: str = label[:_LABEL_LENGTH]
        self.expected: float | None = expected
        self.detail: str = detail[:_LABEL_LENGTH]
        self.state: str = WAITING
        self.ended: bool = False
        self._display = display
        self._clock = find_clock()
        self._started = self._clock()
        self._seconds = 0.0
        display.add(self)

    @property
    def seconds(self) -> float:
        """The age of the task, at its end if it has ended."""
        return self._seconds if self.ended else self._clock() - self._started

    @property
    def fraction(self) -> float | None:
        """How much of the expected time has passed, from 0 to 1; None if that is not known."""
        if self.ended:
            return 1.0
        seconds, expected = self.seconds, None if self.state == WAITING else self.expected
        return None if expected is None or seconds >= expected else seconds / expected

    @property
    def full_label(self) -> str:
        """The label and the detail, printable."""
        return printable(f"{self.label}  {self.detail}".rstrip())

    def update(self, state: str, remark: str = "") -> None:
        """Show a state, if it is new; with a remark for displays that have room for it."""
        if state != self.state:
            if self.state == WAITING:
                self._display.board.count_started()
            self.state = state
            self._display.show_state(self, remark)

    def show_update(self, update: TaskUpdate) -> None:
        """Show the state of an update, as the service spells it, unless the task has ended."""
        if not update.state.ended:
            known = update.snapshot
            if update.elapsed is not None:
                self._started = self._clock() - update.elapsed
            self.update("submitted" if known is None else printable(known.vendor_state))

    def count_from(self, seconds: float) -> None:
        """Count its age from so many seconds on."""
        self._started = self._clock() - seconds

    def finish(self, state: str, message: str = "") -> None:
        """Show the end: one of `ENDS`. Without a message, its reason is printed elsewhere."""
        if self.state == WAITING:
            self._display.board.count_started()
        self._seconds, self.ended, self.state = self.seconds, True, state
        self._display.show_end(self, message)


class Board:
    """The rows and numbers of one display. Any thread may use it.

    Args:
        capacity: How many rows there is room for.
        total: How many tasks there will be, if that is known.
    """

    def __init__(self, capacity: int, total: int | None = None) -> None:
        self.total: int | None = total
        self.running: int = 0  # those that wait included
        self.waiting: int = 0
        self.ends: Counter[str] = Counter()
        self.is_crowded: bool = (total or 0) > capacity
        self._capacity = capacity
        self._rows: list[ProgressLine] = []
        self._clock: Callable[[], float] = time.monotonic
        self._started: float | None = None
        self._lock = threading.Lock()

    @property
    def rows(self) -> list[ProgressLine]:
        """The rows to show, in the order in which the tasks were added."""
        with self._lock:
            return list(self._rows)

    @property
    def ended(self) -> int:
        """The number of tasks that have ended."""
        return self.ends.total()

    @property
    def seconds(self) -> float:
        """The seconds since the first task was added."""
        return 0.0 if self._started is None else self._clock() - self._started

    @property
    def fraction(self) -> float | None:
        """How much has ended, from 0 to 1, if the total is known."""
        return min(1.0, self.ended / self.total) if self.total else None

    def add(self, line: ProgressLine) -> list[ProgressLine]:
        """Add a task that runs; return the rows of ended tasks that made room for it."""
        with self._lock:
            if self._started is None:
                self._clock = find_clock()
                self._started = self._clock()
            self.running += 1
            self.waiting += 1
            removed: list[ProgressLine] = []
            if self.running > self._capacity:
                self.is_crowded = True
            if self.is_crowded:
                removed = [row for row in self._rows if row.ended]
                self._rows.clear()
            else:
                if len(self._rows) >= self._capacity:
                    removed = [next(row for row in self._rows if row.ended)]
                    self._rows.remove(removed[0])
                self._rows.append(line)
            return removed

    def count_end(self, line: ProgressLine) -> None:
        """Count the end of a task."""
        with self._lock:
            self.running -= 1
            self.ends[line.state] += 1

    def count_started(self) -> None:
        """Count that a task waits no more."""
        with self._lock:
            self.waiting -= 1

    def clear(self) -> None:
        """Forget the rows, and the numbers unless the total is known."""
        with self._lock:
            self._rows.clear()
            if self.total is None:
                self.is_crowded, self._started = False, None
                self.running = self.waiting = 0
                self.ends.clear()

    def summary(self) -> str:
        """Return the numbers in one line."""
        done = self.ends["done"]
        parts = [f"{done:,} done" if self.total is None else f"{done:,} of {self.total:,} done"]
        numbers = {state: self.ends[state] for state in ENDS if state != "done"}
        numbers |= {"running": self.running - self.waiting, WAITING: self.waiting}
        parts += [f"{number:,} {state}" for state, number in numbers.items() if number]
        if self.running and self.total is not None and done:
            left = self.seconds * (self.total - self.ended) / self.ended
            parts.append(f"about {format_duration(max(0.0, left))} left")
        return ", ".join(parts)
