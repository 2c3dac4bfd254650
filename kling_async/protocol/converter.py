"""The data of a status answer or callback, converted to Python values.

Parsing is tolerant: a field may be missing or null, and times that make no sense are ignored.
Only a value that cannot have the meaning of its field is an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from attrs import frozen
from cattrs import Converter
from cattrs.gen import make_dict_structure_fn, override

# Seconds: three million years.
_LONGEST = 1e14


@frozen
class StatusData:
    """The ``data`` of a status answer or callback."""

    state: str = ""
    task_id: str = ""
    result_urls: tuple[str, ...] = ()
    cost_time: float | None = None  # seconds
    created_at: datetime | None = None
    completed_at: datetime | None = None
    fail_code: str = ""
    fail_message: str = ""


def _structure_text(value: object, _: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"text expected, not {type(value).__name__}")


def _structure_seconds(value: object, _: object) -> float | None:
    """Convert milliseconds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = value / 1000
    except OverflowError:  # an integer of hundreds of digits
        return None
    return seconds if -_LONGEST < seconds < _LONGEST else None


def _structure_time(value: object, _: object) -> datetime | None:
    seconds = _structure_seconds(value, _)
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):  # before the year 1, or after 9999
        return None


def _structure_urls(value: object, _: object) -> tuple[str, ...]:
    """Convert ``resultJson``: a JSON string in the contract, an object in some answers."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except RecursionError:
            raise ValueError("resultJson is nested too deeply") from None
    if not value:
        return ()
    if not isinstance(value, dict):
        raise ValueError("resultJson is not an object")  # noqa: TRY004 - malformed data
    urls = value.get("resultUrls") or []
    if not isinstance(urls, list) or not {*map(type, urls)} <= {str}:
        raise ValueError("resultUrls is not a list of strings")
    return tuple(urls)


def _status_structure() -> Callable[[Mapping[str, object], type[StatusData]], StatusData]:
    converter = Converter(detailed_validation=False)
    converter.register_structure_hook(str, _structure_text)
    converter.register_structure_hook(float | None, _structure_seconds)
    converter.register_structure_hook(datetime | None, _structure_time)
    return make_dict_structure_fn(
        StatusData,
        converter,
        task_id=override(rename="taskId"),
        result_urls=override(rename="resultJson", struct_hook=_structure_urls),
        cost_time=override(rename="costTime"),
        created_at=override(rename="createTime"),
        completed_at=override(rename="completeTime"),
        fail_code=override(rename="failCode"),
        fail_message=override(rename="failMsg"),
    )


structure_status = _status_structure()
"""Converts a mapping to :class:`StatusData`, its second argument, or raises ValueError."""
