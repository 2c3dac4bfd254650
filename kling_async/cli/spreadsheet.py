"""CSV as spreadsheets write it and read it.

The first line names the columns. What stands between cells is a comma, a semicolon or a tab:
whichever the first line has most of, since no column's name has one.
"""

from __future__ import annotations

import csv
import re
from itertools import chain
from typing import TYPE_CHECKING

from kling_async.cli.rows import lines
from kling_async.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import TextIO

__all__ = ["COLUMNS", "Writer", "csv_rows"]

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
_TEXTS = frozenset({"prompt", "negative_prompt"})
_NUMBERS = frozenset({"duration", "cfg_scale"})

# With a comma where the language of the spreadsheet has one.
_NUMBER = re.compile(r"[0-9]{1,9}(?:[.,][0-9]{1,9})?")

# What makes a spreadsheet take a cell for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_rows(path: Path) -> Iterator[tuple[int, dict[str, object] | InputError]]:
    """Go through the rows of a file: each is the fields that are set, or what is wrong with it.

    A row has the number of its first line, as an editor shows it. Empty rows are passed over.

    Raises:
        InputError: The file cannot be read, is not UTF-8 or not CSV, or its first line does not
            name columns.
    """
    texts = (text for _, text in lines(path))
    first = next(texts, "")
    separator = max(",;\t", key=first.count)
    reader = csv.reader(chain([first], texts), delimiter=separator, strict=True)
    names: list[str] | None = None
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError(
                f"{path}: row {number} is not CSV: {error}; see whether its quotes are closed"
            ) from None
        if cells is None:
            return
        if names is None:
            names = _names(path, cells)
        elif any(cell.strip() for cell in cells):
            yield number, _fields(names, cells)


class Writer:
    """Writes rows of which a spreadsheet takes none for a formula."""

    def __init__(self, stream: TextIO) -> None:
        self._writer = csv.writer(stream, lineterminator="\n")

    def row(self, cells: Iterable[object]) -> None:
        """Write a row; None is an empty cell."""
        self._writer.writerow([_harmless(cell) for cell in cells])


def _names(path: Path, cells: Sequence[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    unknown = [name for name in names if name and name not in COLUMNS]
    if unknown or not any(names):
        raise InputError(
            f"{path}: row 1 must name the columns, of {', '.join(COLUMNS)}; it has"
            f" {', '.join(map(repr, unknown)) or 'none'}"
        )
    if twice := {name for name in names if name and names.count(name) > 1}:
        raise InputError(f"{path}: row 1 names a column twice: {', '.join(sorted(twice))}")
    return names


def _fields(names: list[str], cells: list[str]) -> dict[str, object] | InputError:
    fields: dict[str, object] = {}
    for place, cell in enumerate(cells):
        if cell.strip():
            name = names[place] if place < len(names) else ""
            if not name:
                return InputError(f"column {place + 1} has no name in row 1 (seen: {cell!r:.80})")
            fields[name] = cell if name in _TEXTS else _value(name, cell.strip())
    return fields


def _value(name: str, cell: str) -> str | int | float:
    if name not in _NUMBERS or not _NUMBER.fullmatch(cell):
        return cell
    number = float(cell.replace(",", "."))
    return int(number) if number.is_integer() else number


def _harmless(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    marked = f"'{cell}" if cell.startswith(_FORMULA) else cell
    # A lone carriage return would be written without quotes, and end the row.
    return marked.replace("\r\n", "\n").replace("\r", "\n")
