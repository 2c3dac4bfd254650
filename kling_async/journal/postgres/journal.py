"""The journal of a batch in a PostgreSQL database, which several workers may share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Self, TypeVar, cast

from kling_async.errors import ConfigurationError, JournalError, copy_for_waiter
from kling_async.journal.address import Address
from kling_async.journal.base import (
    Claim,
    Entry,
    ItemState,
    LostError,
    Planned,
    Summary,
    Transition,
)
from kling_async.journal.postgres import (
    _rows as _postgres_rows,
)
from kling_async.journal.postgres import (
    _schema as _postgres_schema,
)
from kling_async.journal.postgres import (
    _workers as _postgres_workers,
)
from kling_async.journal.postgres._group import Call, Group, Look, Plan, Record, Release, Take
from kling_async.journal.postgres._link import Link
from kling_async.journal.postgres._watch import longest
from kling_async.journal.writer import Writer

if TYPE_CHECKING:
    from types import TracebackType

    from kling_async.journal.postgres._link import Connection
    from kling_async.journal.postgres._workers import Worker, WorkerSession

_T = TypeVar("_T")

_log = logging.getLogger("kling_async")

# Seconds for which a worker that is not heard of keeps what it has in hand.
LEASE = 60.0

# How often in that time it says that it lives.
_BEATS = 4

# Calls in one transaction. It takes two round trips, however many they are.
GROUP = 200

# Entries that are read at a time.
PAGE = 500


class _NoJournalError(JournalError):
    """There is no batch of that name."""


class PostgresJournal:
    """A :class:`~kling_async.journal.base.Journal` in a PostgreSQL database.

    Any number of workers, on any machines, may have a batch open. Each has its items in hand as
    long as it is heard of, by the server's clock; one that was not heard of for too long writes
    nothing any more. The tables are made when they are missing.

    There is one connection, in a thread of its own, and whoever calls while a transaction is under
    way joins the next one: the network and the disk of the server are waited for once for all of
    them. If the connection is lost, another is made, and what was under way is looked up before it
    is done again; after half the lease without the server everybody is told.

    Args:
        url: The database, as libpq takes it: ``postgresql://user@host/database?batch=foxes``. What
            the URL does not say is taken from where libpq looks, such as ``PGPASSWORD`` or
            ``~/.pgpass``.
        name: The name of the batch in that database, if it is not in the URL. Without either it
            is ``default``.
        lease: Seconds after which a worker that is not heard of has lost its items to the others.
        read_only: Only look: be no worker, and make nothing.

    Raises:
        ConfigurationError: The URL, the name or the lease makes no sense.
        JournalError: On entering: the database cannot be used, or is that of a newer version.
        MissingExtraError: On import: the driver is not installed.
    """

    def __init__(
        self, url: str, *, name: str | None = None, lease: float = LEASE, read_only: bool = False
    ) -> None:
        if not 0 < lease < float("inf"):
            raise ConfigurationError(f"a lease must be a number of seconds, not {lease!r}")
        self._address = Address.parse(url, name)
        self._lease = lease
        self._read_only = read_only
        self._link = Link(
            self._address, read_only=read_only, patience=lease / 2, longest=longest(lease)
        )
        self._writer = Writer(str(self._address), self._commit, most=GROUP)
        self._beating: asyncio.Task[None] | None = None
        self._lost: LostError | None = None
        # What follows is known once it is open.
        self._batch: int
        self._me: WorkerSession | None = None
        self._numbers = count(1)

    def __repr__(self) -> str:
        return f"<PostgresJournal {self._address}>"

    def __str__(self) -> str:
        return str(self._address)

    async def __aenter__(self) -> Self:
        await self._writer.start(self._open, self._close)
        self._lost = None
        if not self._read_only:
            self._beating = asyncio.create_task(self._beat())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def shared(self) -> bool:
        """Always."""
        return True

    async def plan(self, items: Sequence[Planned]) -> list[Entry]:
        """Write those items that are new, and return all, in the order given, as they stand.

        Raises:
            JournalError: A key is there already with another input, or the journal cannot be
                written. Nothing was written.
        """
        return cast("list[Entry]", await self._write(Plan(tuple(items))))

    async def record(self, *moves: Transition) -> None:
        """Write moves, all or none; they are durable when this returns.

        If the caller is cancelled meanwhile, they are written all the same. An item that nobody
        has in hand is claimed by that.

        Raises:
            ConflictError: An item is not in the state, or the attempt, that its move expects.
                Nothing was written.
            JournalError: An item is not known or in the hand of another worker, this worker has
                lost what it had, a move is illegal, or the journal cannot be written. Nothing was
                written.
        """
        await self._write(Record(moves))

    async def claim(self, *entries: Entry) -> list[Claim]:
        """Take items in hand, those that no other worker has; tell of each how it stands now.

        Of those that another has, the entries may come back as they were given. Without any it is
        asked whether this worker still has what it had.

        Raises:
            LostError: This worker has lost what it had.
            JournalError: The journal cannot be written.
        """
        return cast("list[Claim]", await self._write(Take(entries)))

    async def peek(self, *entries: Entry) -> list[Claim]:
        """Tell what would become of a claim, and of each item how it stands now.

        Raises:
            JournalError: As :meth:`claim`.
        """
        return cast("list[Claim]", await self._write(Look(entries)))

    async def release(self, *keys: str, ended: bool = False) -> None:
        """Let go of items; see :meth:`Journal.release`.

        Raises:
            JournalError: As :meth:`claim`.
        """
        await self._write(Release(keys, ended))

    async def entries(self, *states: ItemState) -> AsyncIterator[Entry]:
        """Go through the items in these states, or all, in the order in which they were planned.

        Items may move meanwhile: each comes at most once, as it stands when its page is read.

        Raises:
            JournalError: The journal cannot be read.
        """
        last, wanted = 0, tuple(dict.fromkeys(states))
        while True:
            last, page = await self._read(
                partial(_postgres_rows.page, states=wanted, after=last, size=PAGE)
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
        return await self._read(_postgres_rows.summary)

    async def history(self, key: str) -> list[Transition]:
        """Return every move of an item, the planning included, oldest first.

        Raises:
            JournalError: There is no such item, or the journal cannot be read.
        """
        return await self._read(partial(_postgres_rows.history, key=key))

    async def workers(self) -> list[Worker]:
        """Return those who have the batch open, the oldest first.

        Raises:
            JournalError: The journal cannot be read.
        """
        return await self._read(_postgres_workers.workers)

    async def close(self) -> None:
        """Write what was handed in, let go of everything, and disconnect; twice does no harm.

        A server that does not answer is not waited for longer than a few seconds.
        """
        beating, self._beating = self._beating, None
        if beating is not None:
            beating.cancel()
        self._link.hurry()
        try:
            await self._writer.stop(self._close)
        finally:
            # That of a loop that has ended has ended with it.
            if beating is not None and beating.get_loop() is asyncio.get_running_loop():
                await asyncio.wait((beating,))

    async def _write(self, call: Call) -> object:
        if self._read_only:
            raise JournalError(f"the journal {self._address} was opened for reading only")
        if self._lost is not None:
            raise copy_for_waiter(
                self._lost
            )  # of its own: one may add to it what concerns its item
        return await self._writer.write(call)

    async def _read(self, query: Callable[[Connection, int], _T]) -> _T:
        return await self._writer.run(lambda: self._link.do(lambda db: query(db, self._batch)))

    async def _beat(self) -> None:
        """Say from time to time that this worker lives, and take the items of those that do not."""
        while True:
            await asyncio.sleep(self._lease / _BEATS)
            try:
                await self._writer.run(self._renew)
            except LostError as error:  # it stays so: whoever writes next is told
                _log.warning("%s", error)
                self._lost = error
                return
            except JournalError as error:  # whoever writes next is told, if it is still so
                _log.warning("%s", error)

    # What follows runs in the thread.

    def _open(self) -> None:
        self._link.take_time()
        self._link.do(self._find if self._read_only else self._join)

    def _find(self, db: Connection) -> None:
        batch = None
        if _postgres_schema.check(db, self._address):
            batch = _postgres_workers.find_batch(db, self._address.batch)
        if batch is None:
            raise _NoJournalError(f"there is no journal {self._address}")
        self._batch = batch

    def _join(self, db: Connection) -> None:
        _postgres_schema.make(db, self._address)
        self._me = _postgres_workers.join(db, self._address.batch, self._lease)
        self._batch = self._me.batch

    def _renew(self) -> None:
        assert self._me is not None  # noqa: S101 - it is open
        self._link.do(partial(_postgres_workers.renew, me=self._me))

    def _commit(self, calls: list[Call]) -> list[object]:
        assert self._me is not None  # noqa: S101 - it is open
        return self._link.do(Group(self._me, calls, next(self._numbers)))

    def _close(self) -> None:
        me, self._me = self._me, None
        try:
            if me is not None:
                with suppress(JournalError):  # then the others wait until it is not heard of
                    self._link.do(partial(_postgres_workers.leave, me=me), patience=1.0)
        finally:
            self._link.close()


async def exists(url: str) -> bool:
    """Whether there is a batch of that name in the database.

    Raises:
        JournalError: The database cannot be used.
    """
    journal = PostgresJournal(url, read_only=True)
    try:
        async with journal:
            return True
    except _NoJournalError:
        return False
