"""Files that have their names: what they hold, and how a name is given that no other file has.

Everything here blocks: it is for threads.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from kling_async.download.content import HEAD_BYTES, is_media, not_media

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_READ_BYTES = 1024**2


def look(path: Path) -> tuple[int, str] | None:
    """Return size and checksum of a file that is complete, or None if there is none.

    Raises:
        OSError: It cannot be read.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        if not_media("", file.read(HEAD_BYTES)) is not None:
            return None
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def checksum(path: Path) -> str:
    """Return the checksum of a file.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_spoiled(path: Path) -> bool:
    """Whether a file that can be read is no video: empty, or a page that was saved as one.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return not_media("", file.read(HEAD_BYTES)) is not None


def is_known(path: Path) -> bool:
    """Whether a file begins as the usual videos and pictures do.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return is_media(file.read(HEAD_BYTES))


def begins_with(whole: Path, path: Path) -> bool:
    """Whether a file is the beginning of another one: cut off, empty, or the same."""
    try:
        with path.open("rb") as part, whole.open("rb") as file:
            while data := part.read(_READ_BYTES):
                if data != file.read(len(data)):
                    return False
    except FileNotFoundError:  # a link that leads nowhere
        return True
    except OSError:  # a folder, or a file of another user
        return False
    return True


def give_name(place: Path, path: Path) -> None:
    """Give a file a name that no file has.

    Raises:
        FileExistsError: A file has it.
    """
    try:
        os.link(place, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links: its own name is taken first
        path.open("xb").close()
        try:
            place.replace(path)
        except OSError:
            path.unlink(missing_ok=True)
            raise
    else:
        place.unlink()


@contextmanager
def alone_in(path: Path) -> Iterator[int]:
    """Let one process at a time give names in a folder, as far as the system locks folders."""
    try:
        folder = os.open(path, os.O_RDONLY)
    except OSError:
        yield -1
        return
    try:
        with suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(folder, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(folder)
