"""Free space, shared out among the downloads of this process.

Each download claims what it has yet to write, so that several of them do not count on the same
free space, and something always stays free for others, such as the journal of a batch.

Everything here blocks: it is for threads.
"""

from __future__ import annotations

import shutil
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# What must stay free. It is also much more than what all downloads are writing at one moment.
RESERVE_BYTES = 16 * 1024**2


class NoRoomError(Exception):
    """A disk has too little free space."""


class Room:
    """The claims on the disks of this machine."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: dict[object, tuple[int, int]] = {}  # of which disk, and how many bytes

    def claim(self, owner: object, folder: Path, missing: int, writing: int = 0) -> None:
        """Claim space in place of what the same owner has claimed before.

        Args:
            owner: Who claims it, and gives it back with :meth:`release`.
            folder: Where it will write.
            missing: How many bytes.
            writing: How many of them are written right after this, and then are no longer free.

        Raises:
            NoRoomError: There is not that much. The old claim is unchanged.
            OSError: The folder cannot be read.
        """
        device, free = folder.stat().st_dev, shutil.disk_usage(folder).free
        with self._lock:
            needed = missing + RESERVE_BYTES + self._of_others(owner, device)
            if free < needed:
                raise NoRoomError(f"{needed} more bytes are needed, {free} are free")
            self._claims[owner] = device, missing - writing

    def release(self, owner: object) -> None:
        """Give a claim back, if there is one."""
        with self._lock:
            self._claims.pop(owner, None)

    def _of_others(self, owner: object, device: int) -> int:
        claims = self._claims.items()
        return sum(size for other, (disk, size) in claims if other is not owner and disk == device)


# Disks belong to the machine, and so to all clients and event loops of this process.
ROOM = Room()
