"""What the service told us, as frozen values: references, states, snapshots, results."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from attrs import field, frozen

from kling_async._utils import pydantic as _schemas
from kling_async.errors import InputError, Problem

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

# The contract calls ids opaque, so only what could not be stored on one line is refused.
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TASK_ID = re.compile(r"[^\s\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,256}")

_REF = "must be a reference such as kling-2-1/task_12345678"

_URL = _schemas.says(format="uri")
_URLS = _schemas.says(items={"type": "string", "format": "uri"})


class TaskState(StrEnum):
    """Where a task stands. A state that the contract does not know counts as processing."""

    PENDING = "pending"
    PROCESSING = "processing"
    SUCCESS = "success"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self in _ENDED


_ENDED = (TaskState.SUCCESS, TaskState.FAILED)


class FailReason(StrEnum):
    """Our small enum over the vendor's open set of fail codes."""

    CONTENT = "content"  # the input was refused; the same input will be refused again
    CONTENT_OUTPUT = "content_output"  # the video was refused; another try may pass
    PROMPT = "prompt"
    IMAGE = "image"
    MEDIA = "media"  # a video, a sound or another file that was sent
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
            raise InputError(problems=[Problem("ref", _REF, seen)])
        return cls(model, task_id)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        from pydantic_core import core_schema

        def read(value: object, _: object) -> TaskRef:
            words = type(value).__name__  # of a nest, which may be too deep to write
            if isinstance(value, str):
                words = repr(value[:80])
                with suppress(InputError):
                    return cls.parse(value)
            raise _schemas.refusal(cls, [(None, _REF, _schemas.showable(value, words))])

        return _schemas.core_schema(cls, read, str, core_schema.str_schema())

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        # There are no halves of characters in JSON, and not every reader can write them.
        task_id = _TASK_ID.pattern.replace(r"\ud800-\udfff", "")
        return {
            "type": "string",
            "pattern": f"^{_MODEL.pattern}/{task_id}$",
            "description": _schemas.summary(cls),
            "examples": ["kling-2-1/task_12345678"],
        }


@frozen
class Snapshot(_schemas.Value):
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
    result_urls: tuple[str, ...] = field(default=(), metadata=_URLS)
    fail_code: str = ""
    fail_message: str = ""
    reason: FailReason | None = None

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON; times in ISO 8601, ``cost_time`` in seconds."""
        return {
            "ref": str(self.ref),
            "state": self.state.value,
            "vendor_state": self.vendor_state,
            "created_at": self.created_at and self.created_at.isoformat(),
            "completed_at": self.completed_at and self.completed_at.isoformat(),
            "cost_time": self.cost_time,
            "result_urls": list(self.result_urls),
            "fail_code": self.fail_code,
            "fail_message": self.fail_message,
            "reason": self.reason and self.reason.value,
        }


@frozen
class Result(_schemas.Value):
    """A finished, successful snapshot. The URLs live for 15 days at most: download promptly.

    Attributes:
        ref: The task.
        result_urls: Where the videos are.
        created_at: When the service accepted it, if it said so.
        completed_at: When it ended.
        cost_time: Seconds that the generation took, by the service's own count.
    """

    ref: TaskRef
    result_urls: tuple[str, ...] = field(metadata=_URLS)
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
class SavedFile(_schemas.Value):
    """One file of a result, complete on disk.

    Attributes:
        url: Where it came from.
        name: Its name inside the folder that it was saved to.
        size_bytes: Its size.
        sha256: The checksum of its content, in hexadecimal.
    """

    url: str = field(metadata=_URL)
    name: str
    size_bytes: int
    sha256: str

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            "url": self.url,
            "name": self.name,
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
        }
