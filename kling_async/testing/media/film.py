"""What a video shows, and the parts that need no extra."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from attrs import frozen

SMALL_VIDEO: Final = Path(__file__).parent.parent / "small.mp4"
"""The clip that serves for every task without the extra ``emulator``."""


@frozen
class Film:
    """What a video shows: prepared pictures (0-2) and the prompt's text."""

    prompt: str
    duration: int
    aspect_ratio: str = "16:9"
    pictures: tuple[bytes, ...] = ()


class TooManyPixelsError(ValueError):
    """A picture that would need too much memory to decode."""


def can_render() -> bool:
    """Whether the packages of the extra ``emulator`` are installed: PyAV and Pillow."""
    return find_spec("av") is not None and find_spec("PIL") is not None
