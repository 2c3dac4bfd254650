"""Joins videos into one file."""

from __future__ import annotations

import asyncio
import os
from fractions import Fraction
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, cast

from kling_async._utils.files import replacing
from kling_async._utils.shielding import await_uncancelled
from kling_async.errors import ConfigurationError
from kling_async.media.clips import read_clip, read_parts
from kling_async.media.containers import import_av
from kling_async.media.tracks import CopiedPictures, EncodedPictures, Sound, have_same_form

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import ModuleType

    from av.audio.frame import AudioFrame
    from av.container import OutputContainer

    from kling_async.media.clips import Clip, EncodedPacket, Picture


class _Stopped(Exception):  # noqa: N818 - it is no error
    """The caller was cancelled, and does not read this."""


async def join_videos(
    videos: Iterable[str | os.PathLike[str]], target: str | os.PathLike[str]
) -> None:
    """Join videos into one MP4, in their order.

    If all of them are H.264 with the same parameters, as clips of one model and one size are, their
    frames are copied without loss. Otherwise they are encoded again, as H.264 with the size and the
    frame rate of the first one; others are made to fit, with black bars where the ratio differs.

    Sound is encoded again, as AAC, so that it begins and ends with the frames of its video. Videos
    without sound are silent; if none has sound, the file has none either.

    This runs in a thread. If it is cancelled, it ends soon, and leaves an existing target as it is.

    Args:
        videos: The paths of the videos. One path may occur several times.
        target: The path of the MP4. An existing file is replaced, when the new one is complete.

    Raises:
        ConfigurationError: There are no videos, or a path in place of them.
        MissingExtraError: The extra ``media`` is not installed.
        DownloadError: A video cannot be decoded, or its end is missing. The message names it.
        OSError: A file cannot be read or written.
    """
    if isinstance(videos, str | os.PathLike):
        raise ConfigurationError(f"videos must be several paths, not {os.fspath(videos)!r}")
    paths = [Path(path) for path in videos]
    if not paths:
        raise ConfigurationError("there are no videos to join")
    stop = Event()
    job = asyncio.get_running_loop().run_in_executor(None, _join, paths, Path(target), stop)
    try:
        await asyncio.wait((job,))
    finally:
        stop.set()  # for the case that the caller was cancelled
        await await_uncancelled(asyncio.gather(job, return_exceptions=True))
    job.result()


def _join(paths: list[Path], target: Path, stop: Event) -> None:
    av, clips = import_av(), []
    for path in paths:
        clips.append(read_clip(av, path))
        _check_stop(stop)
    with replacing(target) as part:
        try:
            # By its name: PyAV opens it once more to move the index to its beginning.
            with av.open(part.name, "w", format="mp4", options={"movflags": "+faststart"}) as file:
                for packet in _packets(av, clips, file):
                    file.mux(packet)
                    _check_stop(stop)
        except av.FFmpegError as error:  # of the target: those of the videos are DownloadErrors
            raise OSError(error.errno, error.strerror, str(target)) from None
        os.fsync(part.fileno())


def _check_stop(stop: Event) -> None:
    if stop.is_set():
        raise _Stopped


def _packets(av: ModuleType, clips: list[Clip], file: OutputContainer) -> Iterator[EncodedPacket]:
    """Yield the packets of the joined file."""
    copying = have_same_form(clips)
    pictures = (
        CopiedPictures(av, file, clips[0]) if copying else EncodedPictures(av, file, clips[0])
    )
    sound = Sound(av, file) if any(clip.has_sound for clip in clips) else None
    start = Fraction(0)
    for clip in clips:
        end = start + clip.length
        pictures.begin(clip, start)
        for part in read_parts(av, clip, decoding=not copying):
            if sound is not None and isinstance(part, av.AudioFrame):
                samples = cast("AudioFrame", part)
                yield from sound.add(samples, start - clip.start, end)
            else:
                yield from pictures.add(cast("Picture", part))
        yield from pictures.end_clip()
        if sound is not None:
            yield from sound.fill(end)
        start = end
    yield from pictures.flush()
    if sound is not None:
        yield from sound.flush()
