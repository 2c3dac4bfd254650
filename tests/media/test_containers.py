from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from kling_async.batch.options import BatchOptions
from kling_async.errors import DownloadError, MissingExtraError
from kling_async.media import inspect_video, join_videos
from kling_async.media.containers import find_video, import_av, is_truncated, open_video
from tests.media.videos import make_video, moving

if TYPE_CHECKING:
    from pathlib import Path


def test_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PyAV, the option is refused before anything is sent."""
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"inspecting videos.*media"):
        BatchOptions(manifest="media")


@pytest.mark.parametrize(
    "data",
    [
        b"<html>not found</html>",
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile '/etc/hostname'\n",
    ],
    ids=["page", "playlist", "list of files"],
)
def test_other_files(data: bytes, tmp_path: Path) -> None:
    """Only containers for video are opened. An error names the file."""
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    with (
        pytest.raises(DownloadError, match=r"cannot decode .*a\.mp4") as caught,
        open_video(import_av(), path),
    ):
        raise AssertionError
    assert not caught.value.retryable


async def test_metadata(tmp_path: Path) -> None:
    """Metadata that are not UTF-8 do no harm."""
    path = make_video(tmp_path / "a.mp4", moving(), seconds=0.5)
    path.write_bytes(path.read_bytes().replace(b"VideoHandler", b"Video\xffandler"))
    assert (await inspect_video(path)).problems == ()
    await join_videos([path], tmp_path / "b.mp4")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe(tmp_path: Path) -> None:
    """A pipe is an error at once: opening it would wait for a writer."""
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(OSError, match="regular"), open_video(import_av(), tmp_path / "a.mp4"):
        raise AssertionError


def test_missing_file(tmp_path: Path) -> None:
    """A file that does not exist is an OSError."""
    with pytest.raises(FileNotFoundError), open_video(import_av(), tmp_path / "a.mp4"):
        raise AssertionError


def test_pictures(tmp_path: Path) -> None:
    """The pictures of a file are its first video stream, unless their codec is unknown."""
    av = import_av()
    path = make_video(tmp_path / "a.mp4", moving(), seconds=0.5)
    with open_video(av, path) as container:
        video = find_video(container)
        assert video is container.streams.video[0]
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(DownloadError, match="no frames"), open_video(av, path) as container:
        find_video(container)


def test_truncated() -> None:
    """A quarter of a second may be missing: containers round."""
    assert is_truncated(4.7, 5.0)
    assert not is_truncated(4.8, 5.0)
    assert not is_truncated(4.8, 0.0)  # the file states no length
