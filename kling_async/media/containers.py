"""Opens video files with PyAV.

Files come from the network: only containers for video are opened, and a file can refer to no other
one.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from kling_async._utils.extras import missing_extra
from kling_async._utils.files import open_regular
from kling_async.errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    from av.container import InputContainer
    from av.video.stream import VideoStream

_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm",
}

# A frame of a size that no model makes is not decoded: it may need any amount of memory.
_MOST_PIXELS = 8192 * 4320

# A container counts its duration in so many parts of a second.
_CONTAINER_UNITS = 1_000_000

NO_FRAMES = "it has no frames"

# A file is truncated if so many seconds at its end are missing.
_MISSING = 0.25


def import_av() -> ModuleType:
    """Return PyAV; raise MissingExtraError if the extra is not installed."""
    try:
        import av
        import PIL.Image  # noqa: F401 - for pictures; the extra has both
    except ImportError:
        raise missing_extra("media", "inspecting videos needs PyAV and Pillow") from None
    return av


def open_container(av: ModuleType, path: Path) -> InputContainer:
    """Return an open file.

    Raises:
        OSError: The file does not exist, is a pipe, or is not readable for this user.
        FFmpegError: PyAV's. It is no video.
    """
    with open_regular(path):
        pass  # PyAV's errors do not show which of the two it is
    # Metadata that are not UTF-8: PyAV 19 has no parameter for them, and replaces what is wrong.
    old = hasattr(av.container.Container, "metadata_errors")
    metadata = {"metadata_errors": "replace"} if old else {}
    container: InputContainer = av.open(str(path.absolute()), options=_OPTIONS, **metadata)
    return container


@contextmanager
def open_video(av: ModuleType, path: Path) -> Iterator[InputContainer]:
    """Open a file.

    Raises:
        DownloadError: The block raises an error of PyAV, or a `ValueError` with the reason why the
            file cannot be decoded. It names the file.
    """
    try:
        with open_container(av, path) as container:
            yield container
    except (av.FFmpegError, ValueError) as error:  # PyAV's own: sound that changes its form
        raise DownloadError(f"cannot decode {path}: {error}", retryable=False) from None


def find_video(container: InputContainer) -> VideoStream:
    """Return the pictures of a file; raise `ValueError` if they cannot be decoded."""
    video = next(iter(container.streams.video), None)
    if (
        video is None
        or video.codec_context is None  # of an unknown codec
        or not 0 < video.width * video.height <= _MOST_PIXELS
    ):
        raise ValueError(NO_FRAMES)
    return video


def stated_duration(container: InputContainer, video: VideoStream) -> float:
    """Return the length that a file states, in seconds; 0 if it states none."""
    if video.duration is not None:
        return to_seconds(video.duration, video)
    return (container.duration or 0) / _CONTAINER_UNITS


def is_truncated(end: float, duration: float) -> bool:
    """Return whether a file that states a duration ends too early."""
    return end < duration - _MISSING


def to_seconds(units: int | None, video: VideoStream) -> float:
    """Return a time of a stream in seconds; 0 if it is unknown."""
    return float((units or 0) * (video.time_base or 0))
