from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, cast

import pytest
from PIL import Image

from kling_async.media import join_videos, save_frame
from kling_async.media.clips import Clip
from kling_async.media.containers import import_av
from kling_async.media.tracks import EncodedPictures, Pictures, Sound, have_same_form
from tests.media.videos import frames_of, make_video, moving, plain, turn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from av.container import OutputContainer

av = import_av()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[OutputContainer]:
    """Open a file for writing."""
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        yield container


def clip(path: Path, *form: object) -> Clip:
    """Return a clip of one second."""
    second = Fraction(1)
    return Clip(path, Fraction(0), second, (97, 55), Fraction(12), has_sound=True, form=form)


def test_forms(tmp_path: Path) -> None:
    """Frames are copied if all clips are H.264 of one form."""
    assert have_same_form([clip(tmp_path, "h264", 1), clip(tmp_path, "h264", 1)])
    assert not have_same_form([clip(tmp_path, "h264", 1), clip(tmp_path, "h264", 2)])
    assert not have_same_form([clip(tmp_path, "vp9"), clip(tmp_path, "vp9")])
    assert not have_same_form([clip(tmp_path)])


def test_interface(tmp_path: Path) -> None:
    """The two kinds of pictures differ in what they do with a frame."""
    with pytest.raises(NotImplementedError):
        Pictures().add(av.VideoFrame(2, 2))


def test_odd_size(file: OutputContainer, tmp_path: Path) -> None:
    """Sides are even numbers, as the usual form of H.264 requires. Frames have times."""
    pictures = EncodedPictures(av, file, clip(tmp_path))
    stream = file.streams.video[0]
    assert (stream.width, stream.height) == (96, 54)
    pictures.begin(clip(tmp_path), Fraction(0))
    assert list(pictures.add(av.VideoFrame(96, 54))) == []  # it has no time, and is not used
    assert list(pictures.end_clip()) == []


async def test_turned_and_fitted(tmp_path: Path) -> None:
    """A clip that is stored sideways is upright, and another ratio has black bars."""
    gradient = Image.linear_gradient("L").resize((96, 54)).convert("RGB")  # from black to white
    first = make_video(tmp_path / "a.mp4", plain(200), seconds=0.25)
    turn(sideways := make_video(tmp_path / "b.mp4", lambda _: gradient, seconds=0.25))
    await join_videos([first, sideways], target := tmp_path / "film.mp4")
    with av.open(str(target)) as container:
        frames = list(container.decode(video=0))
    image = frames[-1].to_image().convert("L")
    assert image.size == (96, 54)
    levels = [cast("int", image.getpixel((x, 27))) for x in (20, 37, 48, 59, 75)]
    assert max(levels[0], levels[4]) < 4  # the bars
    assert 0 < levels[1] < levels[2] - 40 < levels[3] - 80


async def test_key_frames(tmp_path: Path) -> None:
    """The encoder decides which frames are key frames, not the clips."""
    first = make_video(tmp_path / "a.mp4", plain(90), seconds=1, codec={"g": "1"})
    other = make_video(tmp_path / "b.mp4", plain(90, (64, 64)), seconds=0.25)
    await join_videos([first, other], target := tmp_path / "film.mp4")
    with av.open(str(target)) as container:
        packets = list(container.demux(video=0))
    assert sum(packet.is_keyframe for packet in packets) < 3


async def test_colours(tmp_path: Path) -> None:
    """Colours are the same after encoding, whatever the clips and the file call them."""
    red = (200, 40, 40)
    first = make_video(tmp_path / "a.mp4", lambda _: Image.new("RGB", (96, 54), red), seconds=0.25)
    other = make_video(tmp_path / "b.mp4", moving((64, 64)), seconds=0.25)
    await join_videos([first, other], target := tmp_path / "film.mp4")
    with av.open(str(target)) as container:
        assert next(container.decode(video=0)).colorspace == 1
    await save_frame(target, tmp_path / "a.png", at="first")
    with Image.open(tmp_path / "a.png") as image:
        found = cast("tuple[int, ...]", image.getpixel((48, 27)))
    assert all(abs(a - b) < 8 for a, b in zip(found, red, strict=True))


async def test_other_rate(tmp_path: Path) -> None:
    """Frames are omitted or repeated, so that a clip keeps its length at another rate."""
    slow = make_video(tmp_path / "a.mp4", plain(40), seconds=1, rate=4)
    fast = make_video(tmp_path / "b.mp4", plain(200, (64, 64)), seconds=1, rate=10)
    for paths, number in (([slow, fast], 4), ([fast, slow], 10)):
        await join_videos(paths, target := tmp_path / "film.mp4")
        shades = [shade for _, shade in frames_of(target)]
        assert len(shades) == 2 * number
        assert (shades[number - 1] < 100) == (paths[0] is slow)
        assert (shades[number] < 100) == (paths[0] is not slow)


def tone(begin: Fraction, seconds: Fraction) -> object:
    """Return samples that are not silent."""
    frame = av.AudioFrame(format="s16", layout="stereo", samples=int(seconds * 48000))
    frame.planes[0].update(b"\x00\x20" * (frame.planes[0].buffer_size // 2))
    frame.sample_rate, frame.time_base = 48000, Fraction(1, 48000)
    frame.pts = int(begin * 48000)
    return frame


@pytest.mark.parametrize(
    ("begin", "seconds", "expected"),
    [
        ("0", "1", "0 1"),
        ("0.01", "0.5", "0 0.5"),
        ("0.25", "0.5", "0.25 0.75"),
        ("-0.25", "0.5", "0 0.25"),
        ("0.5", "1", "0.5 1"),
        ("2", "1", ""),
    ],
    ids=["whole", "rounded", "later", "earlier", "longer", "outside"],
)
def test_sound_of_a_clip(begin: str, seconds: str, expected: str, file: OutputContainer) -> None:
    """Samples are where their time says, within their clip; the rest is silence."""
    sound = Sound(av, file)
    frame = tone(Fraction(begin), Fraction(seconds))
    packets = [*sound.add(frame, Fraction(0), Fraction(1)), *sound.fill(Fraction(1))]  # type: ignore[arg-type]
    packets += sound.flush()
    assert 47 <= len(packets) <= 48  # 48,000 samples, and less than one packet of silence
    decoder = av.CodecContext.create("aac", "r")
    decoder.extradata = file.streams.audio[0].codec_context.extradata
    levels = [
        max(map(abs, memoryview(bytes(piece.planes[0])).cast("f")))
        for packet in packets
        for piece in decoder.decode(packet)
    ]
    loud = [number for number, level in enumerate(levels) if level > 0.1]
    edges = [float(edge) * 48000 / 1024 for edge in expected.split()]
    if not edges:
        assert not loud
    else:
        assert abs(loud[0] - 1 - edges[0]) < 2  # the encoder's first packet is its own
        assert abs(loud[-1] - edges[1]) < 2


def test_without_time(file: OutputContainer) -> None:
    """Samples without a time follow the ones before."""
    sound = Sound(av, file)
    frame = tone(Fraction(0), Fraction(1, 2))
    frame.pts = None  # type: ignore[attr-defined]
    for _ in range(2):
        list(sound.add(frame, Fraction(5), Fraction(1)))  # type: ignore[arg-type]
    assert list(sound.fill(Fraction(1))) == []
