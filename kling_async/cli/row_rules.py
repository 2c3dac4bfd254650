"""What the values of a row mean: the same rules for JSON Lines and CSV.

Table tools write ``null`` for an empty cell, ``5.0`` for a 5 in a column with empty cells, and a
number for a key that is one. Spreadsheets take ``16:9`` for a time of day.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kling_async.errors import InputError
from kling_async.inputs.base import parse_input
from kling_async.inputs.kling_2_1 import (
    MasterImageToVideo,
    MasterTextToVideo,
    ProImageToVideo,
    StandardImageToVideo,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kling_async.inputs.base import Input

COLUMNS = (
    "key",
    "model",
    "mode",
    "prompt",
    "image_url",
    "end_image_url",
    "aspect_ratio",
    "duration",
    "negative_prompt",
    "cfg_scale",
    "provider",
)
"""The fields of a row, in the order in which a report has them."""

MODES = {
    "standard": StandardImageToVideo.mode,
    "pro": ProImageToVideo.mode,
    "master-text": MasterTextToVideo.mode,
    "master-image": MasterImageToVideo.mode,
}
"""The short names of the modes."""

ASSUMED_MODE = StandardImageToVideo.mode
"""The mode of a row that names none: the API's default."""

_TEXTS = frozenset({"prompt", "negative_prompt"})
_NUMBERS = frozenset({"duration", "cfg_scale"})

# With a comma where the language of the spreadsheet has one.
_NUMBER = re.compile(r"[0-9]{1,9}(?:[.,][0-9]{1,9})?")

# 16:09, 09:16:00, 4:09 PM
_TIME = re.compile(
    r"(?P<hours>[0-9]{1,2}):(?P<minutes>[0-9]{1,2})(?::00(?:\.0+)?)?(?:\s*(?P<half>[AaPp])\.?[Mm]\.?)?"
)
_RATIOS = frozenset({"16:9", "9:16", "1:1"})

_NO_MODE = (
    f"the row has no mode, so {ASSUMED_MODE} was assumed: for a video from text alone, set mode"
    f" to {MasterTextToVideo.mode}"
)
_NO_RATIO = "if a spreadsheet has changed the aspect ratio, format its column as text"


def column(name: str) -> str:
    """Return the field that a column's name means: spreadsheets like capitals."""
    lower = name.strip().lower()
    return lower if lower in COLUMNS else name.strip()


def row_fields(cells: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of a row that are set, with the values that an input takes.

    Raises:
        InputError: Two names mean the same field.
    """
    fields: dict[str, object] = {}
    for name, cell in cells.items():
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            continue
        field = column(name)
        if field in fields:
            raise InputError(f"{field} is given twice")
        fields[field] = _value(field, cell)
    return fields


def row_input(fields: Mapping[str, object]) -> Input:
    """Build the input of a row from its fields without the key.

    Raises:
        InputError: A field breaks a rule. If the row has no mode, the message has the one that was
            assumed.
    """
    try:
        return parse_input(fields)
    except InputError as error:
        hints = [
            *([_NO_MODE] if "mode" not in fields else []),
            *([_NO_RATIO] if any(one.field == "aspect_ratio" for one in error.problems) else []),
        ]
        raise InputError("; ".join([str(error), *hints]), problems=error.problems) from None


def _value(field: str, cell: object) -> object:
    if isinstance(cell, str):
        return cell if field in _TEXTS else _meaning(field, cell.strip())
    if isinstance(cell, float) and cell.is_integer() and field not in _TEXTS:
        cell = int(cell)
    if field == "key" and isinstance(cell, int | float) and not isinstance(cell, bool):
        return str(cell)
    return cell


def _meaning(field: str, text: str) -> object:
    """Return what a text stands for in its field."""
    if field in _NUMBERS and _NUMBER.fullmatch(text):
        number = float(text.replace(",", "."))
        return int(number) if number.is_integer() else number
    if field == "mode":
        return MODES.get(text.lower(), text)
    if field == "aspect_ratio":
        return _ratio(text)
    return text


def _ratio(text: str) -> str:
    """Undo what a spreadsheet makes of a ratio: a time of day."""
    match = _TIME.fullmatch(text)
    if match is None:
        return text
    hours, minutes, half = int(match["hours"]), int(match["minutes"]), match["half"]
    if half:
        hours = hours % 12 + 12 * (half in "Pp")
    ratio = f"{hours}:{minutes}"
    return ratio if ratio in _RATIOS else text
