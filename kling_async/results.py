"""The values that the service returns: task references, states, snapshots, results.

What makes their schemas is imported when pydantic asks for them.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum, StrEnum
from typing import TYPE_CHECKING

import attrs
from attrs import field, frozen

from kling_async._base import MODEL_NAME as MODEL_NAME  # noqa: PLC0414 - what TaskRef.model matches
from kling_async._base import TaskRef as TaskRef  # noqa: PLC0414 - a public name of this module

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

# The key of a field's JSON schema in its attrs metadata.
_SCHEMA = "kling_async.schema"


def _in_schema(**keywords: object) -> dict[str, object]:
    """Return the attrs metadata that adds keywords to a field's JSON schema."""
    return {_SCHEMA: keywords}


_URL = _in_schema(format="uri")
_URLS = _in_schema(items={"type": "string", "format": "uri"})


@frozen
class _Value:
    """Base class of values with a schema for pydantic and a form for JSON."""

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON: times in ISO 8601, references as text."""
        return {field.name: _plain(getattr(self, field.name)) for field in attrs.fields(type(self))}

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        from kling_async._utils.pydantic import value_core_schema

        return value_core_schema(cls, handler)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        from kling_async._utils.pydantic import value_json_schema

        return value_json_schema(cls, core, handler, _SCHEMA)


class TaskState(StrEnum):
    """The state of a task. A state that is not in the contract is read as ``PROCESSING``.

    Attributes:
        ended: Whether the state is final.
    """

    ended: bool

    PENDING = "pending"
    PROCESSING = "processing"
    SUCCESS = "success"
    FAILED = "failed"

    def __init__(self, value: str) -> None:
        self.ended = value in {"success", "failed"}


class FailReason(StrEnum):
    """The category of a vendor's fail code."""

    CONTENT = "content"  # the input was refused; it will be refused again
    CONTENT_OUTPUT = "content_output"  # the video was refused; another attempt may succeed
    PROMPT = "prompt"
    IMAGE = "image"
    MEDIA = "media"  # a video, an audio or another input file
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    GENERATION = "generation"
    BALANCE = "balance"
    UNKNOWN = "unknown"


@frozen
class Snapshot(_Value):
    """The state of a task in one status answer or callback.

    Attributes:
        ref: The task.
        state: One of the contract's four states.
        vendor_state: The state as the service spells it. It may be an unknown one.
        created_at: When the service accepted the task, if the answer says so.
        completed_at: When the task ended, if the answer says so.
        cost_time: How long the generation took, in seconds, as measured by the service.
        result_urls: The URLs of the videos. Empty unless the state is ``SUCCESS``.
        fail_code: The vendor's code, if the task failed.
        fail_message: The vendor's message, if the task failed.
        reason: The category of the code, if the task failed.
    """

    ref: TaskRef = field(repr=str)
    state: TaskState = field(repr=str)
    vendor_state: str = ""
    created_at: datetime | None = None
    completed_at: datetime | None = None
    cost_time: float | None = None
    result_urls: tuple[str, ...] = field(default=(), metadata=_URLS)
    fail_code: str = ""
    fail_message: str = ""
    reason: FailReason | None = None


@frozen
class Result(_Value):
    """The result of a successful task. Download promptly: URLs are valid for at most 15 days.

    Attributes:
        ref: The task.
        result_urls: The URLs of the videos.
        created_at: When the service accepted the task, if the answer says so.
        completed_at: When the task ended, if the answer says so.
        cost_time: How long the generation took, in seconds, as measured by the service.
    """

    ref: TaskRef = field(repr=str)
    result_urls: tuple[str, ...] = field(metadata=_URLS)
    created_at: datetime | None = None
    completed_at: datetime | None = None
    cost_time: float | None = None

    @property
    def url(self) -> str:
        """The first of ``result_urls``. Most results have one."""
        return self.result_urls[0]

    def __str__(self) -> str:
        return f"{self.ref}: {' '.join(self.result_urls)}"

    def _repr_html_(self) -> str:
        from kling_async._display.contact_sheet import Card, Video, add_videos, render_part

        card = Card(str(self.ref), cost_time=self.cost_time)
        return render_part(list(add_videos(card, [Video(url=url) for url in self.result_urls])))


class MediaProblem(StrEnum):
    """What is wrong with a saved video."""

    UNREADABLE = "unreadable"  # not a video, or damaged; all figures are 0
    TRUNCATED = "truncated"  # frames are missing at its end
    WRONG_LENGTH = "wrong_length"  # it is not as long as the input's ``duration``
    WRONG_RATIO = "wrong_ratio"  # width and height do not have the input's ``aspect_ratio``
    BLACK = "black"  # all frames are black
    FROZEN = "frozen"  # all frames show the same
    SILENT = "silent"  # the input asked for ``sound``, and it has no sound


@frozen
class MediaFacts(_Value):
    """What a saved video contains; see :func:`kling_async.media.inspect_video`.

    Attributes:
        duration: Its length in seconds, as the file states it.
        width: Pixels, as it is displayed.
        height: Pixels, as it is displayed.
        frame_rate: Frames per second, on average.
        has_sound: Whether it has sound. A silent track does not count.
        problems: What is wrong with it, compared with its input if one was given.
    """

    duration: float
    width: int
    height: int
    frame_rate: float
    has_sound: bool
    problems: tuple[MediaProblem, ...] = ()


@frozen
class SavedFile(_Value):
    """A file of a result that was saved completely.

    Attributes:
        url: The URL that it was downloaded from.
        name: Its name inside the folder that it was saved to.
        size_bytes: Its size.
        sha256: The checksum of its content, in hexadecimal.
        media: What the video contains, if it was inspected.
        archive: The URL of the archive that has it; empty if a folder does.
    """

    url: str = field(metadata=_URL)
    name: str
    size_bytes: int
    sha256: str
    media: MediaFacts | None = None
    archive: str = ""


def _plain(value: object) -> object:
    match value:
        case tuple():
            return [_plain(item) for item in value]
        case _Value():
            return value.to_dict()
        case Enum():
            return value.value
        case datetime():
            return value.isoformat()
        case None | str() | int() | float():
            return value
        case _:
            return str(value)
