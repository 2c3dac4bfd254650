"""A JSON Lines file of inputs: every row is checked before anything is done with one.

Rows are numbered as an editor numbers lines.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn, TypeVar

from attrs import frozen

from kling_async.cli.row_rules import row_fields, row_input
from kling_async.cli.text_file import lines
from kling_async.errors import InputError, Problem
from kling_async.inputs.base import Input

if TYPE_CHECKING:
    from pathlib import Path
    from typing import IO

PLACE = "{emulator}"
"""Stands for the emulator's origin in any text of a row."""

_Raw = TypeVar("_Raw")
_Read = TypeVar("_Read")


@frozen
class RawRow:
    """A line of the file and its JSON value. Rows are numbered as an editor numbers lines."""

    number: int
    value: dict[str, object]


@frozen
class Row:
    """A line of the file and the input that it describes."""

    number: int
    input: Input


def json_rows(
    path: Path, file: IO[bytes] | None = None
) -> Iterator[tuple[int, dict[str, object] | InputError]]:
    """Go through the rows of a JSON Lines file: each is the fields that are set, or what is wrong.

    Args:
        path: The file, or what to call it.
        file: The open file; without one, the path is opened.

    Raises:
        InputError: The file cannot be read, or is not text.
    """
    for number, line in lines(path, file):
        if line.strip():
            try:
                yield number, row_fields(_json(line))
            except InputError as error:
                yield number, error


def read(path: Path) -> list[RawRow]:
    """Read a file; blank lines are passed over.

    Raises:
        InputError: The file cannot be read, has no rows, or holds lines that are not JSON.
    """
    numbered = [(number, line) for number, line in lines(path) if line.strip()]
    if not numbered:
        raise InputError(f"{path}: there are no rows in it")
    return _all(numbered, lambda row: row[0], lambda row: RawRow(row[0], _json(row[1])))


def parse(rows: list[RawRow], origin: str) -> list[Row]:
    """Turn rows into inputs, with the emulator's origin in its place.

    Raises:
        InputError: One or more rows are wrong; all are named by their number.
    """
    return _all(
        rows,
        lambda row: row.number,
        lambda row: Row(row.number, _input(row, origin)),
    )


def _all(
    rows: list[_Raw], number: Callable[[_Raw], int], read: Callable[[_Raw], _Read]
) -> list[_Read]:
    """Read every row, and complain about all the wrong ones at once, one line for each."""
    good: list[_Read] = []
    wrong: list[str] = []
    problems: list[Problem] = []
    for row in rows:
        try:
            good.append(read(row))
        except InputError as error:
            wrong.append(f"row {number(row)}: {error}")
            problems += error.problems
    if wrong:
        raise InputError("\n".join(wrong), problems=problems)
    return good


def _json(line: str) -> dict[str, object]:
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        said = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        _refuse(f"not JSON: {said}")
    if not isinstance(value, dict):
        _refuse("must be a JSON object in braces")
    return value


def _refuse(words: str) -> NoReturn:
    raise InputError(words)


def _input(row: RawRow, origin: str) -> Input:
    return row_input(
        row_fields({name: _replace(value, origin) for name, value in row.value.items()})
    )


def _replace(value: object, origin: str) -> object:
    match value:
        case str():
            return value.replace(PLACE, origin)
        case list():
            return [_replace(item, origin) for item in value]
    return value
