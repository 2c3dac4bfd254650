"""The values of a row: the same rules for JSON Lines and CSV.

Table tools write ``null`` for an empty cell, ``5.0`` for a 5 in a column with empty cells, and a
numeric key as a number. Spreadsheets convert ``16:9`` to a time of day.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import attrs

from kling_async.errors import InputError, Problem
from kling_async.inputs.fields import AspectRatio
from kling_async.inputs.parsing import parse_input
from kling_async.inputs.registry import DEFAULT_MODEL, DEFAULT_MODES, all_classes
from kling_async.inputs.rules import IMAGE_FIELDS, VENDOR_LISTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kling_async.inputs.base import Input

# The fields of all inputs: first those that differ between the classes of a model.
FIELDS = tuple(
    dict.fromkeys(
        field.name
        for inherited in (False, True)
        for cls in all_classes()
        for field in attrs.fields(cls)
        if field.inherited is inherited
    )
)
COLUMNS = ("key", "model", "mode", *FIELDS, "fields")

MODES = {
    "standard": "standard-image-to-video",
    "pro": "pro-image-to-video",
    "master-text": "master-text-to-video",
    "master-image": "master-image-to-video",
    "text": "text-to-video",
    "image": "image-to-video",
    "motion": "motion-control",
}
DEFAULT_MODE = str(DEFAULT_MODES[DEFAULT_MODEL])

_IMAGES = (*IMAGE_FIELDS, "image_urls")

# Of the web, or of an image that was stored; a single letter is a drive of Windows.
_URL = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]+:")

_TEXTS = frozenset({"prompt", "negative_prompt"})
_NUMBERS = frozenset({"duration", "cfg_scale"})
_BOOLEANS = {"true": True, "false": False}

# Some locales have a decimal comma.
_NUMBER = re.compile(r"[0-9]{1,9}(?:[.,][0-9]{1,9})?")

# 16:09, 09:16:00, 4:09 PM
_TIME = re.compile(
    r"(?P<hours>[0-9]{1,2}):(?P<minutes>[0-9]{1,2})(?::00(?:\.0+)?)?(?:\s*(?P<half>[AaPp])\.?[Mm]\.?)?"
)

_NO_MODE = (
    f"the row has no mode, so {DEFAULT_MODE} was assumed: for a video from text alone, set mode"
    f" to {MODES['master-text']}"
)
_NO_RATIO = "if a spreadsheet has changed the aspect ratio, format its column as text"


class InvalidRows:
    """The errors of a file's rows: one message for each, with its number."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self._problems: list[Problem] = []

    def add(self, number: int, error: InputError) -> None:
        """Add the error of a row."""
        self.messages.append(f"row {number}: {error}")
        self._problems += error.problems

    def error(self) -> InputError:
        """Return one error for all invalid rows."""
        return InputError("\n".join(self.messages), problems=self._problems)


def column_name(text: str) -> str:
    """Return the field that a column's name means; spreadsheets like capitals."""
    lower = text.strip().lower()
    return lower if lower in COLUMNS else text.strip()


def row_fields(cells: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of a row that are set, with the values that an input accepts."""
    fields: dict[str, object] = {}
    for name, cell in cells.items():
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            continue
        field = column_name(name)
        if field in fields:
            raise InputError(f"{field} is given twice")
        fields[field] = _value_of(field, cell)
    return fields


def row_input(fields: Mapping[str, object], folder: str | Path = "") -> Input:
    """Return the input of a row; an error mentions what a table tool may have caused.

    Args:
        fields: The fields that are set.
        folder: The folder of the file: paths of images are relative to it.
    """
    try:
        if "fields" in fields:
            return parse_input(merge_raw(fields))
        places = {name: _place(fields[name], folder) for name in _IMAGES if name in fields}
        return parse_input({**fields, **places})
    except InputError as error:
        hints = [
            *([_NO_MODE] if has_default_mode(fields) else []),
            *([_NO_RATIO] if any(p.field == "aspect_ratio" for p in error.problems) else []),
        ]
        raise InputError("; ".join([str(error), *hints]), problems=error.problems) from None


def has_default_mode(fields: Mapping[str, object]) -> bool:
    """Return whether a row means the default mode of the default model, by naming none."""
    named = fields.keys() & {"mode", "fields"}
    return not named and fields.get("model", DEFAULT_MODEL) == DEFAULT_MODEL


def merge_raw(given: Mapping[str, object]) -> dict[str, object]:
    """Return the mapping of a raw input: what other columns or options name goes into its fields.

    Raises:
        InputError: A field is given twice, or an image is a file.
    """
    rest, raw = dict(given), given["fields"]
    if not isinstance(raw, dict):
        return rest
    moved = {name: rest.pop(name) for name in ("mode", *FIELDS) if name in rest}
    if "provider" in moved:
        rest["provider"] = moved.pop("provider")
    for key, names in VENDOR_LISTS.items():
        if urls := [moved.pop(name) for name in names if name in moved]:
            if any(isinstance(url, Path) for url in urls):
                raise InputError("fields are sent as they are: an image must be a URL, not a file")
            moved[key] = urls
    if twice := moved.keys() & raw.keys():
        raise InputError(f"{', '.join(sorted(twice))} in fields: given twice")
    return {**rest, "fields": {**moved, **raw}}


def _place(value: object, folder: str | Path) -> object:
    """Return the path that an image has in place of a URL; of a list, those of its elements."""
    if isinstance(value, list):
        return [_place(element, folder) for element in value]
    return Path(folder, value) if isinstance(value, str) and not _URL.match(value) else value


def _value_of(field: str, cell: object) -> object:
    if field in _TEXTS:
        return cell
    if isinstance(cell, str):
        return _parse_text(field, cell.strip())
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    if field == "key" and isinstance(cell, int | float) and not isinstance(cell, bool):
        return str(cell)
    return cell


def _parse_text(field: str, text: str) -> object:
    if field in _NUMBERS and _NUMBER.fullmatch(text):
        number = float(text.replace(",", "."))
        return int(number) if number.is_integer() else number
    if field == "fields":
        return _parse_json(text)
    if field == "sound":
        return _BOOLEANS.get(text.lower(), text)
    if field == "mode":
        return MODES.get(text.lower(), text)
    if field == "aspect_ratio" and (match := _TIME.fullmatch(text)):
        return _ratio_of_time(match) or text
    return text


def _parse_json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"fields: not JSON: {error}") from None


def _ratio_of_time(match: re.Match[str]) -> str | None:
    """Return the ratio that a spreadsheet has converted to a time of day."""
    hours, minutes, half = int(match["hours"]), int(match["minutes"]), match["half"]
    if half:
        hours = hours % 12 + 12 * (half in "Pp")
    ratio = f"{hours}:{minutes}"
    return ratio if ratio in get_args(AspectRatio) else None
