"""What the service told us, as frozen values: references, states, snapshots, results."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum

from attrs import frozen

from kling_async.errors import InputError, Problem

__all__ = ["FailReason", "Result", "SavedFile", "Snapshot", "TaskRef", "TaskState"]

# The contract calls ids opaque, so only what could not be stored on one line is refused.
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TASK_ID = re.compile(r"[^\s\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,256}")


class TaskState(StrEnum):
    """Where a task stands. A state that the contract does not know counts as processing."""

    PENDING = "pending"
    PROCESSING = "processing"
    SUCCESS = "success"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self in (TaskState.SUCCESS, TaskState.FAILED)


class FailReason(StrEnum):
    """Our small enum over the vendor's open set of fail codes."""

    CONTENT = "content"  # the same input will be refused again
    PROMPT = "prompt"
    IMAGE = "image"
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    GENERATION = "generation"
    BALANCE = "balance"
    UNKNOWN = "unknown"


@frozen(cache_hash=True)  # it is the key of many a table
class TaskRef:
    """All that is needed to find a remote task again, from any process, on any day.

    ``str(ref)`` is ``model/task_id`` and stays so; :meth:`parse` reads it back.

    Raises:
        InputError: The model or the task id cannot be one.
    """

    model: str
    task_id: str

    def __attrs_post_init__(self) -> None:
        problems = []
        if not isinstance(self.model, str) or not _MODEL.fullmatch(self.model):
            rule = "a model's name, such as kling-2-1"
            problems.append(Problem("model", rule, repr(self.model)[:80]))
        if not isinstance(self.task_id, str) or not _TASK_ID.fullmatch(self.task_id):
            rule = "1 to 256 characters without spaces"
            problems.append(Problem("task_id", rule, repr(self.task_id)[:80]))
        if problems:
            raise InputError(problems=problems)

    def __str__(self) -> str:
        return f"{self.model}/{self.task_id}"

    @classmethod
    def parse(cls, text: str) -> TaskRef:
        """Read what ``str(ref)`` wrote.

        Raises:
            InputError: The text is not a reference.
        """
        model, slash, task_id = text.strip().partition("/") if isinstance(text, str) else ("",) * 3
        if not slash:
            seen = repr(text)[:80]
            rule = "must be a reference such as kling-2-1/task_12345678"
            raise InputError(problems=[Problem("ref", rule, seen)])
        return cls(model, task_id)


@frozen
class Snapshot:
    """What one status answer said.

    Attributes:
        ref: The task.
        state: Where it stands, in the contract's four states.
        vendor_state: The state in the service's own word, which may be an unknown one.
        created_at: When the service accepted it, if it said so.
        completed_at: When it ended.
        cost_time: Seconds that the generation took, by the service's own count.
        result_urls: Where the videos are; empty unless the state is ``SUCCESS``.
        fail_code: The vendor's code of a failed task.
        fail_message: The vendor's words for it.
        reason: Our small enum over the code.
    """

    ref: TaskRef
    state: TaskState
    vendor_state: str = ""
    created_at: datetime | None = None
    completed_at: datetime | None = None
    cost_time: float | None = None
    result_urls: tuple[str, ...] = ()
    fail_code: str = ""
    fail_message: str = ""
    reason: FailReason | None = None


@frozen
class Result:
    """A finished, successful snapshot. The URLs live for 15 days at most: download promptly."""

    ref: TaskRef
    result_urls: tuple[str, ...]
    created_at: datetime | None = None
    completed_at: datetime | None = None
    cost_time: float | None = None

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON; times in ISO 8601, ``cost_time`` in seconds."""
        return {
            "ref": str(self.ref),
            "result_urls": list(self.result_urls),
            "created_at": self.created_at and self.created_at.isoformat(),
            "completed_at": self.completed_at and self.completed_at.isoformat(),
            "cost_time": self.cost_time,
        }


@frozen
class SavedFile:
    """One file of a result, complete on disk.

    Attributes:
        url: Where it came from.
        name: Its name inside the folder that it was saved to.
        size_bytes: Its size.
        sha256: The checksum of its content, in hexadecimal.
    """

    url: str
    name: str
    size_bytes: int
    sha256: str
