"""The journal of a batch in a SQLite file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar, cast

from kling_async.errors import JournalError
from kling_async.journal.base import Claim, Entry, ItemState, Planned, Summary, Transition
from kling_async.journal.sqlite import _rows as _sqlite_rows
from kling_async.journal.sqlite._file import complaining, reading, writing
from kling_async.journal.writer import TOLD, Writer

if TYPE_CHECKING:
    import os
    import sqlite3
    from types import TracebackType

_T = TypeVar("_T")

# Calls in one transaction. More would save little.
GROUP = TOLD

# Entries that are read at a time.
PAGE = 500


class SqliteJournal:
    """A :class:`~kling_async.journal.base.Journal` in a SQLite file.

    All of SQLite happens in one thread of its own. Who calls while a commit is under way joins
    the next one, so that the disk is waited for once for all of them. Beside the file SQLite
    keeps a log (``-wal``, ``-shm``), and the lock against a second batch (``-lock``, empty) stays.
    The file must be on a local disk: network file systems do not lock well enough.

    Args:
        path: The file. It and its folder are made if they do not exist.
        read_only: Only look, also while a batch is writing. Writes and makes nothing, and is
            content with a file or folder that may not be written.

    Raises:
        JournalError: On entering: the file is in use by another batch, or cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self._path = Path(path)
        self._read_only = read_only
        self._writer = Writer(str(self._path), self._commit, most=GROUP)
        self._held = ExitStack()  # the connection and the lock
        self._db: sqlite3.Connection  # for writing
        self._standing: _sqlite_rows.Standing = {}

    def __repr__(self) -> str:
        return f"<SqliteJournal {self._path}>"

    async def __aenter__(self) -> Self:
        await self._writer.start(self._open, self._held.close)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def plan(self, items: Sequence[Planned]) -> list[Entry]:
        """Write those items that are new, and return all, in the order given, as they stand.

        Raises:
            JournalError: A key is there already with another input, or the journal cannot be
                written. Nothing was written.
        """
        return await self._write(partial(_sqlite_rows.Commit.plan, items=tuple(items)))

    async def record(self, *moves: Transition) -> None:
        """Write moves, all or none; they are durable when this returns.

        If the caller is cancelled meanwhile, they are written all the same.

        Raises:
            ConflictError: An item is not in the state, or the attempt, that its move expects.
                Nothing was written.
            JournalError: An item is not known, a move is illegal, or the journal cannot be
                written. Nothing was written.
        """
        await self._write(partial(_sqlite_rows.Commit.record, moves=moves))

    @property
    def shared(self) -> bool:
        """Never: the file is locked while a batch has it open."""
        return False

    async def claim(self, *entries: Entry) -> list[Claim]:
        """Return all as they are: there is no other worker."""
        return [Claim(entry) for entry in entries]

    async def peek(self, *entries: Entry) -> list[Claim]:
        """Return all as they are, too."""
        return [Claim(entry) for entry in entries]

    async def release(self, *keys: str, ended: bool = False) -> None:
        """Do nothing: nobody else could take them."""

    async def entries(self, *states: ItemState) -> AsyncIterator[Entry]:
        """Go through the items in these states, or all, in the order in which they were planned.

        Items may move meanwhile: each comes at most once, as it stands when its page is read.

        Raises:
            JournalError: The journal cannot be read.
        """
        last, wanted = 0, tuple(dict.fromkeys(states))
        while True:
            last, page = await self._read(
                partial(_sqlite_rows.page, states=wanted, after=last, size=PAGE)
            )
            for entry in page:
                yield entry
            if len(page) < PAGE:
                return

    async def summary(self) -> Summary:
        """Count the items, and the submits that may have cost money.

        Raises:
            JournalError: The journal cannot be read.
        """
        return await self._read(_sqlite_rows.summary)

    async def history(self, key: str) -> list[Transition]:
        """Return every move of an item, the planning included, oldest first.

        Raises:
            JournalError: There is no such item, or the journal cannot be read.
        """
        return await self._read(partial(_sqlite_rows.history, key=key))

    async def close(self) -> None:
        """Write what was handed in, then close the file. The second time does nothing."""
        await self._writer.stop(self._held.close)

    async def _write(self, call: Callable[[_sqlite_rows.Commit], _T]) -> _T:
        if self._read_only:
            raise JournalError(f"the journal {self._path} was opened for reading only")
        return cast("_T", await self._writer.write(call))

    async def _read(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        return await self._writer.run(partial(self._ask, query))

    # What follows runs in the thread.

    def _commit(self, calls: list[_sqlite_rows.Call]) -> list[object]:
        return self._ask(partial(_sqlite_rows.commit, calls=calls, standing=self._standing))

    def _open(self) -> None:
        if self._read_only:
            self._ask(lambda _: None)
            return
        self._db = self._held.enter_context(writing(self._path))
        with complaining(self._path):
            _sqlite_rows.give_up_sending(self._db)
        self._standing.clear()

    def _ask(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        """Put a question to the file, or a group of calls."""
        if self._read_only:
            with reading(self._path) as db:
                return query(db)
        with complaining(self._path):
            return query(self._db)
