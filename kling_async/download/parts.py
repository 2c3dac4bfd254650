"""Part files: what has come of a file so far, kept so that another try can go on with it.

While ``x.mp4`` is fetched, its bytes are in the hidden ``.x.mp4.part``, and ``.x.mp4.part.json``
notes whose bytes they are, how many are good, and their checksum. They are gone on with only if
the checksum is right. So neither a crash, a power cut nor a stranger's file can bring two
halves together that do not belong together, and nothing depends on what was written first.

A part in use is locked. A download that finds it taken uses the next of a few places, so two
downloads of one file disturb nobody; the one that is complete last gives the file. What is not
locked is stale: it is taken over by the next try, or removed once the file is complete. Without
locks (on Windows, and on some network file systems) a download has a part of its own, which can
be gone on with for as long as that download lasts.

Everything here blocks: it is for threads.
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

from attrs import field, frozen
from attrs.validators import instance_of, matches_re

from kling_async.download.files import alone_in, begins_with, give_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# RFC 9110, section 8.8.3: a weak one begins with W/ and says nothing about single bytes.
STRONG_ETAG = r'"[!#-~]+"'

# More downloads than this of one file, at one time, are somebody's mistake. They work all the same.
_PLACES = 4

# Bytes after which the note is renewed: what a killed process fetches again at the most.
_NOTE_BYTES = 4 * 1024**2

_READ_BYTES = 1024**2


@frozen
class _Note:
    """What a part file holds: ``size`` bytes with this checksum, of the ``total`` of an entity.

    ``source`` stands for the URL, and is a digest: URLs hold secrets.
    """

    source: str = field(validator=instance_of(str))
    etag: str = field(validator=matches_re(STRONG_ETAG))
    total: int = field(validator=instance_of(int))
    size: int = field(validator=instance_of(int))
    sha256: str = field(validator=instance_of(str))

    @classmethod
    def read(cls, path: Path) -> _Note | None:
        """Read a note; None if there is none that makes sense."""
        try:
            return cls(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError, RecursionError):
            return None


class Part:
    """What has come of one file.

    Args:
        path: The name that the file will have.
        source: What stands for its URL.

    Attributes:
        etag: The strong ETag of the entity that the bytes belong to, if it has one.
        total: The bytes of the whole entity, if known.
        size: The bytes that are there.
    """

    def __init__(self, path: Path, source: str) -> None:
        self._path = path
        self._source = source
        self._place = path
        self._file: FileIO | None = None
        self._shared = False  # the next download may go on with it
        self._finished = False
        self.reset()

    @property
    def resumable(self) -> bool:
        """Whether the rest can be asked for in a way that no other entity can answer."""
        return self.etag is not None and self.total is not None and 0 < self.size < self.total

    @property
    def stays(self) -> bool:
        """Whether it will be there for the next download."""
        return self._shared and self.resumable

    @property
    def sha256(self) -> str:
        """The checksum of the bytes that are there."""
        return self._digest.hexdigest()

    def open(self) -> None:
        """Take a part file that nobody else uses, and go on with what is good of it.

        Raises:
            OSError: There can be none in this folder.
        """
        for place in _places(self._path):
            self._file = _take(place, os.O_CREAT)
            if self._file is not None:
                self._place = place
                self._shared = True
                self._load()
                return
        self._place = self._path.with_name(f".{self._path.name}.{token_hex(8)}.part")
        self._file = FileIO(self._place, "x+", opener=_open)

    def reset(self) -> None:
        """Forget what has come: it is of no use."""
        self.etag: str | None = None
        self.total: int | None = None
        self.size: int = 0
        self._noted = 0
        self._digest = hashlib.sha256()

    def begin(self, etag: str | None, total: int | None) -> None:
        """Start anew, with this entity."""
        self.reset()
        self.etag, self.total = etag, total
        self._opened.truncate(0)

    def write(self, data: bytes | bytearray) -> None:
        """Append to what is there."""
        rest = memoryview(data)
        self._opened.seek(self.size)  # not where a write that failed has ended
        while rest:
            rest = rest[self._opened.write(rest) :]
        self._digest.update(data)
        self.size += len(data)
        if self.stays and self.size - self._noted >= _NOTE_BYTES:
            with suppress(OSError):  # without a note it is fetched again, which is no failure
                self._write_note()

    def sync(self) -> None:
        """Return when a power cut can no longer take the bytes away. Nothing more is written."""
        os.fsync(self._opened.fileno())
        if self._shared:
            _note_of(self._place).unlink(missing_ok=True)
        else:
            self._opened.close()  # Windows gives no open file another name

    def publish(self, path: Path, may_replace: Callable[[Path], bool]) -> bool:
        """Give the file a name, unless another file has it; to be called after :meth:`sync`.

        A file that is the beginning of this one, or the same, is replaced: it was cut off. No
        two processes can give one name at the same time, and so none can take away what another
        has just saved.

        Args:
            path: The name, in the same folder.
            may_replace: Whether the file that has the name now may be replaced.

        Returns:
            Whether the file has the name now.
        """
        # Named while the part is locked: else another download could take the place in between,
        # and would write to the finished file.
        with alone_in(path.parent) as folder:
            try:
                give_name(self._place, path)
            except FileExistsError:
                if not (begins_with(self._place, path) or may_replace(path)):
                    return False
                self._place.replace(path)
            self._finished = True
            with suppress(OSError):  # some systems open no folders
                os.fsync(folder)
        sweep(self._path)
        return True

    def close(self) -> None:
        """Leave what the next download can go on with; remove everything else."""
        if self._file is None:
            return
        if not self._shared:
            self._file.close()  # Windows removes no open file
        try:
            with suppress(OSError):  # there is a better error, or none is needed
                if self.stays and not self._finished:
                    self._write_note()
                elif not self._finished:
                    _remove(self._place)
        finally:
            self._file.close()  # and unlocks

    @property
    def _opened(self) -> FileIO:
        if self._file is None:
            raise ValueError("the part is not open")
        return self._file

    def _load(self) -> None:
        note = _Note.read(_note_of(self._place))
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
        note = {
            "source": self._source,
            "etag": self.etag,
            "total": self.total,
            "size": self.size,
            "sha256": self.sha256,
        }
        with FileIO(_note_of(self._place), "w", opener=_open) as file:
            file.write(json.dumps(note).encode())
        self._noted = self.size


def _places(path: Path) -> Iterator[Path]:
    """Give the places for parts that several downloads can share; none if nothing locks them."""
    if find_spec("fcntl") is not None:
        for number in range(1, _PLACES + 1):
            yield path.with_name(f".{path.name}{f'.{number}' if number > 1 else ''}.part")


def _note_of(place: Path) -> Path:
    return place.with_name(f"{place.name}.json")


def _open(path: str, flags: int) -> int:
    # A link is not followed: it could lead out of the folder.
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _take(place: Path, create: int = 0) -> FileIO | None:
    """Open and lock a part file; None if that cannot be, mostly because another has it."""
    import fcntl

    try:
        file = FileIO(place, "r+", opener=lambda path, flags: _open(path, flags | create))
    except OSError:
        return None
    held = twin = False
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(file.fileno())
        # The one who had it may have given it its final name just now.
        held = os.path.samestat(status, place.lstat())
        # Or its process has ended between giving that name and taking this one away.
        twin = held and status.st_nlink > 1
    if twin:
        place.unlink(missing_ok=True)
    if twin or not held:
        file.close()
    return _take(place, create) if twin else file if held else None


def _remove(place: Path) -> None:
    _note_of(place).unlink(missing_ok=True)
    place.unlink(missing_ok=True)


def sweep(path: Path) -> None:
    """Remove what killed downloads have left of a file that is complete."""
    for place in _places(path):
        if (file := _take(place)) is not None:
            with file, suppress(OSError):
                _remove(place)
