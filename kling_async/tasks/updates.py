"""Updates of one task, for callers that have a display of their own."""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, TypeAlias

from attrs import frozen

from kling_async.results import Snapshot, TaskRef, TaskState
from kling_async.tasks.arguments import check_function

if TYPE_CHECKING:
    from kling_async.tasks.poll_scheduler import TrackedTask

_log = logging.getLogger("kling_async")


@frozen
class TaskUpdate:
    """What is known of a task when its state has changed.

    Nothing is known between two updates: the first poll is made when the quickest tasks end. A
    display moves by ``elapsed`` and ``expected`` meanwhile.

    Attributes:
        ref: The task.
        state: Its state; ``PENDING`` from the acceptance until the first answer.
        elapsed: Seconds since the service accepted it, or None if that moment is not known.
        expected: Seconds that such tasks take on average, or None if that is not known.
        snapshot: The last answer, with the result URLs or the reason of a failure; None before the
            first.
    """

    ref: TaskRef
    state: TaskState
    elapsed: float | None
    expected: float | None
    snapshot: Snapshot | None = None


OnUpdate: TypeAlias = Callable[[TaskUpdate], object]
"""A function that is called with each update. It runs on the event loop and must not block."""


class UpdateCaller:
    """Calls a function when the state of one task has changed.

    An exception of the function is logged and otherwise ignored, as that of a hook.
    """

    def __init__(self, on_update: OnUpdate, ref: TaskRef, tracked: TrackedTask) -> None:
        check_function("on_update", on_update)
        self._on_update = on_update
        self._ref = ref
        self._tracked = tracked
        self._state: TaskState | None = None

    def report(self, snapshot: Snapshot | None) -> None:
        """Report a state, if it is new. None: the service has accepted the task."""
        state = TaskState.PENDING if snapshot is None else snapshot.state
        if state is self._state:
            return
        self._state, tracked = state, self._tracked
        elapsed = None if tracked.elapsed == inf else tracked.elapsed
        durations = tracked.history.durations
        expected = None if durations is None else durations.mean
        try:
            self._on_update(TaskUpdate(self._ref, state, elapsed, expected, snapshot))
        except (Exception, CancelledError):  # noqa: BLE001 - it is the user's code
            _log.exception("on_update failed on %s of %s", state, self._ref)
