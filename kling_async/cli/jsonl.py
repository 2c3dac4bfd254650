"""Rows from a JSON Lines file. Rows have the numbers of their lines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kling_async.cli.row_values import row_fields
from kling_async.cli.text_file import read_lines
from kling_async.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import IO


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
