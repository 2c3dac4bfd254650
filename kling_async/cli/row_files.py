"""Rows from JSON Lines, from CSV as spreadsheets write it, and CSV that spreadsheets can read.

The first line of CSV names the columns. Cells are separated by a comma, a semicolon or a tab: the
one that the first line has most of, since no column's name contains any of them.
"""

from __future__ import annotations

import csv
import json
import re
from itertools import chain
from typing import TYPE_CHECKING

from kling_async.cli.row_values import COLUMNS, column_name, row_fields
from kling_async.cli.text_file import read_lines
from kling_async.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import IO, TextIO

# A first line that names the separator, which some spreadsheets write and read.
_SEPARATOR = re.compile(r'\s*"?sep=(?P<separator>[^\r\n"]|\\t)"?[,;\t]*\s*', re.IGNORECASE)

# The start of a formula, also in full width. Programs skip white space and quotes before it, and
# may split cells where we do not: at semicolons, tabs, bars or line breaks.
_SIGN = "[=+\\-@\\uff1d\\uff0b\\uff0d\\uff20]"
_BLANK = "[\\s\"'`\\x00-\\x1f\\u200b-\\u200f\\ufeff]"
_PARTS = "\\t\\r\\n\\v\\f\\x85\\u2028\\u2029;|"
_FORMULA = re.compile(f"(?P<part>^|[{_PARTS}])(?P<start>(?:(?![{_PARTS}]){_BLANK})*{_SIGN})")
_FIRST = re.compile(f"[\\t\\r]|{_BLANK}*{_SIGN}")


def read_csv(path: Path, file: IO[bytes]) -> Iterator[tuple[int, dict[str, object] | InputError]]:
    """Yield the number of each row's first line with the fields that are set, or with its error.

    Raises:
        InputError: The file is not text or not CSV, or its first line does not name columns.
    """
    texts = (text for _, text in read_lines(path, file))
    first = next(texts, "")
    skipped = 0
    if match := _SEPARATOR.fullmatch(first):
        separator = match["separator"].replace("\\t", "\t")
        first, skipped = next(texts, ""), 1
    else:
        separator = max(",;\t", key=first.count)
    reader = csv.reader(chain([first], texts), delimiter=separator, strict=True)
    names: list[str] | None = None
    first_row = 1
    while True:
        number = skipped + reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError(
                f"{path}: row {number} is not CSV: {error}; check that its quotes are closed"
            ) from None
        if cells is None:
            return
        if names is None:
            names, first_row = _parse_header(f"{path}: row {number}", cells), number
        elif any(cell.strip() for cell in cells):
            yield number, _parse_row(names, cells, first_row)


def write_csv_row(stream: TextIO, cells: Iterable[object]) -> None:
    """Write a row in which a spreadsheet finds no formula; None is an empty cell."""
    csv.writer(stream, lineterminator="\n").writerow([_without_formula(cell) for cell in cells])


def _parse_header(place: str, cells: Sequence[str]) -> list[str]:
    names = [column_name(cell) for cell in cells]
    unknown = [name for name in names if name and name not in COLUMNS]
    if unknown or not any(names):
        raise InputError(
            f"{place} must name the columns, of {', '.join(COLUMNS)}; it has"
            f" {', '.join(map(repr, unknown)) or 'none'}"
        )
    if repeated := {name for name in names if name and names.count(name) > 1}:
        raise InputError(f"{place} names a column twice: {', '.join(sorted(repeated))}")
    return names


def _parse_row(
    names: list[str], cells: list[str], first_row: int
) -> dict[str, object] | InputError:
    for place, cell in enumerate(cells):
        if cell.strip() and (place >= len(names) or not names[place]):
            return InputError(
                f"column {place + 1} has no name in row {first_row} (seen: {cell!r:.80})"
            )
    return row_fields({name: cell for name, cell in zip(names, cells, strict=False) if name})


def _without_formula(cell: object) -> object:
    """Mark as text every cell that a program could read as a formula, however it splits cells."""
    if not isinstance(cell, str):
        return cell
    text = _FORMULA.sub(r"\g<part>'\g<start>", cell)
    if _FIRST.match(cell) and not text.startswith("'"):
        text = f"'{text}"
    # A lone carriage return would be written without quotes, and end the row.
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_jsonl(path: Path, file: IO[bytes]) -> Iterator[tuple[int, dict[str, object] | InputError]]:
    """Yield the number of each row with the fields that are set, or with its error."""
    for number, line in read_lines(path, file):
        if line.strip():
            try:
                yield number, row_fields(_parse_object(line))
            except InputError as error:
                yield number, error


def _parse_object(line: str) -> dict[str, object]:
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise InputError(f"not JSON: {reason}") from None
    if not isinstance(value, dict):
        raise InputError("must be a JSON object in braces")
    return value
