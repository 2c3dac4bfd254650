from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kling_async.cli.row_files import read_jsonl
from kling_async.errors import InputError
from tests.cli.conftest import read_file

if TYPE_CHECKING:
    from pathlib import Path


def _file(folder: Path, content: str | bytes) -> Path:
    path = folder / "rows.jsonl"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_rows_are_numbered_as_lines(tmp_path: Path) -> None:
    """Blank lines are no rows, but count; a byte order mark and CRLF do no harm."""
    path = _file(tmp_path, b'\xef\xbb\xbf{"a": 1}\r\n\r\n  {"b": 2}\n')
    assert read_file(read_jsonl, path) == [(1, {"a": 1}), (3, {"b": 2})]


def test_invalid_rows_do_not_end_the_file(tmp_path: Path) -> None:
    """The error of a row takes its place among the others."""
    rows = read_file(read_jsonl, _file(tmp_path, '[1]\n\n{"b": 2}'))
    (one, first), (three, second) = rows
    assert (one, three, second) == (1, 3, {"b": 2})
    assert isinstance(first, InputError)


def test_only_newlines_end_a_row(tmp_path: Path) -> None:
    """A line separator inside of a prompt does not end the row."""
    path = _file(tmp_path, '{"prompt": "a\u2028b"}')
    assert read_file(read_jsonl, path) == [(1, {"prompt": "a\u2028b"})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": }', "not JSON: Expecting value"),
        ("[1, 2]", "must be a JSON object"),
        ("null", "must be a JSON object"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_invalid_rows(line: str, message: str, tmp_path: Path) -> None:
    """A row that is not a JSON object is an error."""
    ((number, error),) = read_file(read_jsonl, _file(tmp_path, f"\n{line}"))
    assert number == 2
    assert message in str(error)


def test_file_that_is_not_text(tmp_path: Path) -> None:
    """A file with invalid bytes raises, with the row's number."""
    with pytest.raises(InputError, match="row 2 is not UTF-8"):
        read_file(read_jsonl, _file(tmp_path, b'{"a": 1}\n\xff\n'))
