from __future__ import annotations

import struct

import pytest

from kling_async.testing.emulator.videos import is_video, video_seconds
from kling_async.testing.media.film import SMALL_VIDEO

SMALL = SMALL_VIDEO.read_bytes()


def header(version: int, scale: int, duration: int) -> bytes:
    """Return the start of a video with a header."""
    layout = {0: ">4x8xII", 1: ">4x16xIQ"}[version]
    fields = bytearray(struct.pack(layout, scale, duration))
    fields[0] = version
    return b"\0\0\0\x08ftyp....mvhd" + bytes(fields)


def test_first_bytes() -> None:
    """MP4, MOV and M4V have the same beginning; an image has not."""
    assert is_video(SMALL)
    assert not is_video(b"\xff\xd8\xff")
    assert not is_video(b"")


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        (header(0, 1000, 30_000), 30.0),
        (header(1, 600, 600 * 40), 40.0),
        (header(0, 0, 5), None),
        (header(0, 1000, 5)[:-1], None),
        (b"mvhd", None),
        (b"mvhd\x07" + b"\0" * 40, None),
        (b"nothing", None),
    ],
)
def test_lengths(data: bytes, seconds: float | None) -> None:
    """The length is that of the header, in both of its versions; a damaged one says nothing."""
    assert video_seconds(data) == seconds


def test_length_of_a_video() -> None:
    """The header of a real video says how long it is."""
    assert 0.5 < (video_seconds(SMALL) or 0.0) < 30
