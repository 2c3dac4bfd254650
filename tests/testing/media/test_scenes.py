from __future__ import annotations

import io

import pytest
from PIL import Image, ImageChops, ImageStat

from kling_async.testing.media.film import Film
from kling_async.testing.media.pictures import prepare_picture
from kling_async.testing.media.scenes import scene


def picture(image: Image.Image) -> bytes:
    """Give a prepared picture."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return prepare_picture(out.getvalue())


def brightness(image: Image.Image, box: tuple[int, int, int, int]) -> float:
    """Give the mean brightness of a part."""
    return ImageStat.Stat(image.crop(box).convert("L")).mean[0]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((160, 90), (640, 360)),
        ((90, 160), (360, 640)),
        ((100, 100), (640, 640)),
        ((101, 77), (640, 488)),
        ((3000, 1), (640, 256)),
        ((1, 3000), (256, 640)),
    ],
)
def test_the_picture_decides_the_ratio(size: tuple[int, int], expected: tuple[int, int]) -> None:
    """A film is as wide and high as its picture, in even numbers, within reason."""
    film = Film("x", 5, pictures=(picture(Image.new("RGB", size, "teal")),))
    found, frames = scene(film)
    assert found == expected
    assert next(frames).size == expected


@pytest.mark.parametrize(
    ("ratio", "expected"), [("16:9", (640, 360)), ("9:16", (360, 640)), ("1:1", (640, 640))]
)
def test_text_has_the_asked_ratio(ratio: str, expected: tuple[int, int]) -> None:
    """Without a picture, the aspect ratio decides."""
    size, frames = scene(Film("x", 5, ratio))
    assert size == expected
    assert next(frames).size == expected


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "\x00\ud800",
        "狐狸在雪中 🦊",
        "x" * 5000,
        "word " * 1000,
        "ثعلب",
        "e\u0301\u200d\ufe0f\n\t",
    ],
)
def test_any_prompt_can_be_shown(prompt: str) -> None:
    """No prompt breaks a film, as a title or as a caption."""
    assert next(scene(Film(prompt, 5, "9:16"))[1]).size == (360, 640)
    assert next(scene(Film(prompt, 5, pictures=(picture(Image.new("RGB", (16, 9))),)))[1]).size == (
        640,
        360,
    )


def test_films_move() -> None:
    """A film is no still: text stands on a moving ground, pictures are zoomed."""
    gradient = Image.linear_gradient("L").convert("RGB")
    for film in (Film("x", 5), Film("x", 5, pictures=(picture(gradient),))):
        frames = list(scene(film)[1])
        assert len(frames) == 120
        assert ImageChops.difference(frames[0], frames[-1]).getbbox() is not None


def test_the_text_is_seen_from_the_first_frame() -> None:
    """The first frame, which represents the film in a list, already shows the prompt in white."""
    first = next(scene(Film("HHHHHHHH", 5))[1]).convert("L")
    assert max(first.tobytes()) == 255


def test_prompts_have_colours_of_their_own() -> None:
    """Two prompts have different backgrounds, and one has always the same."""
    one, again, other = (next(scene(Film(p, 5))[1]) for p in ("a fox", "a fox", "a whale"))
    assert ImageChops.difference(one, again).getbbox() is None
    corner = (0, 0, 640, 40)
    assert ImageChops.difference(one.crop(corner), other.crop(corner)).getbbox() is not None


@pytest.mark.parametrize("color", ["white", "black"])
def test_captions_are_legible_on_any_picture(color: str) -> None:
    """Behind a caption it is dark, even on a white picture, and the letters are white."""
    film = Film("HHHH", 5, pictures=(picture(Image.new("RGB", (160, 90), color)),))
    frame = next(scene(film)[1])
    assert brightness(frame, (400, 320, 640, 350)) < 80
    assert max(frame.crop((0, 300, 200, 360)).convert("L").tobytes()) > 240
