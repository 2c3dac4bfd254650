"""Tasks that this process has seen running, and then ended: their results cannot be old."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kling_async.results import TaskRef

# Tasks, the latest of which are remembered: those whose downloads may begin in the next seconds.
_MOST = 500


class Recent:
    """When the ends of tasks were noticed."""

    def __init__(self) -> None:
        # By the hashes of the references, the latest last: these are kept for a long time.
        self._ended: dict[int, float] = {}

    def note(self, ref: TaskRef) -> None:
        """Note that a task was seen running, and has now ended."""
        self._ended.pop(hash(ref), None)
        self._ended[hash(ref)] = time.time()
        if len(self._ended) > _MOST:
            del self._ended[next(iter(self._ended))]

    def ended_at(self, ref: TaskRef) -> datetime | None:
        """Return when the end of a task was noticed, if it was seen running before."""
        moment = self._ended.get(hash(ref))
        return None if moment is None else datetime.fromtimestamp(moment, UTC)
