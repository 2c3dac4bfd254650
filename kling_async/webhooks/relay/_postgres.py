"""Callbacks relayed by PostgreSQL 12 or later: one small table, and NOTIFY.

Each call is one message to the server (see :mod:`kling_async._postgres.connection`): the lock that
keeps rows in order is never held while a process is suspended. Through a pooler a session may
belong to others at any time, so that LISTEN is of no use there: then the table is read at short
intervals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

import psycopg

from kling_async._postgres.connection import Line, Rows, execute, is_pooled
from kling_async.webhooks.relay._message import MAX_LENGTH
from kling_async.webhooks.relay.backends import BACKLOG, READ_LIMIT, READ_WAIT, RelayBackendError

if TYPE_CHECKING:
    from kling_async._postgres.connection import Connection

_T = TypeVar("_T")

# Seconds after which the server ends a statement. The relay itself waits as long.
_SILENCE = 2.0

# Seconds between two reads through a pooler.
_POLL = 0.5

# Seconds between two looks for old rows, and after which a row is old.
_PURGE_EVERY, _OLD = 60.0, 3_600

# Processes may start at the same moment: one creates the table at a time. A crash may remove the
# rows, so that they need not be written to the disk twice.
_TABLE = """
SELECT pg_advisory_xact_lock(hashtext('kling_async_callbacks'));
CREATE UNLOGGED TABLE IF NOT EXISTS kling_async_callbacks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    name text NOT NULL,
    line bytea NOT NULL  -- text, in no encoding that would have to be right
);
"""
_KNOWN = "SELECT to_regclass('kling_async_callbacks') IS NOT NULL"

# One writer at a time, until its rows can be seen: else ids could appear out of order, and a
# reader who has seen the higher one would never see the lower.
_PUBLISH = """
SELECT pg_advisory_xact_lock(hashtext('kling_async_callbacks'));
INSERT INTO kling_async_callbacks (name, line)
SELECT name, line FROM unnest(%(names)s::text[]) name, unnest(%(lines)s::bytea[]) line;
SELECT pg_notify('kling_async_callbacks', '')
"""
# One process at a time; who finds another at it leaves it to that.
_PURGE = """
DELETE FROM kling_async_callbacks WHERE id IN (
    SELECT id FROM kling_async_callbacks
    WHERE (SELECT pg_try_advisory_xact_lock(hashtext('kling_async_callbacks purge')))
        AND at < clock_timestamp() - %(old)s * interval '1 second' ORDER BY id LIMIT 10000)
"""

# Where to begin: before the first row of the last while. A server that has taken over may know
# fewer rows than were seen.
_BEGIN = """
SELECT coalesce(
    (SELECT min(id) - 1 FROM kling_async_callbacks
        WHERE at > clock_timestamp() - %(back)s * interval '1 second'),
    (SELECT max(id) FROM kling_async_callbacks), 0)
"""
_READ = """
SELECT id, CASE WHEN octet_length(line) <= %(largest)s THEN line ELSE '\\x' END
FROM kling_async_callbacks
WHERE id > %(seen)s AND name = ANY(%(names)s) ORDER BY id LIMIT %(limit)s
"""


class PostgresRelay:
    """An :class:`~kling_async.webhooks.relay.backends.RelayBackend` in PostgreSQL.

    It takes two connections: one listens, and one writes as soon as there is something to write.
    """

    def __init__(self, url: str, names: Sequence[str]) -> None:
        self._names = list(names)
        self._listener = Line(url, self._begin)
        self._writer = Line(url, _prepare, silent=True)
        self._pooled = False
        self._seen: int | None = None
        self._purge_at = float("-inf")

    async def publish(self, lines: Sequence[str]) -> None:
        """Keep lines, and wake those who wait for them."""
        now = asyncio.get_running_loop().time()
        if now >= self._purge_at:
            await _do(self._writer, _statement(_PURGE, {"old": _OLD}))
            self._purge_at = now + _PURGE_EVERY
        values = {"names": self._names, "lines": [line.encode() for line in lines]}
        await _do(self._writer, _statement(_PUBLISH, values))

    async def read(self) -> list[str]:
        """Return new lines, or none after a while."""
        if not (lines := await _do(self._listener, self._new)):
            await (asyncio.sleep(_POLL) if self._pooled else _do(self._listener, _wait))
            lines = await _do(self._listener, self._new)
        return lines

    async def close(self) -> None:
        """Close the connections."""
        await self._listener.close()
        await self._writer.close()

    async def _begin(self, db: Connection) -> None:
        """Begin where reading ended, or a while ago, whichever was earlier."""
        await _prepare(db)
        self._pooled = await is_pooled(db)
        if not self._pooled:
            await db.execute("LISTEN kling_async_callbacks")
        (rows,) = await execute(db, _BEGIN, {"back": BACKLOG}, within=_SILENCE)
        ((first,),) = cast("list[tuple[int]]", rows)
        self._seen = first if self._seen is None else min(first, self._seen)

    async def _new(self, db: Connection) -> list[str]:
        values = {
            "names": self._names,
            "seen": self._seen,
            "limit": READ_LIMIT,
            "largest": MAX_LENGTH,
        }
        (rows,) = await execute(db, _READ, values, within=_SILENCE)
        found = cast("list[tuple[int, bytes]]", rows)
        if found:
            self._seen = found[-1][0]
        return [line.decode(errors="replace") for _, line in found]


def _statement(
    query: str, values: Mapping[str, object]
) -> Callable[[Connection], Awaitable[list[Rows]]]:
    return partial(execute, query=query, values=values, within=_SILENCE)


async def _do(line: Line, work: Callable[[Connection], Awaitable[_T]]) -> _T:
    try:
        return await line.do(work)
    except (psycopg.Error, OSError) as error:
        words = " ".join(str(error).split())
        raise RelayBackendError(f"{type(error).__name__}: {words}") from error


async def _wait(db: Connection) -> None:
    """Return once something was announced, or after a while."""
    async for _ in db.notifies(timeout=READ_WAIT, stop_after=1):
        pass


async def _prepare(db: Connection) -> None:
    ((known,),) = (await execute(db, _KNOWN, within=_SILENCE))[0]
    if not known:
        await execute(db, _TABLE, within=_SILENCE)


def open_backend(url: str, names: Sequence[str]) -> PostgresRelay:
    """Return the backend for a URL."""
    return PostgresRelay(url, names)
