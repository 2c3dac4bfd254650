from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING, cast

import pytest
from PIL import Image

from kling_async.errors import ConfigurationError, DownloadError
from kling_async.media import FrameTime, save_frame, save_poster
from tests.media.videos import (
    frames_of,
    make_video,
    moving,
    noise,
    packet_place,
    plain,
    ramp,
    shade_of,
    turn,
)

if TYPE_CHECKING:
    from pathlib import Path

# Key frames twice a second, and before them frames that are stored after them.
REORDERED = {"x264-params": "keyint=7:min-keyint=7:scenecut=0:bframes=3:b-adapt=0:open-gop=1"}


@pytest.mark.parametrize(
    ("at", "number"),
    [("first", 0), (0, 0), (0.5, 6), (2.51, 31), (3.9, 47), ("last", 47), (99, 47)],
)
@pytest.mark.parametrize("container", ["mp4", "matroska"])
async def test_frame(at: FrameTime, number: int, container: str, tmp_path: Path) -> None:
    """A frame is the one that is shown at a time, in whatever order frames are stored."""
    path = make_video(tmp_path / "a.mp4", ramp(20), seconds=4, container=container, codec=REORDERED)
    await save_frame(path, tmp_path / "a.png", at=at)
    with Image.open(tmp_path / "a.png") as image:
        assert (image.format, image.size) == ("PNG", (96, 54))
        assert shade_of(image) == frames_of(path)[number][1]


async def test_each_frame(tmp_path: Path) -> None:
    """A frame right before a key frame is found, too, although it is stored after that."""
    path = make_video(tmp_path / "a.mp4", ramp(20), seconds=4, codec=REORDERED)
    for time, shade in frames_of(path):
        await save_frame(path, tmp_path / "a.png", at=max(0.0, time - 0.01))
        with Image.open(tmp_path / "a.png") as image:
            assert shade_of(image) == shade, time


async def test_lossless(tmp_path: Path) -> None:
    """A PNG has exactly the frame's pixels, and equal frames are equal files."""
    import av

    path = make_video(tmp_path / "a.mp4", noise((96, 54)), seconds=1)
    with av.open(str(path)) as container:
        *_, last = container.decode(video=0)
    for name in ("a.png", "b.png"):
        await save_frame(path, tmp_path / name, at="last")
    with Image.open(tmp_path / "a.png") as image:
        assert image.tobytes() == last.to_image().tobytes()  # type: ignore[no-untyped-call]
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("name", ["a.jpg", "A.JPEG"])
async def test_jpeg(name: str, tmp_path: Path) -> None:
    """The suffix selects the format. An existing picture is replaced."""
    path = make_video(tmp_path / "a.mp4", plain(90), seconds=0.5)
    (tmp_path / name).write_text("old")
    await save_frame(path, tmp_path / name, at="first")
    with Image.open(tmp_path / name) as image:
        assert image.format == "JPEG"
        assert abs(shade_of(image) - 90) < 3


async def test_turned(tmp_path: Path) -> None:
    """The frame of a video that is stored sideways is upright."""
    path = make_video(
        tmp_path / "a.mp4",
        lambda _: Image.linear_gradient("L").resize((96, 54)).convert("RGB"),
        seconds=0.5,
    )
    turn(path)
    await save_frame(path, tmp_path / "a.png", at="first")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (54, 96)
        left, right = (image.convert("L").getpixel((x, 48)) for x in (3, 50))
    assert cast("int", left) < 30
    assert cast("int", right) > 220


@pytest.mark.parametrize("at", ["end", -1, nan, None])
async def test_invalid_time(at: object, tmp_path: Path) -> None:
    """A time must be a number of seconds, or one of two words."""
    with pytest.raises(ConfigurationError, match="at must be"):
        await save_frame("a.mp4", tmp_path / "a.png", at=cast("FrameTime", at))


async def test_other_suffix(tmp_path: Path) -> None:
    """The formats are those that the service accepts, without WebP."""
    with pytest.raises(ConfigurationError, match=r"a \.png or \.jpg file, not 'a\.webp'"):
        await save_frame("a.mp4", tmp_path / "a.webp", at="last")


@pytest.mark.parametrize(
    ("extra", "reason"), [(0, "its end is missing"), (9, "Invalid data")], ids=["whole", "part"]
)
async def test_truncated(extra: int, reason: str, tmp_path: Path) -> None:
    """The last frame of a truncated video is missing. An earlier one is not."""
    path = make_video(tmp_path / "a.mp4", noise((96, 54)))
    path.write_bytes(path.read_bytes()[: packet_place(path, 40) + extra])
    with pytest.raises(DownloadError, match=rf"a\.mp4: .*{reason}"):
        await save_frame(path, tmp_path / "a.png", at="last")
    await save_frame(path, tmp_path / "a.png", at=1.0)


async def test_missing_video(tmp_path: Path) -> None:
    """A video that does not exist is an OSError."""
    with pytest.raises(FileNotFoundError):
        await save_frame(tmp_path / "a.mp4", tmp_path / "a.png", at="last")


@pytest.mark.parametrize("codec", [b"avc1", b"zzzz"])
async def test_no_frames(codec: bytes, tmp_path: Path) -> None:
    """A video has no frames if they are missing, or if their codec is unknown."""
    path = make_video(tmp_path / "a.mp4", moving(), seconds=1)
    data = path.read_bytes()[: packet_place(path, 0)]
    path.write_bytes(data.replace(b"avc1", codec))
    with pytest.raises(DownloadError, match="no frames"):
        await save_poster(path, tmp_path / "a.jpg")


async def test_poster(tmp_path: Path) -> None:
    """The poster is the frame after one second, of the video's size; a shorter video's last one."""

    def paint(number: int) -> Image.Image:
        return plain(40 if number < 12 else 200)(number)

    for seconds, shade in ((3, 200), (0.5, 40)):
        path = make_video(tmp_path / "a.mp4", paint, seconds=seconds)
        await save_poster(path, tmp_path / "a.jpg")
        with Image.open(tmp_path / "a.jpg") as image:
            assert (image.format, image.size) == ("JPEG", (96, 54))
            level = image.convert("L").getpixel((48, 27))
            assert isinstance(level, int | float)
            assert abs(level - shade) < 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "a.mp4"]


@pytest.mark.parametrize("data", [b"no video", b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom"])
async def test_no_poster(data: bytes, tmp_path: Path) -> None:
    """A file without frames has no poster, and nothing is left behind."""
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    with pytest.raises(DownloadError, match="cannot decode"):
        await save_poster(path, tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == [path]


async def test_poster_that_cannot_be_saved(tmp_path: Path) -> None:
    """If the poster cannot be put in its place, its temporary file is removed."""
    path = make_video(tmp_path / "a.mp4", moving(), seconds=1)
    folder = tmp_path / "a.jpg"
    folder.mkdir()
    (folder / "file").touch()
    with pytest.raises(IsADirectoryError):
        await save_poster(path, folder)
    assert sorted(tmp_path.iterdir()) == [folder, path]
