"""Progress on stderr, as lines of text. stdout is for results alone."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self

from kling_async._utils.clock import find_clock
from kling_async._utils.text import format_duration, printable
from kling_async.events import Event, Paused, Retrying
from kling_async.progress.board import Board

if TYPE_CHECKING:
    from collections.abc import Callable

    from kling_async.progress.board import ProgressLine

_LABEL_LENGTH = 60

# More tasks than this have lines for their numbers only, so many seconds apart.
_CAPACITY = 20
_SUMMARY_INTERVAL = 30.0

# The failures of one display that are printed: all of them have the same reason then.
MAX_FAILURES = 20

# Seconds between two lines about requests that are sent again: many tasks may say the same.
_NOTES_APART = 5.0


class TextDisplay:
    """The progress of several tasks: a line of text for each change, or for many now and then.

    Args:
        silent: Write nothing.
        total: How many tasks there will be, if that is known.
        capacity: How many tasks may run at one time and have lines of their own.
    """

    summary_interval: float = _SUMMARY_INTERVAL
    is_live: bool = False  # what it shows is drawn again and again

    def __init__(
        self, *, silent: bool = False, total: int | None = None, capacity: int = _CAPACITY
    ) -> None:
        self.board: Board = Board(capacity, total)
        self._silent = silent
        self._is_open = False
        self._summarized_at = 0.0  # in seconds since the first task was added
        self._note = ""
        self._note_ends = float("-inf")
        self._clock: Callable[[], float] = time.monotonic

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Begin to show tasks. Opening what is open does nothing."""
        self._is_open = True

    def close(self) -> None:
        """Leave what is shown as it is, and begin again with the next task."""
        if self._is_open and self.board.is_crowded:
            self._print_summary()
        self._is_open = False
        self._summarized_at = 0.0
        self.board.clear()

    def print(self, text: str) -> None:
        """Print a line that belongs to no task."""
        if not self._silent:
            sys.stderr.write(f"{printable(text)}\n")
            sys.stderr.flush()

    @property
    def note(self) -> str:
        """Why requests wait, if they do: for the rows of a live display."""
        return self._note if self._is_open and self._clock() < self._note_ends else ""

    def on_event(self, event: Event) -> None:
        """Show why requests wait, below the rows or in a line now and then: a client's hook."""
        if isinstance(event, Retrying):
            text = f"again in {event.delay:.1f} s: {event.error}"
        elif isinstance(event, Paused):
            text = f"over the limit: all requests wait for {event.delay:.1f} s"
        else:
            return
        self._clock = find_clock()
        ends, self._note = self._note_ends, printable(text)
        if self.is_live and self._is_open:
            self._note_ends = self._clock() + max(event.delay, _NOTES_APART)
        elif self._clock() >= ends:
            self._note_ends = self._clock() + _NOTES_APART
            self.print(text)

    def show_summary(self, label: str, fraction: float, seconds: float, text: str) -> None:  # noqa: ARG002
        """Show how far a batch is, from 0 to 1 and as text, after how many seconds."""
        self.print(text)

    def add(self, line: ProgressLine) -> None:
        """Show another task."""
        self.board.add(line)

    def show_state(self, line: ProgressLine, remark: str) -> None:
        """Show the new state of a task."""
        self._show_change(line, f"{line.state} {remark}".rstrip())

    def show_end(self, line: ProgressLine, message: str) -> None:
        """Show the end of a task."""
        self.board.count_end(line)
        if message and line.state == "failed":
            self.show_failure(line, message)
            message = ""
        self._show_change(line, message and f"{message} ({line.seconds:.1f} s)")

    def show_failure(self, line: ProgressLine, message: str) -> None:
        """Print why a task has failed; of many, only the first."""
        if self.board.ends["failed"] <= MAX_FAILURES:
            seconds = f"{line.seconds:.1f} s"
            self.print(f"{shorten_label(line.label)}: FAILED: {message} ({seconds})")

    def _show_change(self, line: ProgressLine, text: str) -> None:
        """Show that a task has changed; without a text, that is printed elsewhere."""
        if not text:
            return
        if not self.board.is_crowded:
            self.print(f"{shorten_label(line.label)}: {text}")
        elif self.board.seconds - self._summarized_at >= _SUMMARY_INTERVAL:
            self._print_summary()

    def _print_summary(self) -> None:
        self._summarized_at = self.board.seconds
        self.print(f"{self.board.summary()}, after {format_duration(self._summarized_at)}")


def shorten_label(label: str) -> str:
    """Return the beginning of a label."""
    return label if len(label) <= _LABEL_LENGTH else f"{label[: _LABEL_LENGTH - 1]}…"
