"""Makes small videos with given faults."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping
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
    codec: Mapping[str, str] | None = None,
) -> Path:
    """Write an MP4 whose index comes first.

    Args:
        path: Where it is written.
        paint: Returns the frame of a number.
        seconds: Its length.
        volume: The peak of its sound, 0 to 32,767; None: it has no sound.
        rate: Frames per second.
        container: FFmpeg's name of another format.
        codec: Options of libx264. Its fastest preset has no frames that depend on later ones.
    """
    size = paint(0).size
    options = {"movflags": "+faststart"} if container == "mp4" else {}
    with av.open(path, "w", format=container, options=options) as file:
        video = file.add_stream("libx264", rate=rate)
        video.width, video.height = size
        video.pix_fmt = "yuv420p"
        video.options = dict(codec or {"preset": "ultrafast"})
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


def b_frames(number: int) -> dict[str, str]:
    """Return options of libx264 with which so many frames in a row are needed by no other one."""
    fixed = f"bframes={number}:b-pyramid=none:b-adapt=0:scenecut=0"
    return {"preset": "medium", "x264-params": fixed}


def ramp(first: int, step: int = 4) -> Paint:
    """Return frames whose shade is their number times ``step``, from ``first``."""
    return lambda number: Image.new("RGB", (96, 54), (first + step * number,) * 3)


def frames_of(path: Path) -> list[tuple[float, int]]:
    """Return the time and the shade in the middle of each frame."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [(round(frame.time, 3), shade_of(frame.to_image())) for frame in frames]  # type: ignore[no-untyped-call]


def shade_of(image: Image.Image) -> int:
    """Return the level of grey in the middle of a picture."""
    level = image.convert("L").getpixel((image.width // 2, image.height // 2))
    assert isinstance(level, int)
    return level


def packet_place(path: Path, number: int) -> int:
    """Return the place in a file of a frame that is stored in it."""
    with av.open(str(path)) as container:
        packets = list(container.demux(video=0))
    place = packets[number].pos
    assert place is not None
    return place


def turn(path: Path) -> None:
    """Turn an MP4 to the left by a quarter: change the matrix of its track."""
    data = path.read_bytes()
    one, zero = b"\0\1\0\0", bytes(4)
    upright = one + zero * 3 + one + zero * 3 + b"\x40\0\0\0"
    turned = zero + b"\xff\xff\0\0" + zero + one + zero * 4 + b"\x40\0\0\0"
    place = data.index(upright, data.index(b"tkhd"))
    path.write_bytes(data[:place] + turned + data[place + len(turned) :])


def _tone(seconds: float, volume: int) -> Iterable[av.AudioFrame]:
    """Yield blocks of a square wave."""
    for start in range(0, round(seconds * SOUND_RATE), 1024):
        samples = array("h", [volume if (start + n) // 20 % 2 else -volume for n in range(1024)])
        frame = av.AudioFrame(format="s16", layout="mono", samples=1024)
        frame.planes[0].update(samples.tobytes())
        frame.sample_rate, frame.pts = SOUND_RATE, start
        yield frame
