"""The database: one SQLite file, its table, and a connection in a thread of its own."""

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SCHEMA = """
CREATE TABLE IF NOT EXISTS videos (
    id TEXT PRIMARY KEY,
    request_key TEXT UNIQUE,  -- of the request: its repetition finds this row
    input TEXT NOT NULL,      -- as JSON
    model TEXT NOT NULL,
    duration INTEGER,         -- of the video, if the input has one
    state TEXT NOT NULL,      -- waiting, sending, running, done, failed or unsure
    ref TEXT,                 -- of the task: what finds it again after a crash
    file TEXT,                -- the name of the downloaded file
    error TEXT,               -- why there is no video: a problem as in RFC 9457, as JSON
    asked_at REAL NOT NULL,   -- these three: seconds since 1970
    accepted_at REAL,         -- by the service
    ended_at REAL,
    usual REAL NOT NULL,      -- seconds that such a video usually takes
    version INTEGER NOT NULL  -- increases with each change of any row
);
CREATE INDEX IF NOT EXISTS videos_version ON videos (version);
CREATE INDEX IF NOT EXISTS videos_ended_at ON videos (ended_at);
"""


class Database:
    """A connection that is used by its own thread, so that a slow disk does not stop the server.

    Each statement is a transaction, and is on the disk when `execute` returns. The file is locked
    for as long as it is open: two processes with the same rows would both continue them.

    Raises:
        sqlite3.Error: The file cannot be opened, or another process has it open.
    """

    def __init__(self, path: Path, *, timeout: float = 5.0) -> None:
        self._connection = sqlite3.connect(
            path, timeout=timeout, isolation_level=None, check_same_thread=False
        )
        self._connection.row_factory = sqlite3.Row
        self._thread = ThreadPoolExecutor(1, "database")
        try:
            self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._connection.execute("PRAGMA journal_mode = WAL")  # a commit is one write
            self._connection.execute("PRAGMA synchronous = FULL")  # which survives a power failure
            self._connection.executescript(SCHEMA)
        except sqlite3.Error as error:
            self.close()
            raise type(error)(f"{path}: {error}; has another process opened it?") from None

    async def execute(self, statement: str, *values: object) -> list[sqlite3.Row]:
        """Execute one statement; return its rows."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._execute, statement, values)

    def _execute(self, statement: str, values: tuple[object, ...]) -> list[sqlite3.Row]:
        return self._connection.execute(statement, values).fetchall()

    def close(self) -> None:
        """Wait for the last statement, and close the file."""
        self._thread.shutdown()
        self._connection.close()
