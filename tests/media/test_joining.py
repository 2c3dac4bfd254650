from __future__ import annotations

import asyncio
import resource
from typing import TYPE_CHECKING

import pytest

from kling_async.errors import ConfigurationError, DownloadError
from kling_async.media import inspect_video, join_videos
from tests.media.videos import frames_of, make_video, moving, noise, packet_place, ramp

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

REORDERED = {"x264-params": "bframes=3:b-adapt=0"}


def packets_of(path: Path) -> list[bytes]:
    """Return the encoded frames of a video."""
    import av

    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


async def test_copied(tmp_path: Path) -> None:
    """Frames of equal clips are copied without loss, and shown one after another."""
    one = make_video(tmp_path / "a.mp4", ramp(20), seconds=1, codec=REORDERED)
    two = make_video(tmp_path / "b.mp4", ramp(100), seconds=0.5, codec=REORDERED)
    target = tmp_path / "film.mp4"
    target.write_text("old")
    await join_videos([one, str(two), one], target)
    assert packets_of(target) == packets_of(one) + packets_of(two) + packets_of(one)
    frames = frames_of(target)
    shades = [shade for path in (one, two, one) for _, shade in frames_of(path)]
    assert frames == [(round(number / 12, 3), shade) for number, shade in enumerate(shades)]
    assert len(list(tmp_path.iterdir())) == 3


async def test_encoded(tmp_path: Path) -> None:
    """Other clips get the size and the rate of the first one, and keep their lengths."""
    one = make_video(tmp_path / "a.mp4", ramp(40), seconds=1)
    two = make_video(tmp_path / "b.mp4", noise((64, 64)), seconds=0.5, rate=25)
    await join_videos([one, two, one], target := tmp_path / "film.mp4")
    facts = await inspect_video(target)
    assert (facts.duration, facts.width, facts.height, facts.frame_rate) == (2.5, 96, 54, 12.0)
    frames = frames_of(target)
    assert [time for time, _ in frames] == [round(number / 12, 3) for number in range(30)]
    shades = [shade for _, shade in frames_of(one)]
    for found in (frames[:12], frames[18:]):
        for (_, shade), wanted in zip(found, shades, strict=True):
            assert abs(shade - wanted) <= 4


@pytest.mark.slow
@pytest.mark.parametrize("encoded", [False, True])
async def test_sound(*, encoded: bool, tmp_path: Path) -> None:
    """The sound of a clip is where its frames are; clips without sound are silent."""
    loud = make_video(tmp_path / "a.mp4", moving(), seconds=1, volume=9000)
    mute = make_video(tmp_path / "b.mp4", moving((128, 72) if encoded else (96, 54)), seconds=1.5)
    await join_videos([mute, loud, mute, loud, mute], target := tmp_path / "film.mp4")
    assert (await inspect_video(target)).has_sound
    samples = samples_of(target)
    assert loud_times(samples) == [(1.5, 2.5), (4.0, 5.0)]
    assert abs(len(samples) / 48000 - 6.5) < 0.03


def samples_of(path: Path) -> list[int]:
    """Return the samples of a video, 48,000 for each second."""
    import av

    samples: list[int] = []
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=48000)
        for frame in container.decode(audio=0):
            for piece in resampler.resample(frame):
                samples += memoryview(bytes(piece.planes[0])).cast("h")[: piece.samples]
    return samples


def loud_times(samples: list[int]) -> Iterable[tuple[float, float]]:
    """Return where samples are not silent, in tenths of seconds."""
    tenths = [max(map(abs, samples[n : n + 2400])) > 3000 for n in range(1200, len(samples), 4800)]
    edges = [n for n in range(1, len(tenths) + 1) if [*tenths, False][n] != tenths[n - 1]]
    return [(begin / 10, end / 10) for begin, end in zip(edges[::2], edges[1::2], strict=True)]


@pytest.mark.parametrize("videos", ["a.mp4", []])
async def test_invalid(videos: str | list[str], tmp_path: Path) -> None:
    """One path, or none, is not several."""
    with pytest.raises(ConfigurationError, match=r"several paths, not 'a\.mp4'|no videos to join"):
        await join_videos(videos, tmp_path / "film.mp4")


async def test_undecodable(tmp_path: Path) -> None:
    """A clip that cannot be decoded is named, and an existing target is as it was."""
    good = make_video(tmp_path / "a.mp4", moving(), seconds=1)
    target = tmp_path / "film.mp4"
    target.write_text("old")
    (bad := tmp_path / "b.mp4").write_text("<html>not found</html>")
    with pytest.raises(DownloadError, match=r"cannot decode .*b\.mp4"):
        await join_videos([good, bad], target)
    # Its frames after the first one are damaged, which is seen while they are encoded.
    make_video(bad, noise((64, 64)), seconds=1)
    data, place = bad.read_bytes(), packet_place(bad, 6)
    bad.write_bytes(data[:place] + b"\xff" * 200 + data[place + 200 :])
    with pytest.raises(DownloadError, match=r"cannot decode .*b\.mp4"):
        await join_videos([good, bad], target)
    with pytest.raises(FileNotFoundError):
        await join_videos([good, tmp_path / "c.mp4"], target)
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 3


async def test_target_that_cannot_be_written(tmp_path: Path) -> None:
    """If the target cannot be written, that is an OSError which names it, or its folder."""
    clip = make_video(tmp_path / "a.mp4", moving(), seconds=0.5)
    with pytest.raises(FileNotFoundError, match="none"):
        await join_videos([clip], tmp_path / "none" / "film.mp4")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, usual[1]))  # as on a full disk
    try:
        with pytest.raises(OSError, match=r"too large.*film\.mp4"):
            await join_videos([clip], tmp_path / "film.mp4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert list(tmp_path.iterdir()) == [clip]


async def test_cancelled(tmp_path: Path) -> None:
    """A cancelled call ends its thread, and leaves nothing behind."""
    clip = make_video(tmp_path / "a.mp4", moving(), seconds=0.5)
    task = asyncio.create_task(join_videos([clip] * 5000, tmp_path / "film.mp4"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(tmp_path.iterdir()) == [clip]
