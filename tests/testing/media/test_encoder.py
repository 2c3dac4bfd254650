from __future__ import annotations

import io

import av
import pytest
from PIL import Image

from kling_async.testing.media.encoder import render
from kling_async.testing.media.film import Film
from kling_async.testing.media.pictures import prepare_picture


def picture(size: tuple[int, int], color: str = "orange") -> bytes:
    """Give a prepared picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, "PNG")
    return prepare_picture(out.getvalue())


def frames(video: bytes) -> list[Image.Image]:
    """Decode a video."""
    with av.open(io.BytesIO(video), "r") as container:
        decoded = container.decode(video=0)
        return [frame.to_image() for frame in decoded]  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("duration", [5, pytest.param(10, marks=pytest.mark.slow)])
def test_a_film_is_what_was_asked(duration: int) -> None:
    """A film has the asked length to the frame, 24 a second, in a form that browsers play."""
    video = render(Film("a fox", duration, "1:1"))
    assert video.index(b"moov") < video.index(b"mdat")
    with av.open(io.BytesIO(video), "r") as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (640, 640)
        assert stream.average_rate == 24
        assert container.duration == duration * 1_000_000
        assert stream.frames == duration * 24


@pytest.mark.slow
def test_the_end_picture_is_the_end() -> None:
    """A film of two pictures begins with the first and ends with the second."""
    red, blue = picture((64, 36), "red"), picture((9, 9), "blue")
    shown = frames(render(Film("x", 5, pictures=(red, blue))))
    first, last = (shown[n].getpixel((320, 20)) for n in (0, -1))
    assert isinstance(first, tuple)
    assert isinstance(last, tuple)
    assert first[0] - first[2] > 150
    assert last[2] - last[0] > 150
