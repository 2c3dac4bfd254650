"""CSV as spreadsheets write it and read it.

The first line names the columns. What stands between cells is a comma, a semicolon or a tab:
whichever the first line has most of, since no column's name has one.
"""

from __future__ import annotations

import csv
import re
from itertools import chain
from typing import TYPE_CHECKING

from kling_async.cli.row_rules import COLUMNS, column, row_fields
from kling_async.cli.text_file import lines
from kling_async.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import IO, TextIO

# A first line that names the separator, as spreadsheets write and read it.
_SEPARATOR = re.compile(r'\s*"?sep=(?P<separator>[^\r\n"]|\\t)"?[,;\t]*\s*', re.IGNORECASE)

# How a formula begins, also in full width. Programs pass over white space and quotes before it,
# and another one may part cells elsewhere than we do: at semicolons, tabs, bars or line breaks.
_SIGN = "[=+\\-@\\uff1d\\uff0b\\uff0d\\uff20]"
_BLANK = "[\\s\"'`\\x00-\\x1f\\u200b-\\u200f\\ufeff]"
_PARTS = "\\t\\r\\n\\v\\f\\x85\\u2028\\u2029;|"
_FORMULA = re.compile(f"(?P<part>^|[{_PARTS}])(?P<start>(?:(?![{_PARTS}]){_BLANK})*{_SIGN})")
_FIRST = re.compile(f"[\\t\\r]|{_BLANK}*{_SIGN}")


def csv_rows(
    path: Path, file: IO[bytes] | None = None
) -> Iterator[tuple[int, dict[str, object] | InputError]]:
    """Go through the rows of a file: each is the fields that are set, or what is wrong with it.

    A row has the number of its first line, as an editor shows it. Empty rows are passed over.

    Args:
        path: The file, or what to call it.
        file: The open file; without one, the path is opened.

    Raises:
        InputError: The file cannot be read, is not text or not CSV, or its first line does not
            name columns.
    """
    texts = (text for _, text in lines(path, file))
    first = next(texts, "")
    passed = 0
    if match := _SEPARATOR.fullmatch(first):
        separator = match["separator"].replace("\\t", "\t")
        first, passed = next(texts, ""), 1
    else:
        separator = max(",;\t", key=first.count)
    reader = csv.reader(chain([first], texts), delimiter=separator, strict=True)
    names: list[str] | None = None
    first_row = 1
    while True:
        number = passed + reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError(
                f"{path}: row {number} is not CSV: {error}; see whether its quotes are closed"
            ) from None
        if cells is None:
            return
        if names is None:
            names, first_row = _names(f"{path}: row {number}", cells), number
        elif any(cell.strip() for cell in cells):
            yield number, _fields(names, cells, first_row)


class Writer:
    """Writes rows of which a spreadsheet takes none for a formula."""

    def __init__(self, stream: TextIO) -> None:
        self._writer = csv.writer(stream, lineterminator="\n")

    def row(self, cells: Iterable[object]) -> None:
        """Write a row; None is an empty cell."""
        self._writer.writerow([_harmless(cell) for cell in cells])


def _names(place: str, cells: Sequence[str]) -> list[str]:
    names = [column(cell) for cell in cells]
    unknown = [name for name in names if name and name not in COLUMNS]
    if unknown or not any(names):
        raise InputError(
            f"{place} must name the columns, of {', '.join(COLUMNS)}; it has"
            f" {', '.join(map(repr, unknown)) or 'none'}"
        )
    if twice := {name for name in names if name and names.count(name) > 1}:
        raise InputError(f"{place} names a column twice: {', '.join(sorted(twice))}")
    return names


def _fields(names: list[str], cells: list[str], first_row: int) -> dict[str, object] | InputError:
    for place, cell in enumerate(cells):
        if cell.strip() and (place >= len(names) or not names[place]):
            return InputError(
                f"column {place + 1} has no name in row {first_row} (seen: {cell!r:.80})"
            )
    return row_fields({name: cell for name, cell in zip(names, cells, strict=False) if name})


def _harmless(cell: object) -> object:
    """Mark as text what any program could take for a formula, whatever separates its cells."""
    if not isinstance(cell, str):
        return cell
    text = _FORMULA.sub(r"\g<part>'\g<start>", cell)
    if _FIRST.match(cell) and not text.startswith("'"):
        text = f"'{text}"
    # A lone carriage return would be written without quotes, and end the row.
    return text.replace("\r\n", "\n").replace("\r", "\n")
