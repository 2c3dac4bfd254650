from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from kling_async.testing.emulator.images import sniff
from kling_async.testing.emulator.models import MODELS
from kling_async.testing.emulator.rules import read_order
from kling_async.testing.media.film import SMALL_VIDEO
from kling_async.testing.media.pictures import prepare_picture
from kling_async.testing.sample_files import DEMO, FOLDER

if TYPE_CHECKING:
    from pathlib import Path

PICTURES = sorted(p for p in FOLDER.iterdir() if p.suffix in {".jpg", ".png", ".webp"})
ROWS = [json.loads(line) for line in DEMO.read_text("utf-8").splitlines()]


def test_demo_covers_every_mode() -> None:
    """The demonstration has all four modes of kling-2-1, and every other model once."""
    models = [row["model"] for row in ROWS]
    assert {model: models.count(model) for model in MODELS} == dict.fromkeys(MODELS, 1) | {
        "kling-2-1": 9
    }
    modes = {row["mode"] for row in ROWS if row["model"] == "kling-2-1"}
    assert modes == MODELS["kling-2-1"].modes.keys()


@pytest.mark.parametrize("row", ROWS)
def test_demo_inputs_are_right(row: dict[str, object]) -> None:
    """Each input of the demonstration would be accepted, and its pictures are there.

    One is given as a file, relative to that of the inputs.
    """
    fields = {key: value for key, value in row.items() if key != "model"}
    names = [str(fields.pop(key)) for key in ("image_url", "end_image_url") if key in fields]
    videos = [str(fields.pop(key)) for key in ("video_url",) if key in fields]
    fields |= {"image_urls": names} if names else {}
    fields |= {"video_urls": videos} if videos else {}
    read_order(json.dumps({"input": fields}).encode(), str(row["model"]))
    for name in names:
        assert name.startswith("{emulator}/samples/") or name == "sailboat.webp"
        assert (FOLDER / name.rpartition("/")[2]).is_file()
    assert {*videos} <= {f"{{emulator}}/samples/{SMALL_VIDEO.name}"}


def test_pictures_come_in_every_format() -> None:
    """There are JPEG, PNG and WebP, wide, upright and square ones."""
    formats = {sniff(path.read_bytes()) for path in PICTURES}
    assert formats == {"JPEG", "PNG", "WEBP"}
    ratios = set()
    for path in PICTURES:
        with Image.open(path) as image:
            ratios.add((image.width > image.height) - (image.width < image.height))
    assert ratios == {-1, 0, 1}


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_pictures_are_small_and_whole(path: Path) -> None:
    """A picture is under 120 kB and can be decoded."""
    data = path.read_bytes()
    assert len(data) < 120_000
    assert prepare_picture(data)
