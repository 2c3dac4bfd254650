"""Pictures and videos for the emulator: real ones with the extra ``emulator``, else a small clip.

Everything here is plain, blocking work: call it from a thread.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from attrs import frozen

_SMALL: Final = Path(__file__).parent.parent / "small.mp4"


@frozen
class Film:
    """What a video is made of: prepared pictures (0-2) and the prompt's text."""

    prompt: str
    duration: int
    aspect_ratio: str = "16:9"
    pictures: tuple[bytes, ...] = ()


class TooManyPixelsError(ValueError):
    """A picture that would take too much memory to decode."""


def can_render() -> bool:
    """Say whether PyAV and Pillow are installed."""
    return find_spec("av") is not None and find_spec("PIL") is not None


def small_video() -> bytes:
    """Give the clip that the package ships."""
    return _SMALL.read_bytes()


def prepare_picture(data: bytes) -> bytes:
    """Decode a picture, set it upright and make it small enough to keep.

    Raises ValueError for what cannot be decoded, `TooManyPixelsError` for what is too large to be.
    """
    from kling_async.testing.media.pictures import prepare

    return prepare(data)


def render(film: Film) -> bytes:
    """Make an MP4 (H.264, yuv420p, index first) of a film."""
    from kling_async.testing.media.encoder import encode
    from kling_async.testing.media.scenes import FPS, scene

    size, frames = scene(film)
    return encode(frames, size, FPS)
