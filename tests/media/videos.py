"""Makes small videos with given faults."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from random import Random
from typing import TYPE_CHECKING

import av
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

RATE = 12
SOUND_RATE = 8000

Paint = Callable[[int], Image.Image]


def plain(shade: int, size: tuple[int, int] = (96, 54)) -> Paint:
    """Return frames that are all of one shade of grey."""
    return lambda _: Image.new("RGB", size, (shade, shade, shade))


def moving(size: tuple[int, int] = (96, 54)) -> Paint:
    """Return frames in which a bar moves."""

    def paint(number: int) -> Image.Image:
        image = Image.new("RGB", size, (40, 60, 90))
        image.paste((220, 220, 200), (number % size[0], 0, number % size[0] + 8, size[1]))
        return image

    return paint


def noise(size: tuple[int, int]) -> Paint:
    """Return frames that are as hard to decode as a real clip's, or harder."""
    dice = Random(7)  # noqa: S311 - the same frames every time
    tile = Image.frombytes("RGB", (320, 180), dice.randbytes(320 * 180 * 3)).resize(size)

    def paint(number: int) -> Image.Image:
        return tile.transform(size, Image.Transform.AFFINE, (1, 0, 3 * number, 0, 1, number))

    return paint


def make_video(
    path: Path,
    paint: Paint,
    *,
    seconds: float = 5.0,
    volume: int | None = None,
    rate: int = RATE,
    container: str = "mp4",
) -> Path:
    """Write an MP4 whose index comes first. ``volume`` is the peak of its sound, 0 to 32,767."""
    size = paint(0).size
    options = {"movflags": "+faststart"} if container == "mp4" else {}
    with av.open(path, "w", format=container, options=options) as file:
        video = file.add_stream("libx264", rate=rate)
        video.width, video.height = size
        video.pix_fmt = "yuv420p"
        video.options = {"preset": "ultrafast"}
        sound = None if volume is None else file.add_stream("aac", rate=SOUND_RATE)
        for number in range(round(seconds * rate)):
            frame: av.VideoFrame = av.VideoFrame.from_image(paint(number))  # type: ignore[no-untyped-call]
            file.mux(video.encode(frame))
        file.mux(video.encode())
        if sound is not None and volume is not None:
            for block in _tone(seconds, volume):
                file.mux(sound.encode(block))
            file.mux(sound.encode())
    return path


def _tone(seconds: float, volume: int) -> Iterable[av.AudioFrame]:
    """Yield blocks of a square wave."""
    for start in range(0, round(seconds * SOUND_RATE), 1024):
        samples = array("h", [volume if (start + n) // 20 % 2 else -volume for n in range(1024)])
        frame = av.AudioFrame(format="s16", layout="mono", samples=1024)
        frame.planes[0].update(samples.tobytes())
        frame.sample_rate, frame.pts = SOUND_RATE, start
        yield frame
