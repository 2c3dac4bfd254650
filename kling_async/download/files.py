"""Files on disk: what they contain, how they get their names, and how much space is free.

Everything here blocks: call it in threads. A file that cannot be read or written is an `OSError`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from kling_async._utils.files import format_os_error, open_regular
from kling_async._utils.text import format_size
from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Bytes from the beginning of a file that are examined. Pages may begin with comments.
HEAD_BYTES = 512

# Bytes that stay free on a disk, for other files such as the journal of a batch. Also much more
# than all downloads write at one moment.
RESERVE_BYTES = 16 * 1024**2

_READ_BYTES = 1024**2

_TEXT_TYPE = re.compile(
    r"text/.*|application/(?:(?:.*\+)?(?:json|xml)|xhtml|javascript)|multipart/.*"
)

# How text begins after a byte order mark and white space.
_TEXT_BEGINNINGS = (
    ("HTML or XML", re.compile(rb"<[A-Za-z!?/]")),
    ("JSON", re.compile(rb'\{\s*(?:["}]|\Z)|\[\s*(?:[\[{"\]\-0-9tfn]|\Z)')),
)
_BLANK = re.compile(rb"(?:\xef\xbb\xbf|\xff\xfe|\xfe\xff)?\s*")

# How the usual videos and pictures begin.
_MEDIA_BEGINNING = re.compile(
    rb".{4}(?:ftyp|moov|mdat|wide|free|skip)|\x1aE\xdf\xa3|\x89PNG|\xff\xd8\xff|GIF8|RIFF.{4}WEBP",
    re.DOTALL,
)


class NoSpaceError(Exception):
    """A disk has too little free space."""

    def __init__(self, needed: int, free: int) -> None:
        super().__init__(f"{format_size(needed)} more are needed, {format_size(free)} are free")


def non_media_kind(content_type: str, head: bytes) -> str | None:
    """Return what a file is if it cannot be a video or a picture, such as "JSON"; else None.

    A gateway, a login page or an object store may respond with 200 and text. Anything else is
    accepted: formats change, and hosts send any content type for a video.

    Args:
        content_type: The content type of the response, if any.
        head: Its first :data:`HEAD_BYTES`, or all of it.
    """
    if not head:
        return "empty"
    # In UTF-16, every other byte of such text is a null.
    text = head.replace(b"\0", b"") if head[:2] in {b"\xff\xfe", b"\xfe\xff"} else head
    blank = _BLANK.match(text)
    for kind, pattern in _TEXT_BEGINNINGS:
        if blank is not None and pattern.match(text, blank.end()):
            return kind
    kind = content_type.partition(";")[0].strip().lower()
    # Some hosts give text/plain for every file: a known beginning proves the contrary.
    return kind if _TEXT_TYPE.fullmatch(kind) and not _MEDIA_BEGINNING.match(head) else None


def is_spoiled(path: Path) -> bool:
    """Return whether a file cannot be a video: it is empty, or text that was saved as one."""
    return non_media_kind("", _read_head(path)) is not None


def is_media(path: Path) -> bool:
    """Return whether a file begins as the usual videos and pictures do."""
    return _MEDIA_BEGINNING.match(_read_head(path)) is not None


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_complete(path: Path) -> tuple[int, str] | None:
    """Return the size and the SHA-256 of a file, or None if it is missing or spoiled."""
    try:
        return None if is_spoiled(path) else (path.stat().st_size, checksum(path))
    except FileNotFoundError:
        return None


def is_beginning(path: Path, whole: Path) -> bool:
    """Return whether a file is the beginning of another one: cut off, empty, or the same."""
    try:
        with open_regular(path) as part, whole.open("rb") as file:
            while data := part.read(_READ_BYTES):
                if data != file.read(len(data)):
                    return False
    except FileNotFoundError:  # a dangling link
        return True
    except OSError:  # a folder, or a file of another user
        return False
    return True


def rename_exclusively(source: Path, target: Path) -> None:
    """Rename a file; `FileExistsError` if the new name is taken."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # no hard links on this file system: reserve the name first
        target.open("xb").close()
        try:
            source.replace(target)
        except OSError:
            target.unlink(missing_ok=True)
            raise
    else:
        source.unlink()


@contextmanager
def lock_folder(path: Path) -> Iterator[int]:
    """Lock a folder against other processes, if the system supports it; yield its descriptor."""
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


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Create a folder, with its parents, and check that files can be created in it.

    A disk may be slow: call it in a thread, as in ``asyncio.to_thread(check_folder, folder)``.

    Args:
        folder: Where files will be saved. It exists when this returns.

    Raises:
        ConfigurationError: It cannot be created or written to.
    """
    try:
        path = Path(folder)
    except TypeError as error:
        raise ConfigurationError(f"the folder must be a path: {error}") from None
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path, prefix=".kling-"):
            pass
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = format_os_error(error)
        raise ConfigurationError(f"cannot save files to {path}: {reason}") from None


class DiskSpace:
    """Space that downloads have reserved, so that no two of them rely on the same free space."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reserved: dict[object, tuple[int, int]] = {}  # by owner: the device, and bytes

    def reserve(self, owner: object, folder: Path, missing: int) -> None:
        """Reserve the bytes that are missing, in place of what this owner has reserved before.

        If there is too little space, `NoSpaceError` is raised and the old reservation is unchanged.
        """
        device = folder.stat().st_dev
        with self._lock:
            free = shutil.disk_usage(folder).free  # with what others have reserved and not written
            needed = missing + RESERVE_BYTES
            for other, (disk, size) in self._reserved.items():
                if other is not owner and disk == device:
                    needed += size
            if free < needed:
                raise NoSpaceError(needed, free)
            self._reserved[owner] = device, missing

    def written(self, owner: object, size: int) -> None:
        """Note that an owner has written some of the bytes: they are no longer free."""
        with self._lock:
            device, missing = self._reserved[owner]
            self._reserved[owner] = device, missing - size

    def release(self, owner: object) -> None:
        """Release a reservation, if there is one."""
        with self._lock:
            self._reserved.pop(owner, None)


# Disks are shared by all clients and event loops of a process.
DISK_SPACE = DiskSpace()


def _read_head(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read(HEAD_BYTES)
