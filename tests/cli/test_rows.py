from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kling_async.cli.rows import RawRow, Row, json_rows, parse, read
from kling_async.errors import InputError
from kling_async.inputs.kling_2_1 import MasterTextToVideo, ProImageToVideo, StandardImageToVideo

if TYPE_CHECKING:
    from pathlib import Path


def _file(folder: Path, content: str | bytes) -> Path:
    path = folder / "rows.jsonl"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_rows_are_numbered_as_lines(tmp_path: Path) -> None:
    """Blank lines are no rows, but count; a byte order mark and CRLF do no harm."""
    path = _file(tmp_path, b'\xef\xbb\xbf{"a": 1}\r\n\r\n  {"b": 2}\n')
    assert read(path) == [RawRow(1, {"a": 1}), RawRow(3, {"b": 2})]
    assert list(json_rows(path)) == [(1, {"a": 1}), (3, {"b": 2})]


def test_wrong_rows_hide_no_others(tmp_path: Path) -> None:
    """Going through the rows, what is wrong with one stands in its place."""
    (one, first), (three, second) = json_rows(_file(tmp_path, '[1]\n\n{"b": 2}'))
    assert (one, three, second) == (1, 3, {"b": 2})
    assert isinstance(first, InputError)


def test_only_newlines_end_a_row(tmp_path: Path) -> None:
    """A line separator inside of a prompt does not end the row."""
    assert read(_file(tmp_path, '{"prompt": "a\u2028b"}')) == [RawRow(1, {"prompt": "a\u2028b"})]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no rows"),
        ("\n  \n", "no rows"),
        (b'{"a": 1}\n\xff\n', "row 2 is not UTF-8"),
        ('{"a": 1}\n{"a": }', "row 2: not JSON: Expecting value"),
        ("[1, 2]", "row 1: must be a JSON object"),
        ("null", "row 1: must be a JSON object"),
        ("[" * 100_000, "row 1: not JSON"),
    ],
)
def test_what_is_no_file_of_rows(content: str | bytes, said: str, tmp_path: Path) -> None:
    """What cannot be read is refused, with the row's number."""
    with pytest.raises(InputError, match=said):
        read(_file(tmp_path, content))


def test_file_that_is_not_there(tmp_path: Path) -> None:
    """A file that cannot be opened is named."""
    with pytest.raises(InputError, match=r"none\.jsonl: No such file"):
        read(tmp_path / "none.jsonl")


def test_emulator_stands_for_its_origin() -> None:
    """The place of the emulator's address is filled wherever there is text."""
    rows = [
        RawRow(1, {"prompt": "a", "image_url": "{emulator}/samples/fox.jpg"}),
        RawRow(4, {"mode": "pro-image-to-video", "prompt": "b", "image_urls": ["{emulator}/x"]}),
        RawRow(5, {"mode": "master-text-to-video", "prompt": "c", "duration": 10}),
    ]
    assert parse(rows, "http://127.0.0.1:5") == [
        Row(1, StandardImageToVideo("a", "http://127.0.0.1:5/samples/fox.jpg")),
        Row(4, ProImageToVideo("b", "http://127.0.0.1:5/x")),
        Row(5, MasterTextToVideo("c", duration=10)),
    ]


def test_all_wrong_rows_are_named() -> None:
    """Every wrong row has its own line in the message, with its number and unknown keys."""
    rows = [
        RawRow(1, {"mode": "master-text-to-video", "prompt": "good"}),
        RawRow(2, {"mode": "master-text-to-video", "prompt": "x" * 9999, "seed": 3}),
        RawRow(7, {"mode": "master-text-to-video", "prompt": "a", "duration": 7}),
    ]
    with pytest.raises(InputError) as caught:
        parse(rows, "http://127.0.0.1")
    first, second = str(caught.value).split("\n")
    assert first.startswith("row 2: seed: unknown key")
    assert "prompt: must be" in first
    assert second.startswith("row 7: duration: must be one of 5, 10")
    assert [problem.field for problem in caught.value.problems] == ["seed", "prompt", "duration"]
