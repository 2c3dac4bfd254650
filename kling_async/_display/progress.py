"""Progress of tasks on stderr, as lines of text. stdout is for results alone."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Self

from kling_async._utils.text import printable
from kling_async.events import Event, Paused, Retrying
from kling_async.protocol import responses
from kling_async.tasks.arguments import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from kling_async.results import Result
    from kling_async.tasks.task import Task


class Progress:
    """The progress of several tasks, as a context manager: a line of text for each change."""

    summary_interval: float = 30.0

    def __init__(self, *, silent: bool = False) -> None:
        self._silent = silent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def print(self, text: str) -> None:
        """Print a line that belongs to no task."""
        if not self._silent:
            sys.stderr.write(f"{printable(text)}\n")
            sys.stderr.flush()

    def show_summary(self, label: str, fraction: float, text: str) -> None:  # noqa: ARG002
        """Show how far a batch is, from 0 to 1 and as text."""
        self.print(text)

    def on_event(self, event: Event) -> None:
        """Print why requests wait: a hook of the client."""
        if isinstance(event, Retrying):
            self.print(f"again in {event.delay:.1f} s: {event.error}")
        elif isinstance(event, Paused):
            self.print(f"over the limit: all requests wait for {event.delay:.1f} s")

    def add(self, line: ProgressLine) -> None:
        """Show another task."""

    def show_state(self, line: ProgressLine) -> None:
        """Show the new state of a task."""
        self.print(f"{line.label}: {line.state}")

    def show_end(self, line: ProgressLine, message: str) -> None:
        """Show the end of a task."""
        if message:
            failed = "" if line.state == "done" else "FAILED: "
            self.print(f"{line.label}: {failed}{message} ({line.seconds:.1f} s)")


class ProgressLine:
    """The progress of one task: its label, about how many seconds it takes, and its state."""

    def __init__(
        self, progress: Progress, label: str, expected: float | None = None, detail: str = ""
    ) -> None:
        self.label = label
        self.expected = expected
        self.detail = detail
        self.state: str = "waiting"
        self.ended: bool = False
        self._progress = progress
        self._clock = asyncio.get_running_loop().time
        self._started = self._clock()
        self._seconds = 0.0
        progress.add(self)

    @property
    def seconds(self) -> float:
        """The age of the task, at its end if it has ended."""
        return self._seconds if self.ended else self._clock() - self._started

    def update(self, state: str) -> None:
        """Show a state, if it is new."""
        if state != self.state:
            self.state = state
            self._progress.show_state(self)

    def finish(self, message: str = "", *, ok: bool) -> None:
        """Show the end; without a message if the error is printed elsewhere."""
        self._seconds, self.ended = self.seconds, True
        self.state = "done" if ok else "failed"
        self._progress.show_end(self, message)


async def wait_with_progress(
    task: Task, line: ProgressLine, timeout: float = DEFAULT_TIMEOUT
) -> Result:
    """Wait for a task's result, and show every change of its state."""
    async for snapshot in task.watch(timeout):
        if snapshot.state.ended:
            return responses.result_from(snapshot)
        line.update(printable(snapshot.vendor_state))
    raise AssertionError("watch() ends with a snapshot or raises")  # pragma: no cover
