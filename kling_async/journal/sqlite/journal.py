"""The journal of a batch in a SQLite file."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kling_async.journal.base import Claim
from kling_async.journal.sqlite._file import (
    open_to_read,
    open_to_write,
    path_errors,
    sqlite_errors,
)
from kling_async.journal.sqlite._rows import (
    Progress,
    SqliteChanges,
    commit_calls,
    mark_interrupted,
    read_history,
    read_page,
    read_summary,
)
from kling_async.journal.threaded import CALLERS_PER_ITERATION, ThreadedJournal

if TYPE_CHECKING:
    import os
    import sqlite3
    from collections.abc import Iterator, Sequence

    from kling_async.journal.base import Entry, ItemState, Summary, Transition
    from kling_async.journal.calls import Call


class SqliteJournal(ThreadedJournal[SqliteChanges]):
    """A :class:`~kling_async.journal.base.Journal` in a SQLite file.

    SQLite runs in a thread of its own. Calls that arrive during a commit are committed together,
    so that all of them wait for the disk once. SQLite keeps a log beside the file (``-wal``,
    ``-shm``), and the lock that excludes a second batch (``-lock``, empty) remains there. The file
    must be on a local disk: the locks of network file systems are not reliable.

    Args:
        path: The file. It and its folder are created if they do not exist.
        read_only: Only read, also while a batch is writing. Nothing is written or created, and the
            file and its folder need not be writable.

    Raises:
        JournalError: On entering: the file is in use by another batch, or cannot be used.
    """

    shared = False
    """The file is locked while a batch has it open."""

    _calls_per_commit = CALLERS_PER_ITERATION  # more would save little

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self._path = Path(path)
        super().__init__(str(self._path), read_only=read_only)
        self._resources = ExitStack()  # the connection and the lock
        self._db: sqlite3.Connection | None = None  # for writing
        self._progress: Progress = {}

    async def claim(self, *entries: Entry) -> list[Claim]:
        """Return the entries as they are: there is no other worker."""
        return [Claim(entry) for entry in entries]

    async def peek(self, *entries: Entry) -> list[Claim]:
        """Return the entries as they are."""
        return [Claim(entry) for entry in entries]

    async def release(self, *keys: str, ended: bool = False) -> None:
        """Do nothing: there is no other worker."""

    def _open(self) -> None:
        if self._read_only:
            with self._open_database():
                return
        self._db = self._resources.enter_context(open_to_write(self._path))
        with sqlite_errors(self._path):
            mark_interrupted(self._db)
        self._progress.clear()

    def _close(self) -> None:
        self._resources.close()
        self._db = None

    def _commit(self, calls: list[Call[SqliteChanges]]) -> list[object]:
        with self._open_database() as db:
            return commit_calls(db, calls, self._progress)

    def _read_page(self, states: Sequence[ItemState], after: int) -> tuple[int, list[Entry]]:
        with self._open_database() as db:
            return read_page(db, states, after)

    def _read_summary(self) -> Summary:
        with self._open_database() as db:
            return read_summary(db)

    def _read_history(self, key: str) -> list[Transition]:
        with self._open_database() as db:
            return read_history(db, key)

    @contextmanager
    def _open_database(self) -> Iterator[sqlite3.Connection]:
        if self._db is None:
            with open_to_read(self._path) as db:
                yield db
        else:
            with sqlite_errors(self._path):
                yield self._db


def has_content(path: Path) -> bool:
    """Return whether there is a file at a path that is not empty. Blocks.

    Raises:
        JournalError: The path cannot be read.
    """
    with path_errors(path):
        return path.exists() and path.stat().st_size > 0
