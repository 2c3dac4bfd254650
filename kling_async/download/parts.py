"""Part files: the bytes of a file that have arrived, kept so that another attempt can resume.

While ``x.mp4`` is fetched, its bytes are in the hidden ``.x.mp4.part``. ``.x.mp4.part.json``, the
note, has their entity, number and checksum. A part is resumed only if the checksum matches: after a
crash, a power cut or a change by another program, bytes of different entities are never joined.

A part in use is locked. A download that finds it locked uses the next of a few places; the one that
completes last provides the file. A part that is not locked is left from a download that ended: the
next attempt resumes it, or it is removed once the file is complete. Where files cannot be locked
(Windows, some network file systems) each download has a part of its own, which is removed when it
ends.

Everything here blocks: call it in threads.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from importlib.util import find_spec
from io import FileIO
from secrets import token_hex
from typing import TYPE_CHECKING

from attrs import asdict, field, frozen
from attrs.validators import instance_of, matches_re

from kling_async._utils.files import open_regular
from kling_async.download.files import (
    is_beginning,
    lock_folder,
    rename_exclusively,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# RFC 9110, section 8.8.3. A weak one begins with W/ and does not identify single bytes.
STRONG_ETAG = r'"[!#-~]+"'

# Downloads of one file, at one time, whose parts can be resumed. More of them work, too.
_PLACES = 4

# Bytes after which the note is rewritten: the most that a killed process has to fetch again.
_NOTE_INTERVAL = 4 * 1024**2

_READ_BYTES = 1024**2


@frozen
class _Note:
    """The content of a part: ``size`` bytes with this checksum, of the ``total`` of an entity.

    ``source`` is a digest of the URL, since URLs contain secrets.
    """

    source: str = field(validator=instance_of(str))
    etag: str = field(validator=matches_re(STRONG_ETAG))
    total: int = field(validator=instance_of(int))
    size: int = field(validator=instance_of(int))
    sha256: str = field(validator=instance_of(str))

    @classmethod
    def read(cls, path: Path) -> _Note | None:
        """Read a note; return None if it is missing or invalid."""
        try:
            with open_regular(path) as file:
                return cls(**json.loads(file.read()))
        except (OSError, ValueError, TypeError, RecursionError):
            return None


class Part:
    """The bytes of one file that have arrived.

    Args:
        path: The path that the file will have.
        source: A digest of its URL.

    Attributes:
        etag: The strong ETag of the entity that the bytes belong to, if it has one.
        total: The bytes of the whole entity, if known.
        size: The bytes that have arrived.
    """

    def __init__(self, path: Path, source: str) -> None:
        self._path = path
        self._source = source
        self._place = path
        self._file: FileIO | None = None
        self._shared = False  # later downloads may resume it
        self._published = False
        self.etag: str | None = None
        self.total: int | None = None
        self.size: int = 0
        self._noted = 0  # how much of it the note covers
        self._digest = hashlib.sha256()

    @property
    def resumable(self) -> bool:
        """Whether the rest can be requested so that no other entity is sent."""
        return self.etag is not None and self.total is not None and 0 < self.size < self.total

    @property
    def stays(self) -> bool:
        """Whether it is kept for the next download."""
        return self._shared and self.resumable

    @property
    def sha256(self) -> str:
        """The checksum of the bytes that have arrived."""
        return self._digest.hexdigest()

    def lock(self) -> None:
        """Open and lock a part file, and load what is valid of it."""
        for place in _shared_places(self._path):
            self._file = _lock(place, os.O_CREAT)
            if self._file is not None:
                self._place = place
                self._shared = True
                self._load()
                return
        self._place = self._path.with_name(f".{self._path.name}.{token_hex(8)}.part")
        self._file = FileIO(self._place, "x+", opener=_open_file)

    def reset(self, etag: str | None = None, total: int | None = None) -> None:
        """Discard the bytes that have arrived; those of this entity will follow."""
        self.etag, self.total = etag, total
        self.size = self._noted = 0
        self._digest = hashlib.sha256()

    def restart(self, etag: str | None, total: int | None) -> None:
        """Discard the bytes that have arrived, also on the disk, and continue with this entity."""
        self.reset(etag, total)
        self._opened.truncate(0)

    def write(self, data: bytes | bytearray) -> None:
        """Append bytes."""
        rest = memoryview(data)
        self._opened.seek(self.size)  # a write that failed may have moved the position
        while rest:
            rest = rest[self._opened.write(rest) :]
        self._digest.update(data)
        self.size += len(data)
        if self.stays and self.size - self._noted >= _NOTE_INTERVAL:
            with suppress(OSError):  # without a note the bytes are fetched again: no failure
                self._write_note()

    def sync(self) -> None:
        """Flush the bytes to the disk, safe from a power cut. No write may follow."""
        os.fsync(self._opened.fileno())
        if self._shared:
            _note_path(self._place).unlink(missing_ok=True)
        else:
            self._opened.close()  # Windows does not rename open files

    def publish(self, path: Path, may_replace: Callable[[Path], bool]) -> bool:
        """Give the file its name, unless another file has it; call :meth:`sync` first.

        A file that is the beginning of this one, or the same, is replaced: it was cut off. No two
        processes rename at the same time, so none replaces what another has just saved.

        ``may_replace`` decides about any other file that has the name. Returns whether this file
        has it now.
        """
        # The part stays locked until then. Otherwise another download could lock it in between
        # and write to the finished file.
        with lock_folder(path.parent) as folder:
            try:
                rename_exclusively(self._place, path)
            except FileExistsError:
                if not (is_beginning(path, self._place) or may_replace(path)):
                    return False
                self._place.replace(path)
            self._published = True
            with suppress(OSError):  # some systems cannot open folders
                os.fsync(folder)
        remove_stale(self._path)
        return True

    def close(self) -> None:
        """Keep what the next download can resume; remove everything else."""
        if self._file is None:
            return
        if not self._shared:
            self._file.close()  # Windows does not remove open files
        try:
            with suppress(OSError):  # there is a better error, or none is needed
                if self.stays and not self._published:
                    self._write_note()
                elif not self._published:
                    _remove(self._place)
        finally:
            self._file.close()  # and unlock

    @property
    def _opened(self) -> FileIO:
        if self._file is None:
            raise ValueError("the part is not open")
        return self._file

    def _load(self) -> None:
        note = _Note.read(_note_path(self._place))
        if note is None or note.source != self._source:
            return
        digest, left = hashlib.sha256(), note.size
        while left > 0 and (data := self._opened.read(min(left, _READ_BYTES))):
            digest.update(data)
            left -= len(data)
        if left == 0 and digest.hexdigest() == note.sha256:
            self.etag, self.total = note.etag, note.total
            self.size = self._noted = note.size
            self._digest = digest
            self._opened.truncate(self.size)

    def _write_note(self) -> None:
        note = _Note(self._source, self.etag or "", self.total or 0, self.size, self.sha256)
        with FileIO(_note_path(self._place), "w", opener=_open_file) as file:
            file.write(json.dumps(asdict(note)).encode())
        self._noted = self.size


def remove_stale(path: Path) -> None:
    """Remove the parts that killed downloads have left of a file that is complete."""
    for place in _shared_places(path):
        if (file := _lock(place)) is not None:
            with file, suppress(OSError):
                _remove(place)


def _shared_places(path: Path) -> Iterator[Path]:
    """Yield the paths of parts that several downloads can use; none if files cannot be locked."""
    if find_spec("fcntl") is not None:
        for number in range(1, _PLACES + 1):
            yield path.with_name(f".{path.name}{f'.{number}' if number > 1 else ''}.part")


def _note_path(place: Path) -> Path:
    return place.with_name(f"{place.name}.json")


def _open_file(path: str, flags: int) -> int:
    # Links are not followed: they could lead out of the folder.
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _lock(place: Path, create: int = 0) -> FileIO | None:
    """Open and lock a part file; return None if that fails, mostly because it is in use."""
    import fcntl

    try:
        file = FileIO(place, "r+", opener=lambda path, flags: _open_file(path, flags | create))
    except OSError:
        return None
    held = linked = False
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(file.fileno())
        # The download that held the lock may have published the file just now.
        held = os.path.samestat(status, place.lstat())
        # Or its process was killed after publishing it and before removing this name.
        linked = held and status.st_nlink > 1
    if linked:
        place.unlink(missing_ok=True)
    if linked or not held:
        file.close()
    return _lock(place, create) if linked else file if held else None


def _remove(place: Path) -> None:
    _note_path(place).unlink(missing_ok=True)
    place.unlink(missing_ok=True)
