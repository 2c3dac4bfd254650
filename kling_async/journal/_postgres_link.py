"""The connection of a PostgreSQL journal: made anew when it is lost, and what can be wrong with it.

Everything here blocks: it runs in the journal's own thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from kling_async.errors import ConfigurationError, JournalError, MissingExtraError

try:
    import psycopg
    from psycopg import errors
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
except ImportError as error:
    raise MissingExtraError(
        'a journal on PostgreSQL needs another package: pip install "kling-async[postgres]"'
    ) from error

if TYPE_CHECKING:
    from kling_async.journal._postgres_address import Address

__all__ = ["Connection", "DamageError", "Link"]

_T = TypeVar("_T")

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

# What may be tried again at once: the server has undone it because of somebody else.
_AGAIN = (errors.DeadlockDetected, errors.SerializationFailure)
_TIMES = 5

# What a server complains of, by the beginning of its code, and what to do about it.
_COMPLAINTS = {
    "25006": "cannot be written ({error}): the server only reads; give the one that writes",
    "42501": "cannot be used ({error}): grant the user that right, or let another make the tables",
    "42P01": "has lost a table ({error}): restore it from a backup",
    "53100": "is on a disk that is full ({error}): make room, and run again",
    "55P03": "is locked by another program ({error}): wait for it to end",
}

# Of every connection. Whoever goes away in the middle of a transaction must not keep the others
# from what it has locked; and what is told as written must not depend on the next second.
_SETTINGS = """
    SELECT set_config('TimeZone', 'UTC', false),
        set_config('idle_in_transaction_session_timeout', '10s', false),
        set_config('lock_timeout', '10s', false),
        set_config('synchronous_commit', CASE current_setting('synchronous_commit')
            WHEN 'off' THEN 'local' ELSE current_setting('synchronous_commit') END, false)
"""


class DamageError(Exception):
    """A row cannot be understood."""


class Link:
    """One connection to the server, for one thread.

    Args:
        address: The server.
        read_only: Any server will do, also one that only reads.
        patience: Seconds for which a connection that was lost is sought anew, before everybody is
            told.
    """

    def __init__(self, address: Address, *, read_only: bool, patience: float) -> None:
        try:
            given = conninfo_to_dict(address.conninfo)
        except psycopg.Error:  # it shows the URL
            raise ConfigurationError(f"not a URL that libpq can read: {address}") from None
        if not read_only:  # of several hosts, the one that writes
            given.setdefault("target_session_attrs", "read-write")
        self._address = address
        self._conninfo = make_conninfo("", **given)
        self._db: Connection | None = None
        self._patience = patience
        self._left = 0.0  # an address that was never reached may be a wrong one

    def close(self) -> None:
        """Disconnect."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def do(self, job: Callable[[Connection], _T], *, patience: float | None = None) -> _T:
        """Do something in one transaction.

        If the connection is lost it is done again on another, so it must find out by itself
        what has become of the first time. Once everybody was told that the server is away, it is
        tried once each time, until it is back.
        """
        patience = self._left if patience is None else patience
        with self._complaining():
            end: float | None = None
            for attempt in count():
                try:
                    answer = self._try(job)
                except psycopg.Error as error:
                    end = time.monotonic() + patience if end is None else end
                    if isinstance(error, _AGAIN) and attempt < _TIMES:
                        continue
                    if not self._is_lost():
                        raise
                    if time.monotonic() >= end:
                        self._left = 0.0
                        raise
                else:
                    self._left = self._patience
                    return answer
                time.sleep(min(0.02 * 2**attempt, 1.0))
        raise AssertionError  # pragma: no cover - count() does not end

    def _try(self, job: Callable[[Connection], _T]) -> _T:
        if self._db is None:
            self._db = self._connect()
        # In a pipeline, statements whose answers are not asked for yet cost no round trip. With
        # the driver's own transaction() each would cost three more.
        try:
            with self._db.pipeline():
                self._db.execute("BEGIN")
                answer = job(self._db)
                self._db.execute("COMMIT")
        except BaseException:
            with suppress(psycopg.Error):  # then it is lost, and the server does it by itself
                self._db.execute("ROLLBACK")
            raise
        return answer

    def _connect(self) -> Connection:
        # With transactions of our own. Nothing is prepared: what fails in a pipeline may have been,
        # as the driver thinks, when the server has not done it.
        db = psycopg.connect(self._conninfo, autocommit=True, prepare_threshold=None)
        try:
            db.execute(_SETTINGS)
        except BaseException:
            db.close()
            raise
        return db

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
                words = _COMPLAINTS.get(error.sqlstate or "", "cannot be used ({error})")
            told = " ".join(str(error).split())
            raise JournalError(f"the journal {self._address} {words.format(error=told)}") from error
