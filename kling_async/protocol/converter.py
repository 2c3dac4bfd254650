"""How our names are spelled on the wire, and how the wire's values become ours.

Sending is strict: the inputs have proven every rule. Reading is tolerant: fields may be
missing or null, and only a value that cannot mean what it should is an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from attrs import define, field
from cattrs import Converter
from cattrs.gen import make_dict_structure_fn, override

if TYPE_CHECKING:
    from kling_async.inputs.base import Input

# What json.loads does when it has looked at its options, which takes longer than a small answer.
_decode: Callable[[str], object] = json.JSONDecoder().decode

# Seconds: three million years.
_AGES = 1e14

# What JSON's numbers are read as.
_NUMBERS = (int, float)


def read_json(body: bytes) -> object:
    """Read JSON in any of its encodings.

    Raises:
        ValueError: It is none.
    """
    try:
        return _decode(body.decode())
    except ValueError:
        return json.loads(body)  # which finds out about the others


def input_to_wire(request: Input) -> dict[str, object]:
    """Spell an input as the ``input`` object of a submit body; ``provider`` goes beside it."""
    wire: dict[str, object] = {**request.to_dict()}
    del wire["model"]
    wire.pop("provider", None)
    if "image_url" in wire:
        images = wire["image_urls"] = [wire.pop("image_url")]
        if "end_image_url" in wire:
            images.append(wire.pop("end_image_url"))
    return wire


@define  # mutable, and so made in a third of the time; nobody keeps one
class ResultData:
    """The object inside ``resultJson``."""

    result_urls: tuple[str, ...] = ()


@define
class StatusData:
    """The ``data`` of a status answer, before anything is concluded from it."""

    state: str = ""
    task_id: str = ""
    result: ResultData = field(factory=ResultData)
    cost_time: float | None = None  # seconds
    created_at: datetime | None = None
    completed_at: datetime | None = None
    fail_code: str = ""
    fail_message: str = ""


def read_status(data: Mapping[str, object]) -> StatusData:
    """Read the ``data`` of a status answer.

    Raises:
        ValueError: A value cannot mean what its field should.
    """
    try:
        return _structure(data, StatusData)
    except (TypeError, AttributeError, KeyError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _text(value: object, _: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise TypeError(f"text expected, not {type(value).__name__}")


def _seconds(value: object, _: object) -> float | None:
    """Read a count of milliseconds; one that makes no sense is as good as missing."""
    if isinstance(value, bool) or not isinstance(value, _NUMBERS):
        return None
    try:
        seconds = value / 1000
    except OverflowError:  # an integer of hundreds of digits
        return None
    return seconds if -_AGES < seconds < _AGES else None


def _time(value: object, _: object) -> datetime | None:
    seconds = _seconds(value, _)
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):  # by how far it is beyond the calendar
        return None


def _result(value: object, _: object) -> ResultData:
    """Read ``resultJson``: a JSON string by the contract, an object by some answers."""
    if isinstance(value, str):
        value = _decode(value) if value.strip() else None
    if not value:
        return ResultData()
    if not isinstance(value, dict):
        raise TypeError("resultJson holds no object")
    urls = value.get("resultUrls") or []
    if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
        raise TypeError("resultUrls is not a list of texts")
    return ResultData(tuple(urls))


def _reader() -> Callable[[Mapping[str, object], object], StatusData]:
    converter = Converter(detailed_validation=False)
    converter.register_structure_hook(str, _text)
    converter.register_structure_hook(float | None, _seconds)
    converter.register_structure_hook(datetime | None, _time)
    converter.register_structure_hook(ResultData, _result)
    return make_dict_structure_fn(
        StatusData,
        converter,
        task_id=override(rename="taskId"),
        result=override(rename="resultJson"),
        cost_time=override(rename="costTime"),
        created_at=override(rename="createTime"),
        completed_at=override(rename="completeTime"),
        fail_code=override(rename="failCode"),
        fail_message=override(rename="failMsg"),
    )


_structure = _reader()
