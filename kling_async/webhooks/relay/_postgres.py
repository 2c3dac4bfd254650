"""Callbacks relayed by PostgreSQL 12 or later: one small table, and NOTIFY.

Each call is one message to the server (see :mod:`kling_async._postgres.transaction`): the lock that
keeps rows in order is never held while a process is suspended. Through a pooler a session may
belong to another application at any time, so that LISTEN does not work: then the table is read at
short intervals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import psycopg

from kling_async._postgres.connection import ConnectionManager
from kling_async._postgres.errors import UnreachableError, describe_error
from kling_async._postgres.transaction import (
    Connection,
    is_pooled,
    next_notification,
    transact,
)
from kling_async.webhooks.relay._message import MAX_LENGTH
from kling_async.webhooks.relay.backends import BACKLOG, READ_LIMIT, READ_WAIT, RelayBackendError

_T = TypeVar("_T")

# Seconds after which the server ends a statement.
_TIMEOUT = 2.0

# Seconds between two reads through a pooler.
_POLL = 0.5

# Seconds between two deletions of old rows, and after which a row is old.
_DELETE_EVERY, _MAX_AGE = 60.0, 3_600

# Created by one process at a time. A crash may lose the rows, so they need not be written to the
# disk twice.
_TABLE = """
SELECT pg_advisory_xact_lock(hashtext('kling_async_callbacks'));
CREATE UNLOGGED TABLE IF NOT EXISTS kling_async_callbacks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    name text NOT NULL,
    line bytea NOT NULL  -- bytes, whatever the encoding of the database
);
"""
_TABLE_EXISTS = "SELECT to_regclass('kling_async_callbacks') IS NOT NULL"

# One writer at a time, until its rows are visible: otherwise ids could become visible out of
# order, and a reader that has read the higher one would never read the lower.
_PUBLISH = """
SELECT pg_advisory_xact_lock(hashtext('kling_async_callbacks'));
INSERT INTO kling_async_callbacks (name, line)
SELECT name, line FROM unnest(%(names)s::text[]) name, unnest(%(lines)s::bytea[]) line;
SELECT pg_notify('kling_async_callbacks', '')
"""
# One process at a time; if another one is deleting, this one deletes nothing.
_DELETE = """
DELETE FROM kling_async_callbacks WHERE id IN (
    SELECT id FROM kling_async_callbacks
    WHERE (SELECT pg_try_advisory_xact_lock(hashtext('kling_async_callbacks purge')))
        AND at < clock_timestamp() - %(old)s * interval '1 second' ORDER BY id LIMIT 10000)
"""

# The id after which reading starts: the last one before the recent rows. After a failover, the new
# server may have fewer rows than were read.
_BEGIN = """
SELECT coalesce(
    (SELECT min(id) - 1 FROM kling_async_callbacks
        WHERE at > clock_timestamp() - %(back)s * interval '1 second'),
    (SELECT max(id) FROM kling_async_callbacks), 0)
"""
_READ = """
SELECT id, CASE WHEN octet_length(line) <= %(largest)s THEN line ELSE '\\x' END
FROM kling_async_callbacks
WHERE id > %(last_id)s AND name = ANY(%(names)s) ORDER BY id LIMIT %(limit)s
"""


class PostgresRelay:
    """An :class:`~kling_async.webhooks.relay.backends.RelayBackend` in PostgreSQL.

    It uses two connections: one listens, and the other one writes.
    """

    def __init__(self, url: str, names: Sequence[str]) -> None:
        self._names = list(names)
        self._listener = ConnectionManager(url, prepare=self._start_reading, listens=True)
        self._writer = ConnectionManager(url, prepare=_create_table)
        self._pooled = False
        self._last_id: int | None = None
        self._delete_at = float("-inf")

    async def publish(self, lines: Sequence[str]) -> None:
        """Store lines, and notify the readers."""
        now = asyncio.get_running_loop().time()
        if now >= self._delete_at:
            delete = partial(transact, query=_DELETE, values={"old": _MAX_AGE}, timeout=_TIMEOUT)
            await _work_on(self._writer, delete)
            self._delete_at = now + _DELETE_EVERY
        values = {"names": self._names, "lines": [line.encode() for line in lines]}
        await _work_on(
            self._writer, partial(transact, query=_PUBLISH, values=values, timeout=_TIMEOUT)
        )

    async def read(self) -> list[str]:
        """Return new lines, or an empty list if none arrive in time."""
        if not (lines := await _work_on(self._listener, self._read_lines)):
            if self._pooled:
                await asyncio.sleep(_POLL)
            else:
                await _work_on(self._listener, partial(next_notification, timeout=READ_WAIT))
            lines = await _work_on(self._listener, self._read_lines)
        return lines

    async def close(self) -> None:
        """Close the connections."""
        await self._listener.close()
        await self._writer.close()

    async def _start_reading(self, db: Connection) -> None:
        """Start after the last row read, or at the beginning of the backlog if that is earlier."""
        await _create_table(db)
        self._pooled = await is_pooled(db)
        if not self._pooled:
            await db.execute("LISTEN kling_async_callbacks")
        ((row,),) = await transact(db, _BEGIN, {"back": BACKLOG}, timeout=_TIMEOUT)
        self._last_id = row[0] if self._last_id is None else min(row[0], self._last_id)

    async def _read_lines(self, db: Connection) -> list[str]:
        values = {
            "names": self._names,
            "last_id": self._last_id,
            "limit": READ_LIMIT,
            "largest": MAX_LENGTH,
        }
        (rows,) = await transact(db, _READ, values, timeout=_TIMEOUT)
        if rows:
            self._last_id = rows[-1][0]
        return [line.decode(errors="replace") for _, line in rows]


async def _work_on(
    connection: ConnectionManager, work: Callable[[Connection], Awaitable[_T]]
) -> _T:
    try:
        return await connection.run(work)
    except (UnreachableError, psycopg.Error) as error:
        raise RelayBackendError(describe_error(error)) from error


async def _create_table(db: Connection) -> None:
    ((known,),) = (await transact(db, _TABLE_EXISTS, timeout=_TIMEOUT))[0]
    if not known:
        await transact(db, _TABLE, timeout=_TIMEOUT)


def open_backend(url: str, names: Sequence[str]) -> PostgresRelay:
    """Return the backend for a URL."""
    return PostgresRelay(url, names)
