"""A hook that shows the tasks of a client while they run."""

from __future__ import annotations

import threading
from collections import OrderedDict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from attrs import define

from kling_async._utils.clock import find_clock
from kling_async._utils.text import printable
from kling_async.errors import ConfigurationError
from kling_async.events import (
    DetailedEvent,
    Paused,
    Polled,
    Retrying,
    SubmitFailed,
    SubmitStarted,
    Submitted,
    SubmitWithdrawn,
    TaskAttached,
    TaskDropped,
    TaskEnded,
    TasksAbandoned,
)
from kling_async.policy.durations import Durations, Kind, observed, vendor_estimate
from kling_async.progress.board import LEFT, ProgressLine
from kling_async.progress.opening import open_display
from kling_async.results import Snapshot, TaskRef, TaskState
from kling_async.tasks.task_registry import kind_of

if TYPE_CHECKING:
    from kling_async.inputs.base import Input

# Seconds without an event after which a task is not shown any more: nothing waits for it.
_STALE = 600.0

# Tasks that may be shown later and are remembered; the oldest are forgotten first.
_REMEMBERED = 10_000


@define(eq=False)
class _Shown:
    """A submit or a task that has a line: its kind, if it is known, and its last event."""

    line: ProgressLine
    kind: Kind | None
    seen: float  # when there was an event


class Progress:
    """Shows the tasks of a client while they run: pass it as one of the client's hooks.

    The display begins with the first submit and ends with the last task: it needs no call. It also
    ends when tasks are abandoned, when the client is closed, and when the program exits. A few
    tasks have a line each, more share one with their numbers. One object may serve several
    clients, and several objects share a terminal.

    It is live on a terminal if rich is installed (the extra ``cli``), and an updating block in a
    notebook. Elsewhere, and with ``TERM=dumb`` or ``NO_COLOR``, it is lines of text on stderr.

    Args:
        total: How many tasks there will be, if you know it: it shows how much is left. The display
            ends with the last of them, or with :meth:`close`, or as a context manager.

    Raises:
        ConfigurationError: The total is not a number.
    """

    detailed: bool = True  # for the events of submits that wait

    def __init__(self, total: int | None = None) -> None:
        if total is not None and (type(total) is not int or total < 0):
            raise ConfigurationError(f"total must be a number of tasks, not {total!r:.80}")
        self._total = total or 0
        self._display = open_display(total=total)
        # By the numbers of submits, and the references of their tasks. The one without an event for
        # the longest time is the first.
        self._shown: dict[int | TaskRef, _Shown] = {}
        # Tasks without a line that are shown when a poll says that they run, and their inputs.
        self._followed: OrderedDict[TaskRef, Input | None] = OrderedDict()
        self._durations: dict[Kind, Durations | None] = {}
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def lines(self) -> dict[int | TaskRef, ProgressLine]:
        """The lines of submits that wait, by their numbers, and of tasks that run."""
        return {key: shown.line for key, shown in self._shown.items()}

    def __call__(  # noqa: C901, PLR0912 - a case for each event
        self, event: DetailedEvent
    ) -> None:
        """Show what has changed: the client calls this."""
        with self._lock:
            match event:
                case SubmitStarted():
                    self._begin(event.submit_id, event.input)
                case Submitted():
                    self._accept(event)
                case TaskAttached():
                    self._attach(event)
                case SubmitFailed():
                    self._finish(event.submit_id, "failed")
                case SubmitWithdrawn():
                    self._finish(event.submit_id, "cancelled")
                case Polled():
                    self._update(event.snapshot)
                case TaskEnded():
                    self._end(event.snapshot)
                case TaskDropped(reason="not_found"):
                    self._finish(event.ref, "failed")
                    self._followed.pop(event.ref, None)
                case TaskDropped():
                    self._leave(event.ref)
                case TasksAbandoned():
                    for ref in event.refs:
                        self._leave(ref)
                case Retrying() | Paused():
                    self._display.on_event(event)
                    return
                case _:
                    return
            if not self._shown and self._display.board.ended >= self._total:
                self._display.close()

    def close(self) -> None:
        """End the display now. The next task begins it again."""
        with self._lock:
            for key in list(self._shown):
                self._finish(key, LEFT)
            self._display.close()

    def _begin(self, key: int | TaskRef, sent: Input | None, age: float | None = 0.0) -> _Shown:
        """Show a submit or a task that is ``age`` seconds old; None: its age is not known."""
        if not self._shown:
            self._display.open()
        kind, expected, label = None, None, str(key)
        if sent is not None:
            label = str(getattr(sent, "prompt", sent.mode))
        if sent is not None and age is not None:
            kind = kind_of(sent)
            durations = self._durations.setdefault(kind, vendor_estimate(kind))
            expected = None if durations is None else durations.mean
        line = ProgressLine(self._display, label, expected)
        line.count_from(age or 0.0)
        shown = self._shown[key] = _Shown(line, kind, find_clock()())
        return shown

    def _accept(self, event: Submitted) -> None:
        shown = self._shown.pop(event.submit_id, None) or self._begin(event.ref, event.input)
        shown.seen = find_clock()()
        self._shown[event.ref] = shown
        shown.line.count_from(0.0)
        shown.line.update("submitted", str(event.ref))

    def _attach(self, event: TaskAttached) -> None:
        """Show a task that was submitted elsewhere: now, or when a poll says that it runs."""
        if event.ref in self._shown:
            return
        if not event.holds_slot or event.submitted_at is None:
            self._follow(event.ref, event.input)
            return
        age = (datetime.now(UTC) - event.submitted_at).total_seconds()
        shown = self._begin(event.ref, event.input, max(0.0, age))
        shown.line.update("attached", str(event.ref))

    def _follow(self, ref: TaskRef, sent: Input | None = None) -> None:
        self._followed[ref] = sent
        if len(self._followed) > _REMEMBERED:
            self._followed.popitem(last=False)

    def _update(self, snapshot: Snapshot) -> None:
        """Show a state. An answer that is older than the end of its task is not shown."""
        ref = snapshot.ref
        if snapshot.state.ended:
            return
        shown = self._shown.pop(ref, None)
        if shown is None:
            if ref not in self._followed:
                return
            shown = self._begin(ref, self._followed.pop(ref), None)
        shown.seen = find_clock()()
        self._shown[ref] = shown  # the last
        shown.line.update(printable(snapshot.vendor_state))
        key, first = next(iter(self._shown.items()))
        if shown.seen - first.seen > _STALE:
            if isinstance(key, TaskRef):
                self._leave(key)
            else:  # a submit that waits for a slot: its end is always reported
                first.seen = shown.seen
                self._shown[key] = self._shown.pop(key)

    def _end(self, snapshot: Snapshot) -> None:
        self._followed.pop(snapshot.ref, None)
        shown = self._shown.pop(snapshot.ref, None)
        if shown is None:
            return
        line, kind = shown.line, shown.kind
        if snapshot.state is not TaskState.SUCCESS:
            reason = f"{snapshot.fail_code}: {snapshot.fail_message}".strip(": ")
            line.finish("failed", reason or "no reason given")
            return
        line.finish("done", "done")
        if kind is not None:
            self._durations[kind] = observed(self._durations[kind], line.seconds)

    def _leave(self, ref: TaskRef) -> None:
        """Show that a task continues without a waiter. If one comes, it is shown again."""
        if ref in self._shown:
            self._follow(ref)
        self._finish(ref, LEFT)

    def _finish(self, key: int | TaskRef, state: str) -> None:
        """Show the end of what raises an error, or continues at the service without a waiter."""
        if (shown := self._shown.pop(key, None)) is not None:
            shown.line.finish(state, state if state == LEFT else "")
