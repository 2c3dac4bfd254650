"""The journal of a batch in a PostgreSQL database, which several workers may share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar

from kling_async._utils.extras import missing_extra
from kling_async._utils.numbers import is_number
from kling_async.errors import ConfigurationError, JournalError, copy_for_waiter
from kling_async.journal.address import Address
from kling_async.journal.base import ItemState, LostError
from kling_async.journal.serialization import DamageError
from kling_async.journal.threaded import KEY, ThreadedJournal

try:
    import psycopg

    from kling_async._postgres.connection import ConnectionManager, timeout_for_lease
    from kling_async._postgres.errors import UnreachableError, explain_error
    from kling_async.journal.postgres._commit import GroupCommit, PostgresChanges
    from kling_async.journal.postgres._late_references import record_late
    from kling_async.journal.postgres._rows import read_history, read_page, read_summary
    from kling_async.journal.postgres._schema import Database, create_tables, has_tables
    from kling_async.journal.postgres._workers import (
        WorkerInfo,
        WorkerSession,
        find_batch,
        join_batch,
        leave_batch,
        read_workers,
        renew_lease,
    )
except ImportError as _error:
    raise missing_extra("postgres", "a journal on PostgreSQL needs another package") from _error

if TYPE_CHECKING:
    from kling_async._postgres.transaction import Connection
    from kling_async.journal.base import Claim, Entry, Summary, Transition
    from kling_async.journal.calls import Call

_T = TypeVar("_T")

_log = logging.getLogger("kling_async")

# Seconds after which a worker that does not renew its lease loses its items.
LEASE = 60.0

# How often in a lease it is renewed.
_RENEWALS = 4

# Seconds for an answer, and to leave the batch, when the journal is closed.
_CLOSING_TIMEOUT = 2.0
_CLOSING_PATIENCE = 1.0


class _NoBatchError(JournalError):
    """There is no batch of that name."""


class PostgresJournal(ThreadedJournal[PostgresChanges]):
    """A :class:`~kling_async.journal.base.Journal` in a PostgreSQL database.

    Any number of workers, on any machines, may have a batch open. Each has a lease, by the server's
    clock, which it renews. A worker whose lease has expired loses its items to the others, and
    writes nothing any more. The tables are created if they do not exist.

    There is one connection. Calls that arrive during a transaction are committed in the next one,
    together, so that all of them wait for the network and the server's disk once. If the connection
    is lost, another one is made, and a transaction is repeated unless it was committed. After half
    a lease without the server the calls raise an error.

    The connection belongs to an event loop in a thread of its own: transactions neither wait for
    the caller's loop nor end with it. What a caller has passed is written even if its loop ends.

    Args:
        url: The database, as libpq takes it: ``postgresql://user@host/database?batch=foxes``.
            What the URL does not contain is taken from where libpq looks for it, such as
            ``PGPASSWORD`` or ``~/.pgpass``.
        name: The name of the batch in that database, if the URL does not contain it. Without both
            it is ``default``.
        lease: Seconds after which a worker that does not renew its lease loses its items.
        read_only: Only read: do not become a worker, and create nothing.

    Raises:
        ConfigurationError: The URL, the name or the lease is invalid.
        JournalError: On entering: the database cannot be used, or its tables are those of a newer
            version.
        MissingExtraError: On import: the driver is not installed.
    """

    shared = True
    """Other workers may have the batch open."""

    _calls_per_commit = 200  # in two round trips, however many they are

    def __init__(
        self, url: str, *, name: str | None = None, lease: float = LEASE, read_only: bool = False
    ) -> None:
        if not is_number(lease) or lease <= 0:
            raise ConfigurationError(f"a lease must be a number of seconds, not {lease!r}")
        self._address = Address.parse(url, name)
        super().__init__(str(self._address), read_only=read_only)
        self._lease = lease
        self._connection = ConnectionManager(
            self._address.conninfo,
            timeout=timeout_for_lease(lease),
            patience=lease / 2,
            read_only=read_only,
        )
        self._resources = ExitStack()  # the runner and the connection, in the thread
        self._runner: asyncio.Runner | None = None
        self._batch = 0
        self._session: WorkerSession | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._lost: LostError | None = None

    def __str__(self) -> str:
        return str(self._address)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._lost = None
        if not self._read_only:
            self._renewing = asyncio.create_task(self._renew_lease())
        return self

    async def record(self, *transitions: Transition) -> None:
        """Write transitions, all or none; see :meth:`.Journal.record`.

        The reference of a task is recorded even if this worker's lease has expired.
        """
        try:
            await super().record(*transitions)
        except LostError:
            proven = transitions[0]
            if len(transitions) > 1 or proven.state is not ItemState.SUBMITTED:
                raise
            if not await self._run(partial(self._record_late, proven)):
                raise

    async def claim(self, *entries: Entry) -> list[Claim]:
        """Claim items; see :meth:`.Journal.claim`.

        Without entries this checks that the lease has not expired.
        """
        keys = [*map(KEY, entries)]
        return await self._write(keys, lambda changes: list(map(changes.claim, entries)))

    async def peek(self, *entries: Entry) -> list[Claim]:
        """Return what :meth:`claim` would return, without claiming anything."""
        keys = [*map(KEY, entries)]
        return await self._write(
            keys, lambda changes: [changes.claim(entry, peek=True) for entry in entries]
        )

    async def release(self, *keys: str, ended: bool = False) -> None:
        """Release items; see :meth:`.Journal.release`."""
        await self._write(keys, lambda changes: changes.release(keys, ended=ended))

    async def workers(self) -> list[WorkerInfo]:
        """Return the workers that have the batch open, oldest first."""
        return await self._run(lambda: self._run_work(partial(read_workers, batch=self._batch)))

    async def close(self) -> None:
        """Write all calls, release everything, and disconnect, within a few seconds."""
        renewing, self._renewing = self._renewing, None
        if renewing is not None:
            renewing.cancel()
        if self._runner is not None:
            with suppress(RuntimeError):  # it is being closed
                loop = self._runner.get_loop()
                loop.call_soon_threadsafe(self._connection.hurry, _CLOSING_TIMEOUT)
        try:
            await super().close()
        finally:
            # The task of a loop that has ended has ended with it.
            if renewing is not None and renewing.get_loop() is asyncio.get_running_loop():
                await asyncio.wait((renewing,))

    async def _write(self, keys: Sequence[str], apply: Callable[[PostgresChanges], _T]) -> _T:
        if self._lost is not None:
            raise copy_for_waiter(self._lost)  # a copy, to which the caller may add a note
        return await super()._write(keys, apply)

    async def _renew_lease(self) -> None:
        """Renew the lease now and then, and release the items of expired workers."""
        while True:
            await asyncio.sleep(self._lease / _RENEWALS)
            try:
                await self._run(self._renew)
            except LostError as error:  # for good: later calls raise it
                _log.warning("%s", error)
                self._lost = error
                return
            except JournalError as error:  # later calls raise it, if it lasts
                _log.warning("%s", error)

    # The following methods run in the thread.

    def _open(self) -> None:
        runner = asyncio.Runner(debug=False, loop_factory=asyncio.SelectorEventLoop)
        self._runner = self._resources.enter_context(runner)
        self._resources.callback(lambda: runner.run(self._connection.close()))
        self._connection.hurry(None)
        # A server that was never reached is not waited for: the URL may be wrong.
        self._run_work(self._find if self._read_only else self._join, patience=0.0)

    async def _find(self, db: Database) -> None:
        batch = None
        if await has_tables(db, self._address):
            batch = await find_batch(db, self._address.batch)
        if batch is None:
            raise _NoBatchError(f"there is no journal {self._address}")
        self._batch = batch

    async def _join(self, db: Database) -> None:
        await create_tables(db, self._address)
        self._session = await join_batch(db, self._address.batch, self._lease)
        self._batch = self._session.batch

    def _renew(self) -> None:
        assert self._session is not None  # noqa: S101 - it is open
        self._run_work(partial(renew_lease, session=self._session))

    def _commit(self, calls: list[Call[PostgresChanges]]) -> list[object]:
        assert self._session is not None  # noqa: S101 - it is open
        return self._run_work(GroupCommit(self._session, calls))

    def _record_late(self, transition: Transition) -> bool:
        return self._run_work(partial(record_late, batch=self._batch, transition=transition))

    def _read_page(self, states: Sequence[ItemState], after: int) -> tuple[int, list[Entry]]:
        return self._run_work(partial(read_page, batch=self._batch, states=states, after=after))

    def _read_summary(self) -> Summary:
        return self._run_work(partial(read_summary, batch=self._batch))

    def _read_history(self, key: str) -> list[Transition]:
        return self._run_work(partial(read_history, batch=self._batch, key=key))

    def _close(self) -> None:
        session, self._session = self._session, None
        try:
            if session is not None:
                with suppress(JournalError):  # then the items are released when the lease expires
                    self._run_work(
                        partial(leave_batch, session=session), patience=_CLOSING_PATIENCE
                    )
        finally:
            self._runner = None
            self._resources.close()

    def _run_work(
        self, work: Callable[[Database], Awaitable[_T]], *, patience: float | None = None
    ) -> _T:
        """Run ``work`` on the connection, and turn errors into a :class:`JournalError`."""

        async def run(connection: Connection) -> _T:
            return await work(Database(connection, timeout_for_lease(self._lease)))

        assert self._runner is not None  # noqa: S101 - it is open
        try:
            return self._runner.run(self._connection.run(run, patience=patience))
        except DamageError as error:
            raise JournalError(
                f"the journal {self._address} is damaged ({error}): keep it, and check that row"
            ) from error
        except (UnreachableError, psycopg.Error) as error:
            raise JournalError(f"the journal {self._address} {explain_error(error)}") from error


async def batch_exists(url: str) -> bool:
    """Return whether there is a batch of that name in the database.

    Raises:
        JournalError: The database cannot be used.
    """
    try:
        async with PostgresJournal(url, read_only=True):
            return True
    except _NoBatchError:
        return False
