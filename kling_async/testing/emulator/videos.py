"""What the first bytes and the header of a video say: whether it is one, and how long it is."""

from __future__ import annotations

import struct
from typing import Final

MAX_SECONDS: Final = 30.0

# The header, and in it, after a version and flags: times, the time scale, and the duration in it.
_HEADER: Final = b"mvhd"
_FIELDS: Final = {0: ">4x8xII", 1: ">4x16xIQ"}


def is_video(data: bytes) -> bool:
    """Return whether a file is MP4, MOV or M4V, which begin in the same way."""
    return data[4:8] == b"ftyp"


def video_seconds(data: bytes) -> float | None:
    """Return the length of a video by its header, or None if it has no readable one."""
    start = data.find(_HEADER) + len(_HEADER)
    if start < len(_HEADER) or start >= len(data) or data[start] not in _FIELDS:
        return None
    try:
        scale, duration = struct.unpack_from(_FIELDS[data[start]], data, start)
    except struct.error:
        return None
    return duration / scale if scale else None
