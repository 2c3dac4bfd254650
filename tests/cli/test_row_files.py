from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import pytest

from kling_async.cli.row_files import read_csv, write_csv_row
from kling_async.cli.row_values import COLUMNS
from kling_async.errors import InputError
from tests.cli.conftest import read_file

if TYPE_CHECKING:
    from pathlib import Path


def _file(folder: Path, content: str | bytes) -> Path:
    path = folder / "rows.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_cells_become_fields(separator: str, tmp_path: Path) -> None:
    """What the first line has most of parts the cells; empty ones are not set."""
    lines = ["key,mode,prompt,duration,cfg_scale", "fox, master ,  a fox,5,0.5", ",m,,10,", ",,,,"]
    text = "\r\n".join(lines).replace(",", separator)
    assert read_file(read_csv, _file(tmp_path, text)) == [
        (
            2,
            {"key": "fox", "mode": "master", "prompt": "  a fox", "duration": 5, "cfg_scale": 0.5},
        ),
        (3, {"mode": "m", "duration": 10}),
    ]


def test_rows_are_numbered_by_their_first_lines(tmp_path: Path) -> None:
    """Quoted line breaks and blank lines count as an editor counts them; a mark is no matter."""
    text = b'\xef\xbb\xbfkey,prompt\r\n\r\na,"one\r\ntwo, three"\r\nb,"""four"""\r\n'
    assert read_file(read_csv, _file(tmp_path, text)) == [
        (3, {"key": "a", "prompt": "one\r\ntwo, three"}),
        (5, {"key": "b", "prompt": '"four"'}),
    ]


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("5", 5),
        ("5.0", 5),
        ('"0,5"', 0.5),
        ("five", "five"),
        ("-1", "-1"),
        ("nan", "nan"),
        ("1_0", "1_0"),
        ("\u0665", "\u0665"),
    ],
)
def test_numbers_are_read(cell: str, value: object, tmp_path: Path) -> None:
    """A number may have a decimal comma; anything else stays text, and is refused later."""
    ((_, fields),) = read_file(read_csv, _file(tmp_path, f"cfg_scale,prompt\n{cell},7\n"))
    assert fields == {"cfg_scale": value, "prompt": "7"}


def test_cells_beyond_the_columns(tmp_path: Path) -> None:
    """Short rows are filled up; a cell under no name is wrong, unless it is empty."""
    rows = dict(read_file(read_csv, _file(tmp_path, "key,mode,\na\nb,m,,\nc,m,x\nd,m,,y\n")))
    assert rows[2] == {"key": "a"}
    assert rows[3] == {"key": "b", "mode": "m"}
    for number, place in ((4, 3), (5, 4)):
        assert str(rows[number]).startswith(f"column {place} has no name in row 1")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "it has none"),
        ("\n", r"row 1 must name the columns, of key, model, .*; it has none"),
        (",,\na,b,c", "it has none"),
        ("mode,promt,x\n", "it has 'promt', 'x'"),
        ("mode,prompt,mode", "row 1 names a column twice: mode"),
        ('key\na\n"b\nc\n', "row 3 is not CSV: .*; check that its quotes are closed"),
        ('key,mode\n"a"b,c\n', "row 2 is not CSV"),
        (b"key\na\n\xff\n", "row 3 is not UTF-8"),
    ],
)
def test_what_is_no_table(content: str | bytes, said: str, tmp_path: Path) -> None:
    """What cannot be read as a table of inputs is refused, with the row's number."""
    with pytest.raises(InputError, match=said):
        read_file(read_csv, _file(tmp_path, content))


def test_written_cells_are_no_formulas() -> None:
    """Text that a spreadsheet would calculate is marked as text; the rest is as it was."""
    stream = io.StringIO(newline="")
    dangerous = ["=1+1", "+1", "-1", "@x", "\tx", "\rx"]
    write_csv_row(stream, [*dangerous, "a=b", "", None, -0.5, 3])
    (cells,) = csv.reader(io.StringIO(stream.getvalue(), newline=""))
    marked = [f"'{text}".replace("\r", "\n") for text in dangerous]
    assert cells == [*marked, "a=b", "", "", "-0.5", "3"]


def test_line_breaks_stay_inside_of_a_cell() -> None:
    """Whatever kind of line break a cell has, it ends no row."""
    stream = io.StringIO(newline="")
    write_csv_row(stream, ["one\r\ntwo", "three\rfour", "five\nsix"])
    (cells,) = csv.reader(io.StringIO(stream.getvalue(), newline=""))
    assert cells == ["one\ntwo", "three\nfour", "five\nsix"]


def test_columns_are_those_of_an_input() -> None:
    """A table may have every field of every input, and the key."""
    assert set(COLUMNS) > {"key", "prompt", "end_image_url", "provider", "cfg_scale"}


@pytest.mark.parametrize(
    "text",
    [
        " =1+1",
        "\u3000=1",
        '"=1',
        "'\t=1",
        "\uff1d1",
        "\uff0b1",
        "\uff0d1",
        "\uff201",
        "a;=1",
        'a; "=1',
        "a\t=1",
        "a\n=1",
        "a\r\n+1",
        "a;\n-1",
        "\n=1",
        "a|@x",
        "a\u2028=1",
    ],
)
def test_no_cell_begins_a_formula_whatever_separates_cells(text: str) -> None:
    """Neither we nor a program that parts cells elsewhere gets a cell that it would calculate."""
    stream = io.StringIO(newline="")
    write_csv_row(stream, ["key", text, text])
    for separator in ",;\t|":
        for row in csv.reader(io.StringIO(stream.getvalue(), newline=""), delimiter=separator):
            lines = [line for cell in row for line in cell.splitlines()]
            for line in lines:
                start = line.lstrip(' \t"\u3000')
                assert not start.startswith(tuple("=+-@\uff1d\uff0b\uff0d\uff20"))


def test_ordinary_text_is_not_marked() -> None:
    """Signs inside of a text begin no formula."""
    stream = io.StringIO(newline="")
    cells = ["a-b", "x = 1; y", "https://example.com/?a=1;b=2", "it's; fine"]
    write_csv_row(stream, cells)
    assert next(csv.reader(io.StringIO(stream.getvalue(), newline=""))) == cells


@pytest.mark.parametrize(
    ("first", "separator"),
    [
        ("sep=;", ";"),
        ("SEP=,", ","),
        ('"sep=;"', ";"),
        ("sep=|", "|"),
        ("sep=\t", "\t"),
        (r"sep=\t", "\t"),
    ],
)
def test_line_that_names_the_separator(first: str, separator: str, tmp_path: Path) -> None:
    """A first line sep=; names the separator, and counts as a line."""
    text = f"{first}\r\nKey,Prompt\r\na,b\r\n,,x\r\n".replace(",", separator)
    rows = dict(read_file(read_csv, _file(tmp_path, text)))
    assert rows[3] == {"key": "a", "prompt": "b"}
    assert "no name in row 2" in str(rows[4])
    with pytest.raises(InputError, match="row 2 must name the columns"):
        read_file(read_csv, _file(tmp_path, f"{first}\r\nnotes\r\n"))
    with pytest.raises(InputError, match="it has none"):
        read_file(read_csv, _file(tmp_path, first))


def test_lines_that_end_with_carriage_returns(tmp_path: Path) -> None:
    """Files of old spreadsheets are read, with line breaks in their cells."""
    rows = dict(read_file(read_csv, _file(tmp_path, 'key;prompt\ra;"one\rtwo"\rb;x\r')))
    assert rows == {2: {"key": "a", "prompt": "one\rtwo"}, 4: {"key": "b", "prompt": "x"}}
