"""Make kling_async/testing/small.mp4: python tests/testing/make_small_video.py.

Needs the extra "emulator". This is the clip that an emulator without the extra serves.
"""

from __future__ import annotations

from pathlib import Path

from kling_async.testing.media.encoder import encode
from kling_async.testing.media.film import Film
from kling_async.testing.media.scenes import FPS, scene

PATH = Path(__file__).parents[2] / "kling_async" / "testing" / "small.mp4"


def main() -> None:
    """Make it."""
    size, frames = scene(Film(prompt="A video from the emulator", duration=3), longest_side=320)
    PATH.write_bytes(encode(frames, size, FPS, crf=30))
    print(f"{PATH.name}: {PATH.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
