from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from kling_async.cli.row_files import read_csv, read_jsonl
from kling_async.cli.row_values import COLUMNS, InvalidRows, row_fields, row_input
from kling_async.errors import InputError, Problem
from kling_async.inputs.kling_2_6 import Kling26TextToVideo
from kling_async.inputs.raw import RawInput
from tests.cli.conftest import read_file

if TYPE_CHECKING:
    from pathlib import Path

    from kling_async.inputs.base import Input
    from tests.cli.conftest import Command

TEXT = {"mode": "master-text-to-video", "prompt": "a fox"}


@pytest.mark.parametrize(
    ("cells", "fields"),
    [
        ({"key": None, "prompt": "", "mode": "  ", "notes": None}, {}),
        ({"duration": 5.0, "cfg_scale": 0.5}, {"duration": 5, "cfg_scale": 0.5}),
        ({"duration": "5", "cfg_scale": "0,5"}, {"duration": 5, "cfg_scale": 0.5}),
        ({"duration": "5.0", "cfg_scale": "five"}, {"duration": 5, "cfg_scale": "five"}),
        ({"key": 7}, {"key": "7"}),
        ({"key": 7.0}, {"key": "7"}),
        ({"key": 1.5}, {"key": "1.5"}),
        ({"key": True}, {"key": True}),
        ({"key": "1.0"}, {"key": "1.0"}),
        ({"prompt": " a ", "model": " kling-2-1 "}, {"prompt": " a ", "model": "kling-2-1"}),
        ({"Prompt": "x", " MODE ": "Pro"}, {"prompt": "x", "mode": "pro-image-to-video"}),
        ({"X": 1}, {"X": 1}),
        ({"prompt": 7.0, "image_urls": ["x"]}, {"prompt": 7.0, "image_urls": ["x"]}),
        ({"mode": "master-text"}, {"mode": "master-text-to-video"}),
        ({"mode": "other"}, {"mode": "other"}),
        ({"mode": "Motion", "sound": "TRUE"}, {"mode": "motion-control", "sound": True}),
        ({"sound": "false", "resolution": "720p"}, {"sound": False, "resolution": "720p"}),
        ({"sound": "loud"}, {"sound": "loud"}),
        ({"fields": ' {"seed": [7]} '}, {"fields": {"seed": [7]}}),
        ({"fields": {"seed": 5.0}}, {"fields": {"seed": 5.0}}),
    ],
)  # fmt: skip
def test_values(cells: dict[str, object], fields: dict[str, object]) -> None:
    """Null and empty are not set; numbers, keys, names and modes mean what they mean in a table."""
    found = row_fields(cells)
    assert found == fields
    assert [type(value) for value in found.values()] == [type(value) for value in fields.values()]


@pytest.mark.parametrize(
    ("cell", "ratio"),
    [
        ("16:09", "16:9"),
        ("16:09:00", "16:9"),
        ("4:09 PM", "16:9"),
        ("04:09:00 p.m.", "16:9"),
        ("09:16:00", "9:16"),
        ("9:16 AM", "9:16"),
        ("01:01:00", "1:1"),
        ("01:01", "1:1"),
        ("16:9", "16:9"),
        ("12:09 PM", "12:09 PM"),
        ("04:03", "04:03"),
        ("16:09:01", "16:09:01"),
        ("wide", "wide"),
    ],
)
def test_ratios_that_a_spreadsheet_took_for_times(cell: str, ratio: str) -> None:
    """A time of day is the ratio that it was made of; what is no ratio is left to be refused."""
    assert row_fields({"aspect_ratio": cell}) == {"aspect_ratio": ratio}


def test_two_names_for_one_field() -> None:
    """A row may not have the same field twice."""
    with pytest.raises(InputError, match="prompt is given twice"):
        row_fields({"Prompt": "a", "prompt": "b"})


@pytest.mark.parametrize("ratio", [0.6729166667, "04:03"])
def test_ratio_that_is_refused(ratio: object) -> None:
    """A ratio that cannot be understood is refused with what to do about it."""
    with pytest.raises(InputError, match="format its column as text") as caught:
        row_input({**TEXT, "aspect_ratio": ratio})
    assert [problem.field for problem in caught.value.problems] == ["aspect_ratio"]


def test_mode_that_was_assumed() -> None:
    """If the mode was not named, the error names it, and the one for text."""
    with pytest.raises(InputError) as caught:
        row_input({"prompt": "a fox"})
    assert "image_url: is required" in str(caught.value)
    assert "so standard-image-to-video was assumed" in str(caught.value)
    assert "master-text-to-video" in str(caught.value)
    with pytest.raises(InputError) as caught:
        row_input({"mode": "standard-image-to-video", "prompt": "a fox"})
    assert "assumed" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"model": "kling-2-6", "prompt": "x", "sound": True},
            Kling26TextToVideo("x", sound=True),
        ),
        (
            {"model": "kling-9", "fields": {"seed": 7}, "provider": "lab"},
            RawInput("kling-9", {"seed": 7}, provider="lab"),
        ),
        (
            {"model": "kling-9", "fields": {}, "prompt": "x", "image_url": "a", "mode": "omni"},
            RawInput("kling-9", {"prompt": "x", "image_urls": ["a"], "mode": "omni"}),
        ),
    ],
)
def test_rows_of_other_models(row: dict[str, object], expected: Input) -> None:
    """A row of any model is an input; what other columns say of a raw input is in its fields."""
    assert row_input(row) == expected


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"model": "kling-9", "fields": {"prompt": "x"}, "prompt": "y"}, "prompt in fields: given"),
        ({"model": "kling-9", "fields": "{"}, "fields: must be a mapping"),
        ({"model": "kling-9", "fields": {}, "promt": "x"}, "promt: unknown key beside fields"),
        ({"fields": {}}, "model: is required"),
        ({"model": "kling-3-0-turbo", "prompt": "x"}, "mode: is required for kling-3-0-turbo"),
    ],
)
def test_wrong_rows_of_other_models(row: dict[str, object], problem: str) -> None:
    """What is wrong is named, without a hint about a mode that nothing has assumed."""
    with pytest.raises(InputError) as caught:
        row_input(row)
    assert problem in str(caught.value)
    assert "was assumed" not in str(caught.value)


def test_cells_that_are_not_json() -> None:
    """A cell of fields is a JSON text."""
    with pytest.raises(InputError, match="fields: not JSON"):
        row_fields({"fields": "{seed: 7}"})


def test_both_readers_agree(tmp_path: Path) -> None:
    """What a table tool exports as JSON Lines is read as the same table's CSV."""
    rows: list[dict[str, object]] = [
        {"key": 1, "mode": "pro", "prompt": "a", "duration": 5.0, "aspect_ratio": "16:09:00"},
        {"key": 2, "mode": "pro", "prompt": "b", "duration": None, "aspect_ratio": None},
        {"key": None, "mode": None, "prompt": "c", "duration": 10.0, "aspect_ratio": None},
    ]  # fmt: skip
    names = list(rows[0])
    table = [
        names,
        *([("" if row[name] is None else str(row[name])) for name in names] for row in rows),
    ]
    (tmp_path / "a.csv").write_text("\n".join(",".join(cells) for cells in table))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    as_csv = [fields for _, fields in read_file(read_csv, tmp_path / "a.csv")]
    as_json = [fields for _, fields in read_file(read_jsonl, tmp_path / "a.jsonl")]
    assert as_csv == as_json
    assert as_json[2] == {"prompt": "c", "duration": 10}


async def test_exported_rows_make_a_batch(command: Command, tmp_path: Path) -> None:
    """Rows with nulls, floats and numeric keys are taken; the plan names the mode it assumed."""
    image = {"prompt": "pan", "image_url": "https://example.com/a.jpg", "end_image_url": None}
    rows = [
        {"key": 1, "duration": 5.0, "cfg_scale": None, "negative_prompt": None, **TEXT},
        {"key": 2, "mode": None, **image},
        {"key": 3, "mode": "standard", **image},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    ended = await command("batch", path, "--dry-run")
    assert ended.code == 0
    assert "  1 row without a mode: standard-image-to-video is assumed\n" in ended.out
    (fields,) = (await command("batch", path, "--dry-run", "--json")).objects
    assert fields["assumed_mode"] == {"standard-image-to-video": 1}
    path.write_text('{"prompt": "a fox"}')
    ended = await command("batch", path, "--dry-run")
    assert ended.code == 2
    assert "standard-image-to-video was assumed" in ended.err


def test_columns_are_the_fields_of_the_inputs() -> None:
    """The columns are derived from the classes of inputs, in the order of a report."""
    assert (
        *("key", "model", "mode", "prompt", "image_url", "end_image_url", "aspect_ratio"),
        *("duration", "video_url", "negative_prompt", "cfg_scale", "provider", "sound"),
        *("resolution", "fields"),
    ) == COLUMNS


def test_invalid_rows_are_one_error() -> None:
    """The errors of rows are joined, each with the number of its row."""
    invalid = InvalidRows()
    invalid.add(2, InputError("first"))
    invalid.add(7, InputError(problems=[Problem("duration", "must be 5", "7")]))
    first, second = str(invalid.error()).split("\n")
    assert first == "row 2: first"
    assert second.startswith("row 7: duration: must be 5")
    assert [problem.field for problem in invalid.error().problems] == ["duration"]
