"""Frames to an MP4 that every browser plays."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import av

from kling_async.testing.media.scenes import FPS, scene

if TYPE_CHECKING:
    from collections.abc import Iterable

    from PIL import Image

    from kling_async.testing.media.film import Film


def render(film: Film) -> bytes:
    """Render a film as an MP4 (H.264, yuv420p, index first). Blocks: call it in a thread."""
    size, frames = scene(film)
    return encode(frames, size, FPS)


def encode(
    frames: Iterable[Image.Image], size: tuple[int, int], fps: int, *, crf: int = 23
) -> bytes:
    """Encode RGB frames of one even size as H.264 in an MP4 whose index comes first."""
    # The index can only be moved to the front in a file that can be opened again.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "film.mp4")
        with av.open(path, "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=fps)
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            stream.options = {"preset": "veryfast", "crf": str(crf)}
            for image in frames:
                frame: av.VideoFrame = av.VideoFrame.from_image(image)  # type: ignore[no-untyped-call]
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path.read_bytes()
