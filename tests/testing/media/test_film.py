from __future__ import annotations

import io

import av

from kling_async.testing.media.film import SMALL_VIDEO, can_render


def test_the_extra_is_installed_here() -> None:
    """The tests render."""
    assert can_render()


def test_the_small_video_plays() -> None:
    """The clip that is shipped is a short H.264 of a few kilobytes with its index in front."""
    video = SMALL_VIDEO.read_bytes()
    assert len(video) < 20_000
    assert video.index(b"moov") < video.index(b"mdat")
    with av.open(io.BytesIO(video), "r") as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.frames == 72
