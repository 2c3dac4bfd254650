"""A frame of a video as a picture."""

from __future__ import annotations

import os
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from kling_async._utils.files import replacing
from kling_async._utils.shielding import run_in_thread
from kling_async.errors import ConfigurationError
from kling_async.media.containers import (
    NO_FRAMES,
    find_video,
    import_av,
    is_truncated,
    open_video,
    stated_duration,
    to_seconds,
)

if TYPE_CHECKING:
    from types import ModuleType

    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream
    from PIL.Image import Image

FrameTime: TypeAlias = float | Literal["first", "last"]
"""Which frame: the first, the last, or the one at a time in seconds."""

_NAMED_TIMES: Final = {"first": 0.0, "last": inf}

# The formats of pictures by the suffixes of their names.
_FORMATS: Final = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}

# Of JPEG. The service makes videos of frames, so they are better than posters.
_POSTER_QUALITY: Final = 85
_FRAME_QUALITY: Final = 95

# The poster is the frame at this time, in seconds: the first ones are often faded in.
_POSTER_AT: Final = 1.0

# Decoding begins at the last key frame that is so many seconds before the frame: its place in the
# file is found by the time at which it is decoded, a few frames before it is shown.
_MARGIN: Final = 0.5


async def save_frame(
    video: str | os.PathLike[str], picture: str | os.PathLike[str], *, at: FrameTime
) -> None:
    """Save a frame of a video as a picture of the same size, for example the last one for a chain.

    An existing picture is replaced, by the complete new one. Only the part of the video before the
    frame is decoded, from the nearest key frame.

    Args:
        video: The video.
        picture: The picture: a PNG, which is lossless, or a JPEG, according to its suffix.
        at: ``"first"``, ``"last"``, or a time in seconds: the first frame at this time or later,
            or the last frame of a shorter video.

    Raises:
        ConfigurationError: The suffix is not ``.png``, ``.jpg`` or ``.jpeg``, or the time is
            invalid.
        MissingExtraError: The extra ``media`` is not installed.
        DownloadError: The video cannot be decoded, or its last frame is missing.
        OSError: A file cannot be read or written.
    """
    target = Path(picture)
    file_format = _FORMATS.get(target.suffix.lower())
    if file_format is None:
        raise ConfigurationError(f"a picture must be a .png or .jpg file, not {target.name!r}")
    time = _NAMED_TIMES.get(at) if isinstance(at, str) else at
    if not isinstance(time, int | float) or not time >= 0:
        raise ConfigurationError(f'at must be "first", "last" or a time in seconds, not {at!r}')
    await run_in_thread(
        lambda: _write_frame(Path(video), target, time, file_format, _FRAME_QUALITY)
    )


async def save_poster(video: str | os.PathLike[str], picture: str | os.PathLike[str]) -> None:
    """Save a frame of a video, about one second from its beginning, as a JPEG file.

    Raises:
        MissingExtraError: The extra ``media`` is not installed.
        DownloadError: The video cannot be decoded.
        OSError: A file cannot be read or written.
    """
    await run_in_thread(
        lambda: _write_frame(Path(video), Path(picture), _POSTER_AT, "JPEG", _POSTER_QUALITY)
    )


def _write_frame(path: Path, picture: Path, time: float, file_format: str, quality: int) -> None:
    image = _read_frame(import_av(), path, time)
    with replacing(picture) as file:
        image.save(file, file_format, quality=quality)
        file.flush()
        os.fsync(file.fileno())  # a chain relies on a frame that exists


def _read_frame(av: ModuleType, path: Path, time: float) -> Image:
    with open_video(av, path) as container:
        frame = _find_frame(container, find_video(container), time)
        # PyAV 15 regards a frame's own colours only if those of the result differ, and a picture
        # has none of these.
        image: Image = frame.to_image(dst_colorspace="ITU601")  # type: ignore[no-untyped-call]
        return image.rotate(frame.rotation, expand=True) if frame.rotation else image


def _find_frame(container: InputContainer, video: VideoStream, time: float) -> VideoFrame:
    """Return the first frame at a time or later, or the last one.

    Raises:
        ValueError: There are no frames, or the last one is missing.
    """
    start = to_seconds(video.start_time, video)
    duration = stated_duration(container, video)
    begin = min(time, duration) - _MARGIN
    if begin > 0 and video.time_base:
        container.seek(round((start + begin) / video.time_base), stream=video)
    latest: VideoFrame | None = None
    for frame in container.decode(video):
        latest = frame
        if frame.time is not None and frame.time - start >= time:
            break
    if latest is None:
        raise ValueError(NO_FRAMES)
    end = to_seconds((latest.pts or 0) + (latest.duration or 0), video) - start
    if time == inf and is_truncated(end, duration):
        raise ValueError("its end is missing")
    return latest
