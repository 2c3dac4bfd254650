"""The journal of a batch in a SQLite file."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from copy import copy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar, cast

from kling_async._threads import to_its_end
from kling_async.errors import JournalError
from kling_async.journal import Entry, ItemState, Move, Planned, Summary, _sqlite_rows
from kling_async.journal._sqlite_file import complaining, reading, writing

if TYPE_CHECKING:
    import os
    import sqlite3
    from types import TracebackType

__all__ = ["SqliteJournal"]

_T = TypeVar("_T")

# Calls in one transaction. More would save little, and all their callers go on in one turn of
# the loop when it is committed.
GROUP = 50

# Entries that are read at a time.
PAGE = 500


class SqliteJournal:
    """A :class:`~kling_async.journal.Journal` in a SQLite file.

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
        self._thread: ThreadPoolExecutor | None = None
        self._held = ExitStack()  # the connection and the lock
        self._db: sqlite3.Connection  # for writing
        self._waiting: deque[tuple[_sqlite_rows.Call, asyncio.Future[object]]] = deque()
        self._committing = False
        self._standing: _sqlite_rows.Standing = {}

    def __repr__(self) -> str:
        return f"<SqliteJournal {self._path}>"

    async def __aenter__(self) -> Self:
        if self._thread is not None:
            raise JournalError(f"the journal {self._path} is open already")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kling-journal")
        try:
            await self._in_thread(self._open)
        except BaseException:  # also if cancelled: the thread closes what it has opened by then
            await self.close()
            raise
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

    async def record(self, *moves: Move) -> None:
        """Write moves, all or none; they are durable when this returns.

        If the caller is cancelled meanwhile, they are written all the same.

        Raises:
            JournalError: An item is not known, a move is illegal, or the journal cannot be
                written. Nothing was written.
        """
        await self._write(partial(_sqlite_rows.Commit.record, moves=moves))

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

    async def history(self, key: str) -> list[Move]:
        """Return every move of an item, the planning included, oldest first.

        Raises:
            JournalError: There is no such item, or the journal cannot be read.
        """
        return await self._read(partial(_sqlite_rows.history, key=key))

    async def close(self) -> None:
        """Write what was handed in, then close the file. The second time does nothing."""
        thread = self._thread
        if thread is None:
            return
        self._commit(len(self._waiting))
        closing = self._in_thread(self._held.close)  # after the commits: there is one thread
        self._thread = None
        try:
            await to_its_end(closing)
        finally:
            thread.shutdown()

    async def _write(self, call: Callable[[_sqlite_rows.Commit], _T]) -> _T:
        if self._read_only:
            raise JournalError(f"the journal {self._path} was opened for reading only")
        self._opened()
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, future))
        if not self._committing:
            self._commit(GROUP)
        return cast("_T", await future)

    async def _read(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        return await self._in_thread(self._ask, query)

    def _commit(self, most: int) -> None:
        """Commit so many of the calls that are waiting."""
        group = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        if group:
            self._committing = True
            # A bare future, not a task: nobody can cancel it, not even a loop that is ending.
            job = self._in_thread(
                self._ask,
                partial(_sqlite_rows.commit, calls=[c for c, _ in group], standing=self._standing),
            )
            job.add_done_callback(partial(self._committed, [future for _, future in group]))

    def _committed(
        self, callers: list[asyncio.Future[object]], job: asyncio.Future[list[object]]
    ) -> None:
        """Tell each caller what became of its call; go on with those who came meanwhile."""
        self._committing = False
        self._commit(GROUP)
        error = job.exception()
        # Each gets an error of its own: one may add to it what concerns its item.
        answers = [copy(error) for _ in callers] if error is not None else job.result()
        for caller, answer in zip(callers, answers, strict=True):
            if caller.done():
                continue  # it was cancelled
            if isinstance(answer, BaseException):
                caller.set_exception(answer)
            else:
                caller.set_result(answer)

    def _opened(self) -> ThreadPoolExecutor:
        if self._thread is None:
            raise JournalError(f"the journal {self._path} is not open: use it in `async with`")
        return self._thread

    def _in_thread(self, job: Callable[..., _T], *args: object) -> asyncio.Future[_T]:
        return asyncio.get_running_loop().run_in_executor(self._opened(), job, *args)

    # What follows runs in the thread.

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
