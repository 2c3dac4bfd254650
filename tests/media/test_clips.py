from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import pytest

from kling_async.errors import DownloadError
from kling_async.media import clips
from kling_async.media.clips import clip_form, read_clip, read_parts
from kling_async.media.containers import import_av, open_video
from tests.media.videos import make_video, moving, noise, packet_place, turn

if TYPE_CHECKING:
    from pathlib import Path

av = import_av()

REORDERED = {"x264-params": "bframes=3:b-adapt=0"}


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_facts(container: str, tmp_path: Path) -> None:
    """The times of a clip are those at which its frames are shown."""
    path = make_video(
        tmp_path / "a", moving(), seconds=2, volume=90, container=container, codec=REORDERED
    )
    clip = read_clip(av, path)
    assert (clip.size, clip.rate, clip.has_sound) == ((96, 54), Fraction(12), True)
    assert clip.start == 0
    assert abs(clip.length - 2) < Fraction(1, 500)


def test_equal_forms(tmp_path: Path) -> None:
    """Clips of one encoder and one size have the same form, whatever they show."""
    one = read_clip(av, make_video(tmp_path / "a.mp4", moving(), seconds=1))
    other = read_clip(av, make_video(tmp_path / "b.mp4", noise((96, 54)), seconds=2, volume=90))
    assert one.form
    assert one.form == other.form
    for size, codec in (((128, 72), None), ((96, 54), {"bf": "0"}), ((96, 54), REORDERED)):
        path = make_video(tmp_path / "c.mp4", moving(size), seconds=1, codec=codec)
        assert read_clip(av, path).form not in {(), one.form}


def test_turned(tmp_path: Path) -> None:
    """A clip that is stored sideways has no form: its frames have to be turned."""
    turn(path := make_video(tmp_path / "a.mp4", moving(), seconds=0.5))
    clip = read_clip(av, path)
    assert (clip.size, clip.form) == ((54, 96), ())


def test_unusual_times(tmp_path: Path) -> None:
    """Frames whose times of decoding are unknown cannot be copied. A wrong rate is not used."""
    path = make_video(
        tmp_path / "a.mkv", moving(), seconds=0.5, container="matroska", codec=REORDERED
    )
    assert read_clip(av, path).form == ()
    path = make_video(tmp_path / "a.mp4", moving(), seconds=0.05, rate=300)
    assert read_clip(av, path).rate == 24


@pytest.mark.parametrize("decoded", [(0, 1, 1), (0, None, 2), (0, 2, 3)])
def test_other_order(decoded: tuple[int | None, ...], tmp_path: Path) -> None:
    """A clip has no form if its times of decoding do not increase, or exceed its length."""
    path = make_video(tmp_path / "a.mp4", moving(), seconds=0.5)
    times: list[tuple[int, int | None, int | None]] = [
        (number, dts, 1) for number, dts in enumerate(decoded)
    ]
    with open_video(av, path) as container:
        video = container.streams.video[0]
        assert clip_form(video, [(0, 0, 1), (1, 1, 1), (2, 2, 1)], 3) != ()
        assert clip_form(video, times, 3) == ()


def test_lead(tmp_path: Path) -> None:
    """Clips whose frames are decoded earlier before they are shown have another form."""
    path = make_video(tmp_path / "a.mp4", moving(), seconds=0.5)
    with open_video(av, path) as container:
        video = container.streams.video[0]
        forms = {clip_form(video, [(0, -lead, 1), (1, 1 - lead, 1)], 2) for lead in range(3)}
    assert len(forms) == 3


def test_parts(tmp_path: Path) -> None:
    """The parts are frames, decoded or not, and samples of one form."""
    path = make_video(tmp_path / "a.mp4", moving(), seconds=1, volume=90)
    clip = read_clip(av, path)
    for kind, decoding in ((av.Packet, False), (av.VideoFrame, True)):
        parts = list(read_parts(av, clip, decoding=decoding))
        samples = [part for part in parts if isinstance(part, av.AudioFrame)]
        assert len([part for part in parts if isinstance(part, kind)]) == 12
        assert {(frame.sample_rate, frame.layout.name) for frame in samples} == {(48000, "stereo")}
        assert abs(sum(frame.samples for frame in samples) / 48000 - 1) < 0.2


def test_truncated(tmp_path: Path) -> None:
    """A clip whose end is missing is not joined."""
    path = make_video(tmp_path / "a.mp4", moving(), seconds=2)
    path.write_bytes(path.read_bytes()[: packet_place(path, 12)])
    with pytest.raises(DownloadError, match=r"a\.mp4: its end is missing"):
        read_clip(av, path)


@pytest.mark.parametrize("codec", [b"avc1", b"zzzz"])
def test_no_frames(codec: bytes, tmp_path: Path) -> None:
    """A clip without frames is not joined."""
    path = make_video(tmp_path / "a.mp4", moving(), seconds=1)
    data = path.read_bytes()[: packet_place(path, 0)]
    path.write_bytes(data.replace(b"avc1", codec))
    with pytest.raises(DownloadError, match=r"a\.mp4: it has no frames"):
        read_clip(av, path)


@pytest.mark.parametrize("name", ["_LONGEST", "_MOST_FRAMES"])
def test_too_long(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clip is at most an hour long, and not more frames of it are read."""
    path = make_video(tmp_path / "a.mp4", moving(), seconds=2)
    monkeypatch.setattr(clips, name, 1)
    with pytest.raises(DownloadError, match=r"a\.mp4: it is longer than"):
        read_clip(av, path)
