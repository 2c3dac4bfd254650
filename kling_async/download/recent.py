"""Tasks that this process has seen running: their results cannot be old."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kling_async.results import TaskRef

__all__ = ["Recent"]

# Tasks, the latest of which are remembered: ten times as many as run at one time.
_MOST = 10_000


class Recent:
    """When tasks were last known to be running."""

    def __init__(self) -> None:
        self._running: dict[TaskRef, datetime] = {}  # the latest are the last

    def note(self, ref: TaskRef) -> None:
        """Note that a task is running now."""
        self._running.pop(ref, None)
        self._running[ref] = datetime.now(UTC)
        if len(self._running) > _MOST:
            del self._running[next(iter(self._running))]

    def running_at(self, ref: TaskRef) -> datetime | None:
        """Return when a task was last known to be running, if it was."""
        return self._running.get(ref)
