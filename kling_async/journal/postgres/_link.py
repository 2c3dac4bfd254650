"""The connection of a PostgreSQL journal: made anew when it is lost, and what can be wrong with it.

Everything here blocks: it runs in the journal's own thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from kling_async._utils.extras import missing_extra
from kling_async.errors import ConfigurationError, JournalError
from kling_async.journal.postgres._watch import Watch
from kling_async.policy.retry import backoff

try:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    from kling_async._postgres.connection import UNDONE
except ImportError as error:
    raise missing_extra("postgres", "a journal on PostgreSQL needs another package") from error

if TYPE_CHECKING:
    from kling_async.journal.address import Address

_T = TypeVar("_T")

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

# How often a transaction is repeated that the server has undone because of another one.
_TIMES = 5

# What a server complains of, by the beginning of its code, and what to do about it.
COMPLAINTS = {
    "25006": "cannot be written ({error}): the server only reads; give the one that writes",
    "42501": "cannot be used ({error}): grant the user that right, or let another make the tables",
    "42P01": "has lost a table ({error}): restore it from a backup",
    "53100": "is on a disk that is full ({error}): make room, and run again",
    "55P03": "is locked by another program ({error}): wait for it to end",
}

# Seconds for what is left to be done when the journal is closed: once more, if it was cut.
_CLOSING = 2

# Of every transaction, and of nothing else: through a pooler the session is another application's
# as soon as it ends. A process that ends in the middle, or is suspended there, must not keep the
# others from what it has locked, and is disconnected before they give up waiting for that; what
# the server still runs ends soon after we have given it up; and what is reported as written must
# not depend on the next second.
_SETTINGS = """
    SELECT set_config('TimeZone', 'UTC', true),
        set_config('idle_in_transaction_session_timeout', '5s', true),
        set_config('lock_timeout', '10s', true),
        set_config('statement_timeout', %s, true),
        set_config('tcp_keepalives_idle', '10', true),
        set_config('tcp_keepalives_interval', '5', true),
        set_config('tcp_keepalives_count', '3', true),
        set_config('synchronous_commit', CASE current_setting('synchronous_commit')
            WHEN 'off' THEN 'local' ELSE current_setting('synchronous_commit') END, true)
"""


class DamageError(Exception):
    """A row cannot be understood."""


class _Connection(psycopg.Connection[tuple[Any, ...]]):
    pipe: psycopg.Pipeline | None = None  # while a transaction is under way


class _Cursor(psycopg.Cursor[tuple[Any, ...]]):
    """Waits for answers with a Sync, where the driver's own sends a Flush.

    After a Flush the server does not think of itself as idle in a transaction, and would wait for
    one who stands still for ever.
    """

    def fetchone(self) -> tuple[Any, ...] | None:
        self._wait()
        return super().fetchone()

    def fetchall(self) -> list[tuple[Any, ...]]:
        self._wait()
        return super().fetchall()

    def _wait(self) -> None:
        pipe = cast("_Connection", self.connection).pipe
        if pipe is not None and self.pgresult is None:
            pipe.sync()


def reading(address: Address, *, read_only: bool = False) -> dict[str, Any]:
    """Return what libpq reads in an address; without ``read_only``, of a server that writes.

    Raises:
        ConfigurationError: It cannot read it.
    """
    try:
        given: dict[str, Any] = conninfo_to_dict(address.conninfo)
    except psycopg.Error:  # it shows the URL
        raise ConfigurationError(f"not a URL that libpq can read: {address}") from None
    if not read_only:  # of several hosts, the one that writes
        given.setdefault("target_session_attrs", "read-write")
    return given


class Link:
    """One connection to the server, for one thread.

    Args:
        address: The server.
        read_only: Any server will do, also one that only reads.
        patience: Seconds for which a connection that was lost is sought anew, before everybody is
            told.
        longest: Seconds for a transaction: a server that has not answered by then is away.
    """

    def __init__(
        self, address: Address, *, read_only: bool, patience: float, longest: float
    ) -> None:
        self._address = address
        self._conninfo = make_conninfo("", **reading(address, read_only=read_only))
        # Whatever the database's own default is: what was committed while a lock was waited for is
        # to be seen.
        self._begin = "BEGIN ISOLATION LEVEL READ COMMITTED" + " READ ONLY" * read_only
        self._db: _Connection | None = None
        self._longest = longest
        self._statement_timeout = f"{round(2 * longest * 1000)}ms"  # after the watch has cut it
        self._watch = Watch(longest)
        self._hurried = False
        self._patience = patience
        self._left = 0.0  # an address that was never reached may be a wrong one

    def close(self) -> None:
        """Disconnect."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def hurry(self) -> None:
        """Do what is left to be done soon, or not at all; may be called in any thread."""
        self._hurried = True
        self._watch.hurry(_CLOSING)

    def take_time(self) -> None:
        """Be in no hurry any more."""
        self._hurried = False
        self._watch.longest = self._longest

    def do(self, job: Callable[[Connection], _T], *, patience: float | None = None) -> _T:
        """Do something in one transaction.

        If the connection is lost it is done again on another, so it must find out by itself
        what has become of the first time. Once everybody was told that the server is away, it is
        tried once each time, until it is back.
        """
        patience = self._left if patience is None else patience
        with self._complaining():
            began, end = time.monotonic(), None
            for attempt in count():
                try:
                    answer = self._try(job)
                except psycopg.Error as error:
                    if end is None:  # a silence counts from its beginning
                        end = (began if self._watch.was_cut else time.monotonic()) + patience
                    if isinstance(error, UNDONE) and attempt < _TIMES:
                        continue
                    if not self._is_lost():
                        raise
                    over = time.monotonic() >= end or self._hurried
                    if over and (attempt or not patience):  # another connection may do
                        self._left = 0.0
                        raise
                else:
                    self._left = self._patience
                    return answer
                time.sleep(backoff(attempt + 1, 0.02, 1.0))
        raise AssertionError  # pragma: no cover - count() does not end

    def _try(self, job: Callable[[Connection], _T]) -> _T:
        if self._db is None:
            self._db = self._connect()
        with self._watching(self._db):
            return self._transact(self._db, job)

    def _transact(self, db: _Connection, job: Callable[[Connection], _T]) -> _T:
        # In a pipeline, statements whose answers are not asked for yet cost no round trip. With
        # the driver's own transaction() each would cost three more.
        failure: BaseException | None = None
        try:
            with db.pipeline() as db.pipe:
                try:
                    db.execute(self._begin)
                    db.execute(_SETTINGS, (self._statement_timeout,))
                    answer = job(db)
                    db.execute("COMMIT")
                except BaseException as error:  # noqa: BLE001 - raised below
                    failure = error  # the driver logs a warning if one leaves its pipeline
                else:
                    return answer
        except psycopg.Error as error:  # in a pipeline one may be noticed only at its end
            failure = failure or error
        finally:
            db.pipe = None
        with suppress(psycopg.Error):  # then it is lost, and the server does it by itself
            db.execute("ROLLBACK")
        assert failure is not None  # noqa: S101 - for the type checker
        raise failure

    @contextmanager
    def _watching(self, db: _Connection) -> Iterator[None]:
        """Lose the connection when the server does not answer."""
        try:
            with self._watch.over(db.fileno()):
                yield
        except psycopg.Error as error:
            if self._watch.was_cut:
                db.close()
                told = f"no answer in {self._watch.longest:g} s"
                raise psycopg.OperationalError(told) from error
            raise

    def _connect(self) -> _Connection:
        # With transactions of our own. Nothing is prepared: what fails in a pipeline may have been,
        # as the driver thinks, when the server has not done it.
        conninfo = self._conninfo
        if self._hurried:
            conninfo = make_conninfo(conninfo, connect_timeout=_CLOSING)
        return _Connection.connect(
            conninfo, autocommit=True, prepare_threshold=None, cursor_factory=_Cursor
        )

    def _is_lost(self) -> bool:
        """Whether there is no connection; one that was lost is let go of."""
        if self._db is not None and self._db.closed:
            self._db = None
        return self._db is None

    @contextmanager
    def _complaining(self) -> Iterator[None]:
        """Turn what is raised into a :class:`JournalError` that says what to do."""
        try:
            yield
        except DamageError as error:
            raise JournalError(
                f"the journal {self._address} is damaged ({error}): keep it, and look at that row"
            ) from error
        except psycopg.Error as error:
            if self._db is None:
                words = "cannot be reached ({error}): see that the server runs, and that it lets in"
                words += " this user"
            else:
                words = COMPLAINTS.get(error.sqlstate or "", "cannot be used ({error})")
            told = " ".join(str(error).split())
            raise JournalError(f"the journal {self._address} {words.format(error=told)}") from error
