from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kling_async.download.room import RESERVE_BYTES, NoRoomError, Room


def test_claims_add_up(tmp_path: Path) -> None:
    """What one has claimed and not written yet is not free for another."""
    room = Room()
    half = shutil.disk_usage(tmp_path).free * 6 // 10
    room.claim("one", tmp_path, half)
    room.claim("one", tmp_path, half)  # the same once more
    with pytest.raises(NoRoomError, match=r"\d+ more bytes are needed, \d+ are free"):
        room.claim("two", tmp_path, half)
    room.claim("one", tmp_path, half, writing=half)
    room.claim("two", tmp_path, half)
    room.release("two")
    room.release("two")
    room.claim("three", tmp_path, half)


def test_the_reserve_stays_free(tmp_path: Path) -> None:
    """Nobody gets the last of the free space."""
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(NoRoomError):
        Room().claim("one", tmp_path, free - RESERVE_BYTES + 4 * 1024**2)


def test_other_disks(tmp_path: Path) -> None:
    """What is claimed on one disk is free on another."""
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one disk only")
    room = Room()
    room.claim("one", tmp_path, shutil.disk_usage(tmp_path).free * 9 // 10)
    room.claim("two", other, 1000)
