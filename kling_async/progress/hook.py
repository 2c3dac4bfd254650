"""A hook that shows the tasks of a client while they run."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from attrs import define

from kling_async._utils.text import printable
from kling_async.events import (
    Event,
    Polled,
    SubmitFailed,
    Submitted,
    TaskEnded,
    TasksAbandoned,
)
from kling_async.policy.durations import Durations, Kind, vendor_estimate
from kling_async.progress.board import ProgressLine, find_clock
from kling_async.progress.opening import open_display
from kling_async.results import Snapshot, TaskRef, TaskState
from kling_async.tasks.task_registry import kind_of

if TYPE_CHECKING:
    from kling_async.inputs.base import Input

# Seconds without an event after which a task is not shown any more: nothing waits for it.
_STALE = 600.0


@define(eq=False)
class _Shown:
    """A task that runs: its line, its kind if it was submitted here, and its last event."""

    line: ProgressLine
    kind: Kind | None
    seen: float  # when there was an event


class Progress:
    """Shows the tasks of a client while they run: pass it as one of the client's hooks.

    The display begins with the first task and ends with the last: it needs no call. It also ends
    when tasks are abandoned, when the client is closed, and when the program exits. A few tasks
    have a line each, more share one with their numbers. One object may serve several clients, and
    several objects share a terminal.

    It is live on a terminal if rich is installed (the extra ``cli``), and an updating block in a
    notebook. Elsewhere, and with ``TERM=dumb`` or ``NO_COLOR``, it is lines of text on stderr.

    Args:
        total: How many tasks there will be, if you know it: it shows how much is left.
    """

    def __init__(self, total: int | None = None) -> None:
        self._total = total
        self._display = open_display(total=total)
        # The tasks that run; the one without an event for the longest time is the first.
        self._shown: dict[TaskRef, _Shown] = {}
        self._durations: dict[Kind, Durations | None] = {}
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def lines(self) -> dict[TaskRef, ProgressLine]:
        """The lines of the tasks that run."""
        return {ref: shown.line for ref, shown in self._shown.items()}

    def __call__(self, event: Event) -> None:
        """Show what has changed: the client calls this."""
        with self._lock:
            match event:
                case Submitted():
                    self._add(event.ref, event.input).line.update("submitted", str(event.ref))
                case Polled():
                    self._update(event.snapshot)
                case TaskEnded():
                    self._end(event.snapshot)
                case TasksAbandoned():
                    self._leave(event.refs)
                case SubmitFailed():
                    self._display.board.count_failed_submit()
                case _:
                    self._display.on_event(event)
                    return
            total = 0 if self._total is None else self._total
            if not self._shown and self._display.board.ended >= total:
                self._display.close()

    def close(self) -> None:
        """End the display now. The next task begins it again."""
        with self._lock:
            self._leave(tuple(self._shown))
            self._display.close()

    def _add(self, ref: TaskRef, sent: Input | None) -> _Shown:
        if not self._shown:
            self._display.open()
        kind, expected, label = None, None, str(ref)
        if sent is not None:
            kind = kind_of(sent)
            durations = self._durations.setdefault(kind, vendor_estimate(kind))
            expected = None if durations is None else durations.mean
            label = str(getattr(sent, "prompt", label))
        line = ProgressLine(self._display, label, expected)
        shown = self._shown[ref] = _Shown(line, kind, find_clock()())
        return shown

    def _update(self, snapshot: Snapshot) -> None:
        """Show a state. A task that is shown for the first time was submitted elsewhere."""
        if snapshot.state.ended:
            return
        shown = self._shown.pop(snapshot.ref, None) or self._add(snapshot.ref, None)
        shown.seen = find_clock()()
        self._shown[snapshot.ref] = shown  # the last
        shown.line.update(printable(snapshot.vendor_state))
        ref, first = next(iter(self._shown.items()))
        if shown.seen - first.seen > _STALE:
            self._leave((ref,))

    def _end(self, snapshot: Snapshot) -> None:
        shown = self._shown.pop(snapshot.ref, None)
        if shown is None:
            return
        line, kind = shown.line, shown.kind
        if snapshot.state is not TaskState.SUCCESS:
            reason = f"{snapshot.fail_code}: {snapshot.fail_message}".strip(": ")
            line.finish(reason or "no reason given", ok=False)
            return
        line.finish("done", ok=True)
        if kind is not None:
            before = self._durations[kind]
            after = before.observe(line.seconds) if before else Durations((line.seconds,))
            self._durations[kind] = after

    def _leave(self, refs: tuple[TaskRef, ...]) -> None:
        """Show of tasks that nothing waits for them any more."""
        for ref in refs:
            if (shown := self._shown.pop(ref, None)) is not None:
                shown.line.leave()
