from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import pytest

from kling_async import Batch, Item, MasterTextToVideo
from kling_async.journal.base import ItemState
from kling_async.journal.opening import journal_at
from kling_async.media import inspect_video
from kling_async.media.inspection import inspected_files
from kling_async.results import MediaFacts, MediaProblem, SavedFile
from kling_async.testing.media.encoder import render
from kling_async.testing.media.film import Film
from kling_async.testing.sample_files import FOLDER
from tests.media.videos import b_frames, make_video, moving, noise, plain, ramp

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from PIL import Image

    from tests.conftest import Connect, Emulate

P = MediaProblem
FOX = MasterTextToVideo("a fox", duration=5)


async def test_facts(tmp_path: Path) -> None:
    """The length, size, rate and sound of a clip are read from the file."""
    path = make_video(tmp_path / "a.mp4", moving(), volume=8000)
    facts = await inspect_video(path, FOX)
    assert facts == MediaFacts(5.0, 96, 54, 12.0, has_sound=True)


@pytest.mark.parametrize(
    ("volume", "has_sound"), [(None, False), (0, False), (3, False), (300, True)]
)
async def test_sound(volume: int | None, *, has_sound: bool, tmp_path: Path) -> None:
    """A silent track does not count as sound."""
    path = make_video(tmp_path / "a.mp4", moving(), volume=volume)
    assert (await inspect_video(path)).has_sound is has_sound


@pytest.mark.parametrize(
    ("paint", "problems"),
    [
        (plain(0), (P.BLACK,)),
        (plain(12), (P.BLACK,)),
        (plain(90), (P.FROZEN,)),
        (moving(), ()),
        (moving((95 * 2, 50)), ()),
    ],
    ids=["black", "nearly black", "still", "moving", "a width that is padded"],
)
async def test_pictures(
    paint: Callable[[int], Image.Image], problems: tuple[MediaProblem, ...], tmp_path: Path
) -> None:
    """A clip is black or frozen if all its frames are."""
    path = make_video(tmp_path / "a.mp4", paint)
    assert (await inspect_video(path)).problems == problems


async def test_late_change(tmp_path: Path) -> None:
    """A clip that is black or still at first is neither if its last frames are not."""

    def paint(number: int) -> Image.Image:
        return plain(0 if number < 50 else 200)(number)

    path = make_video(tmp_path / "a.mp4", paint)
    assert (await inspect_video(path)).problems == ()


@pytest.mark.parametrize("first", [0, 90], ids=["black", "still"])
@pytest.mark.parametrize("last", [1, 2, 3])
async def test_change_at_the_end(first: int, last: int, tmp_path: Path) -> None:
    """The last frames count, also where only some of the frames refer to others."""

    def paint(number: int) -> Image.Image:
        return plain(200 if number >= 60 - last else first)(number)

    path = make_video(tmp_path / "a.mp4", paint, codec={"preset": "medium"})
    assert (await inspect_video(path)).problems == ()


async def test_fade(tmp_path: Path) -> None:
    """A clip that fades slowly from black is neither black nor still."""
    path = make_video(tmp_path / "a.mp4", ramp(0, 1), codec={"preset": "medium"})
    assert (await inspect_video(path)).problems == ()


@pytest.mark.parametrize(("number", "problems"), [(4, ()), (6, (P.BLACK,))])
async def test_frames_not_decoded(
    number: int, problems: tuple[MediaProblem, ...], tmp_path: Path
) -> None:
    """Frames to which no other refers are not decoded: here, all but every fourth one."""

    def paint(shown: int) -> Image.Image:
        return plain(200 if shown == number else 0)(shown)

    path = make_video(tmp_path / "a.mp4", paint, codec=b_frames(3))
    assert (await inspect_video(path)).problems == problems


@pytest.mark.parametrize(("number", "problems"), [(2, (P.BLACK,)), (30, ())])
async def test_few_frames_are_needed(
    number: int, problems: tuple[MediaProblem, ...], tmp_path: Path
) -> None:
    """All frames are decoded after the first ones of a clip in which few refer to others."""

    def paint(shown: int) -> Image.Image:
        return plain(200 if shown == number else 0)(shown)

    path = make_video(tmp_path / "a.mp4", paint, codec=b_frames(16))
    assert (await inspect_video(path)).problems == problems


@pytest.mark.slow
async def test_long_still_video(tmp_path: Path) -> None:
    """Of a very long video, only the beginning is decoded."""

    def paint(number: int) -> Image.Image:
        return plain(90 if number < 610 else 200, (32, 18))(number)

    path = make_video(tmp_path / "a.mp4", paint, seconds=52)
    assert (await inspect_video(path)).problems == (P.FROZEN,)


async def test_compared_with_the_input(tmp_path: Path) -> None:
    """A clip is compared with its input if one is given."""
    path = make_video(tmp_path / "a.mp4", moving((64, 64)), seconds=2)
    assert (await inspect_video(path, FOX)).problems == (P.WRONG_LENGTH, P.WRONG_RATIO)
    assert (await inspect_video(path)).problems == ()


@pytest.mark.parametrize("share", [0.6, 0.85])
async def test_truncated(share: float, tmp_path: Path) -> None:
    """A clip whose index promises more than the file has is truncated."""
    path = make_video(tmp_path / "a.mp4", noise((96, 54)))
    data = path.read_bytes()
    path.write_bytes(data[: round(len(data) * share)])
    facts = await inspect_video(path, FOX)
    assert (facts.duration, facts.problems) == (5.0, (P.TRUNCATED,))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>not found</html>",
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile '/etc/hostname'\n",
        b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom",
        b"\x00" * 5000,
    ],
    ids=["empty", "page", "playlist", "list of files", "header", "zeros"],
)
async def test_no_video(data: bytes, tmp_path: Path) -> None:
    """A file that is no video is a fact, not an error, and can refer to no other file."""
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    unreadable = MediaFacts(0.0, 0, 0, 0.0, has_sound=False, problems=(P.UNREADABLE,))
    assert await inspect_video(path, FOX) == unreadable


async def test_damaged(tmp_path: Path) -> None:
    """A damaged file of any kind gives facts, and no exception."""
    data = make_video(tmp_path / "a.mp4", moving(), seconds=1).read_bytes()
    path = tmp_path / "b.mp4"
    for place in range(0, len(data), max(1, len(data) // 40)):
        path.write_bytes(data[:place] + bytes(20) + data[place + 20 :])
        assert isinstance(await inspect_video(path), MediaFacts)


async def test_only_sound(tmp_path: Path) -> None:
    """A file of sound alone is no video."""
    import av

    path = tmp_path / "a.mp4"
    with av.open(path, "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame(format="s16", layout="mono", samples=1024)
        frame.sample_rate = 8000
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    assert (await inspect_video(path)).problems == (P.UNREADABLE,)


async def test_unknown_codec(tmp_path: Path) -> None:
    """A clip of an unknown codec cannot be judged."""
    path = make_video(tmp_path / "a.mp4", moving(), seconds=1)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    assert (await inspect_video(path)).problems == (P.UNREADABLE,)


async def test_other_container(tmp_path: Path) -> None:
    """A clip in Matroska, whose streams state no length, has that of its container."""
    path = make_video(tmp_path / "a.mkv", moving(), container="matroska")
    facts = await inspect_video(path)
    assert facts == MediaFacts(5.0, 96, 54, 12.0, has_sound=False)


async def test_missing_file(tmp_path: Path) -> None:
    """A file that does not exist is an OSError."""
    with pytest.raises(FileNotFoundError):
        await inspect_video(tmp_path / "a.mp4")


async def test_files_of_a_folder(tmp_path: Path) -> None:
    """Saved files get their facts; one that was removed meanwhile has none."""
    make_video(tmp_path / "a.mp4", moving(), seconds=1)
    files = [SavedFile("https://example.com", name, 1, "0") for name in ("a.mp4", "b.mp4")]
    found = await inspected_files(tmp_path, files, FOX)
    assert found[0].media is not None
    assert found[0].media.problems == (P.WRONG_LENGTH,)
    assert found[1] == files[1]


@pytest.mark.virtual_time
async def test_batch(tmp_path: Path, emulate: Emulate, connect: Connect) -> None:
    """A batch inspects what it saves; the journal keeps the facts for the next run."""
    journal, folder = tmp_path / "run.sqlite", tmp_path / "videos"
    items = [Item("a", FOX), Item("b", MasterTextToVideo("a wide fox", duration=10))]
    client = await connect(await emulate())
    facts = []
    for _ in range(2):
        async with Batch(client, journal=journal, download_to=folder, manifest="media") as batch:
            outcomes = [outcome async for outcome in batch.run(items)]
        facts = [await inspect_video(outcome.files[0], outcome.input) for outcome in outcomes]
        assert [outcome.media for outcome in outcomes] == [(found,) for found in facts]
        assert facts[1].problems == (P.WRONG_LENGTH,)  # the emulator's small clip has 2 s
    async with journal_at(journal, read_only=True) as opened:
        entries = [entry async for entry in opened.entries(ItemState.SAVED)]
    assert sorted(str(entry.files[0].media) for entry in entries) == sorted(map(str, facts))


@pytest.mark.slow
@pytest.mark.parametrize("count", [6, pytest.param(200, marks=pytest.mark.soak)])
async def test_the_emulators_videos(count: int, tmp_path: Path) -> None:
    """None of the emulator's videos, from texts and pictures, has a problem."""
    pictures = sorted(path for path in FOLDER.iterdir() if path.suffix in {".jpg", ".png", ".webp"})
    path = tmp_path / "a.mp4"
    for number in range(count):
        ratio = ("16:9", "9:16", "1:1")[number % 3]
        shown = (pictures[number % len(pictures)].read_bytes(),) if number % 2 else ()
        path.write_bytes(render(Film(f"take {number}: snow " * (1 + number % 9), 5, ratio, shown)))
        request = MasterTextToVideo("a fox", aspect_ratio=ratio)  # type: ignore[arg-type]
        assert (await inspect_video(path, None if shown else request)).problems == ()


@pytest.mark.slow
async def test_cost(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Inspection costs a small part of decoding the whole clip, here in 1080p and with sound."""
    import av

    path = make_video(tmp_path / "a.mp4", noise((1920, 1080)), seconds=2, rate=24, volume=8000)
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    assert (await inspect_video(path)).problems == ()
    took = resource.getrusage(resource.RUSAGE_SELF).ru_utime - begun
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    with av.open(path) as container:
        frames = sum(1 for _ in container.decode(video=0))
    whole = resource.getrusage(resource.RUSAGE_SELF).ru_utime - begun
    assert frames == 48
    assert took < whole
    record_property("figure", f"inspecting 2 s of 1080p: {took:.2f} s of CPU; decoding {whole:.2f}")
