"""The file of a SQLite journal: opening, locking, its format, and its errors.

Everything here blocks and runs in the journal's thread.
"""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from kling_async.errors import JournalError
from kling_async.journal.serialization import DamageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# "KLNG": identifies the program that a SQLite file belongs to.
APPLICATION_ID = 0x4B4C4E47
FORMAT = 1

SCHEMA = (
    # The items as they are. The input, the result, the failure and the files are JSON. The trace is
    # a W3C trace context.
    """
    CREATE TABLE items (
        id INTEGER PRIMARY KEY,  -- the order in which they were planned
        key TEXT NOT NULL UNIQUE,
        input TEXT NOT NULL,
        state TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        changed_at TEXT NOT NULL,
        ref TEXT, result TEXT, failure TEXT, files TEXT, trace TEXT
    )
    """,
    "CREATE INDEX items_by_state ON items (state)",
    # Every transition; rows are added and never changed.
    """
    CREATE TABLE history (
        id INTEGER PRIMARY KEY,
        item INTEGER NOT NULL REFERENCES items,
        attempt INTEGER NOT NULL,
        state TEXT NOT NULL,
        at TEXT NOT NULL,
        ref TEXT, result TEXT, failure TEXT, files TEXT
    )
    """,
    # Contains the state, so that the submits are counted without reading the rows.
    "CREATE INDEX history_of_item ON history (item, state)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
)

# What is wrong and what to do, by SQLite's primary error code.
_ADVICE = {
    sqlite3.SQLITE_BUSY: "is being written by another program ({error}): wait for it to end",
    sqlite3.SQLITE_CANTOPEN: (
        "cannot be opened ({error}): make its folder writable, or copy the file, and"
        " its -wal if there is one, to a folder that can"
    ),
    sqlite3.SQLITE_CORRUPT: (
        "is damaged ({error}): keep it, and recover its content with sqlite3's .recover"
    ),
    sqlite3.SQLITE_FULL: "is on a full disk ({error}): free some space, and run again",
    sqlite3.SQLITE_IOERR: (
        "cannot be read or written ({error}): check whether its disk is full or failing"
    ),
    sqlite3.SQLITE_NOTADB: "is not a journal ({error}): give another path",
    sqlite3.SQLITE_READONLY: "cannot be written ({error}): check the permissions of its file and"
    " folder",
}


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn errors of SQLite, and damaged rows, into a :class:`JournalError` with advice."""
    try:
        yield
    except (sqlite3.Error, DamageError) as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)  # a quick_check has none
        advice = _ADVICE.get(code & 0xFF, "cannot be used: {error}").format(error=error)
        raise JournalError(f"the journal {path} {advice}") from error


@contextmanager
def path_errors(path: Path) -> Iterator[None]:
    """Turn errors of a path that cannot exist or be read into a :class:`JournalError`."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise JournalError(f"there cannot be a journal at {path}: {error}") from error


@contextmanager
def open_to_write(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a journal for writing, exclusively. Create it and its folder if they do not exist."""
    with path_errors(path):
        path = path.resolve()  # so that a file with several names has one lock
        path.parent.mkdir(parents=True, exist_ok=True)
        is_folder = path.is_dir()
    if is_folder:
        raise JournalError(f"there cannot be a journal at {path}: it is a folder")
    with ExitStack() as stack:
        with sqlite_errors(path):
            stack.enter_context(_lock(path))
            db = stack.enter_context(closing(sqlite3.connect(path, isolation_level=None)))
            made = _is_journal(db, path)
            # Only now, when it is known not to belong to another program.
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            if made:
                _check_integrity(db)
                _add_trace(db)
            else:
                with transaction(db):
                    for statement in SCHEMA:
                        db.execute(statement)
        yield db


@contextmanager
def open_to_read(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a journal for one query. Nothing is written or created.

    SQLite creates a log beside the file even for a reader, unless the mode is ``immutable``. That
    is correct while there is no log: a journal that is open for writing has one.
    """
    with path_errors(path):
        path = path.resolve()
        is_file = path.is_file()
    if not is_file:
        raise JournalError(f"there is no journal at {path}")
    log = path.with_name(f"{path.name}-wal")
    mode = "mode=ro" if log.exists() else "mode=ro&immutable=1"
    with sqlite_errors(path), closing(sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True)) as db:
        if not _is_journal(db, path):
            raise JournalError(f"there is no journal at {path}: the file is empty")
        yield db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Commit at the end, or roll back if an exception is raised."""
    try:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite has rolled back by itself if the disk is full, for example
            db.execute("ROLLBACK")
        raise


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Exclude other writers. The system releases the lock when the process ends.

    The lock is SQLite's, on an empty file beside the journal, which remains: a lock on the journal
    itself would exclude readers.
    """
    lock = path.with_name(f"{path.name}-lock")
    with closing(sqlite3.connect(lock, isolation_level=None, timeout=0)) as db:
        try:
            db.execute("PRAGMA journal_mode = MEMORY")
            db.execute("BEGIN EXCLUSIVE")
            # On a read-only file SQLite has granted that without locking anything.
            db.execute("PRAGMA user_version = 1")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            raise JournalError(
                f"the journal {path} is in use by another batch: wait for it to end",
                retryable=True,
            ) from error
        yield


def _is_journal(db: sqlite3.Connection, path: Path) -> bool:
    """Return whether the file is a journal, not an empty file; raise if it is neither."""
    mark, version, tables = db.execute(
        "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)"
        " FROM pragma_application_id, pragma_user_version"
    ).fetchone()
    if mark == APPLICATION_ID:
        if version > FORMAT:
            raise JournalError(
                f"the journal {path} has format {version}, and this version of kling_async knows"
                f" formats up to {FORMAT}: install a newer one"
            )
        return True
    if mark or version or tables:
        raise JournalError(f"{path} is a database of another program: give another path")
    return False


def _add_trace(db: sqlite3.Connection) -> None:
    """Add the column that earlier versions do not write; they name theirs, and ignore it."""
    if not db.execute("SELECT 1 FROM pragma_table_info('items') WHERE name = 'trace'").fetchall():
        db.execute("ALTER TABLE items ADD COLUMN trace TEXT")


def _check_integrity(db: sqlite3.Connection) -> None:
    """Find damage before anything is paid."""
    (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
