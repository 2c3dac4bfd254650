"""A task as the service sees it: a function from the time to its state and status answer.

Nothing here reads a clock or waits. Moments are the running loop's time, in seconds.
"""

from __future__ import annotations

import json
from math import inf
from typing import TYPE_CHECKING, Final

from attrs import define, frozen

from kling_async.testing.emulator.rules import Order
from kling_async.testing.scenario import Occurrences, ScenarioRule

if TYPE_CHECKING:
    from collections.abc import Callable

SUCCESS: Final = ScenarioRule("task", Occurrences(1, None), "success")
ON_TIME: Final = ScenarioRule("callback", Occurrences(1, None), "on-time")

USUAL: Final = (SUCCESS, ON_TIME)
"""What happens to a task and to its callback without a fault."""

# The share of a task's time in which it is pending.
_PENDING_SHARE: Final = 0.1

# For how many seconds the scenario delays things, by default.
_DELAYS: Final = {"unseen": 5.0, "urls-late": 2.0, "file-late": 3.0}


@frozen
class TaskFailure:
    """When a task fails, and with what."""

    at: float
    code: str
    message: str


@define
class EmulatedTask:
    """One task. It waits in `pending` while `waiting` (its images are being read)."""

    task_id: str
    model: str
    order: Order
    created: float
    planned: float
    outcome: ScenarioRule = SUCCESS
    callback: ScenarioRule = ON_TIME
    waiting: bool = False
    ready_at: float = 0.0
    failure: TaskFailure | None = None

    def __attrs_post_init__(self) -> None:
        """Apply the scenario."""
        if self.callback.what == "early":
            self.planned = 0.0
        if self.outcome.what == "fail":
            code = self.outcome.detail
            self.fail(self.created + self.planned, code, f"Generation failed: {code}")

    def images_ready(self, now: float) -> None:
        """Let the task start: its images have been read."""
        self.waiting = False
        self.ready_at = now

    def fail(self, at: float, code: str, message: str) -> None:
        """Let the task fail at a moment, unless it fails sooner."""
        if self.failure is None or at < self.failure.at:
            self.failure = TaskFailure(at, code, message)

    def end_early(self, now: float) -> None:
        """Let the task end now, or as soon as its images have been read, unless it has ended."""
        self.planned = min(self.planned, now - self.created)
        if self.failure is not None:
            self.fail(now, self.failure.code, self.failure.message)

    @property
    def ends_at(self) -> float:
        """The moment at which the task ends; infinite while it is not known."""
        if self.failure is not None:
            return self.failure.at
        if self.waiting or self.outcome.what == "stuck":
            return inf
        return max(self.created + self.planned, self.ready_at)

    def state(self, now: float) -> str:
        """Return the state of the task."""
        if now >= self.ends_at:
            return "success" if self.failure is None else "failed"
        if self.waiting or now < self.created + self.planned * _PENDING_SHARE:
            return "pending"
        return "processing_r2" if self.outcome.what == "unknown-state" else "processing"

    def data(self, now: float, timestamp: Callable[[float], int], origin: str) -> dict[str, object]:
        """Return `data` of a status answer; `timestamp` converts a moment to Unix milliseconds."""
        state = self.state(now)
        create_time = timestamp(self.created)
        data: dict[str, object] = {
            "taskId": self.task_id,
            "state": state,
            "createTime": create_time,
        }
        if state not in {"success", "failed"}:
            return data
        cost_time = round((self.ends_at - self.created) * 1000)
        if self.failure is not None:
            data |= {"failCode": self.failure.code, "failMsg": self.failure.message}
        else:
            if not self._is_delayed("urls-late", self.ends_at, now):
                url = f"{origin}/files/{self.task_id}.mp4"
                result = {"resultUrls": [] if self.outcome.what == "no-urls" else [url]}
                as_object = self.outcome.what == "object-result"
                data["resultJson"] = result if as_object else json.dumps(result)
            if self.outcome.what != "no-cost-time":
                data["costTime"] = cost_time
        data["completeTime"] = create_time + cost_time
        return data

    def is_unseen(self, now: float) -> bool:
        """Whether a status request does not find the task yet."""
        return self._is_delayed("unseen", self.created, now)

    def has_file(self, now: float) -> bool:
        """Whether the file of the task exists and can be downloaded."""
        made = self.state(now) == "success"
        return made and not self._is_delayed("file-late", self.ends_at, now)

    def _is_delayed(self, what: str, since: float, now: float) -> bool:
        """Whether the scenario still delays something that exists since a moment."""
        if self.outcome.what != what:
            return False
        return now < since + float(self.outcome.detail or _DELAYS[what])
