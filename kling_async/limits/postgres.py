"""Shared limits in PostgreSQL 12 or later: one row for each name, and one for each lease.

Each call is one round trip and holds the lock of its name's row for a moment. Time is the
server's. Commits wait for the disk as the server has it: after a crash it goes on as the same
one, and must not have forgotten turns that it gave.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar, cast

import psycopg
from psycopg.errors import InsufficientPrivilege

from kling_async._postgres_line import Line
from kling_async.errors import ConfigurationError, KlingError, LimiterError
from kling_async.limits import _postgres_sql
from kling_async.limits.engines import Change, Lease, Leased, Pause, Reservation, Usage

if TYPE_CHECKING:
    from kling_async._postgres_line import Connection
    from kling_async.limits.pace import Pace

__all__ = ["PostgresEngine"]

_T = TypeVar("_T")

# Seconds after which the network is taken to be dead.
_SILENCE = 1.5

# The same for a look: nobody is kept waiting by that.
_LOOK = 10.0

# What a server says in these cases does not change by waiting. libpq gives no code for them.
_REFUSALS = (
    "authentication failed",
    "no password supplied",
    "does not exist",
    "no pg_hba.conf",
    "ProactorEventLoop",  # that of Windows, on which psycopg cannot work
)


class PostgresEngine:
    """A :class:`~kling_async.limits.engines.LimitsEngine` in PostgreSQL.

    One connection is enough: calls are short, and a process makes a few of them a second.
    """

    def __init__(self, url: str, name: str) -> None:
        self._name = name
        self._turn = asyncio.Lock()
        self._line = Line(url, self._prepare, silent=True)

    async def reserve(self, number: int, pace: Pace) -> Reservation:
        """Reserve the next turns."""
        values = {
            "settle": pace.settle,
            "burst": pace.burst,
            "number": number,
            "interval": pace.interval,
            "requests": pace.requests_per_minute,
        }
        delay, pause, paused_for, epoch = await self._one(_postgres_sql.RESERVE, values)
        return Reservation(delay, pause, paused_for, str(epoch))

    async def pause(self, delay: float, age: float) -> Pause:
        """Give no turn for ``delay`` seconds, unless a pause has begun within ``age``."""
        began, pause = await self._one(_postgres_sql.PAUSE, {"delay": delay, "age": age})
        return Pause(bool(began), pause)

    async def lease(self, change: Change) -> Leased:
        """Keep, give and free leases, all at once."""
        values = {
            "name": self._name,
            "settle": change.pace.settle,
            "calm": change.settle,
            "limit": change.limit,
            "lifetime": change.lifetime,
            "holder": change.holder,
            "keys": [one.key for one in change.hold],
            "held_for": [one.held_for for one in change.hold],
            "ends_in": [one.ends_in for one in change.hold],
            "take": list(change.take),
            "drop": list(change.drop),
        }

        async def all_at_once(db: Connection) -> Leased:
            taken = None
            async with db.pipeline(), db.transaction():
                known = await db.execute(_postgres_sql.EPOCH, values)
                await db.execute(_postgres_sql.EXPIRE, values)
                if change.hold:
                    await db.execute(_postgres_sql.HOLD, values)
                if change.take:
                    taken = await db.execute(_postgres_sql.TAKE, values)
                if change.drop:
                    await db.execute(_postgres_sql.DROP, values)
            epoch = await known.fetchone()
            given = {row[0] for row in await taken.fetchall()} if taken else set()
            return Leased(tuple(one for one in change.take if one in given), str(_row(epoch)[0]))

        return await self._do(all_at_once)

    async def look(self) -> Usage:
        """Tell what is in use."""

        async def all_rows(db: Connection) -> list[tuple[object, ...]]:
            return await (await db.execute(_postgres_sql.LOOK, {"name": self._name})).fetchall()

        rows = await self._do(all_rows, _LOOK)
        used, requests, tasks, pause = _numbers(_row(rows[0] if rows else None)[:4])
        leases = tuple(
            Lease(str(row[4]), str(row[5]), *_numbers(row[6:])) for row in rows if row[4]
        )
        return Usage(round(used), int(requests), int(tasks), pause, leases)

    async def close(self) -> None:
        """Close the connection."""
        await self._line.close()

    async def _one(self, query: str, values: Mapping[str, object]) -> list[float]:
        """Run a query that gives one row of numbers."""

        async def one(db: Connection) -> Sequence[object]:
            cursor = await db.execute(query, {**values, "name": self._name})
            return _row(await cursor.fetchone())

        return _numbers(await self._do(one))

    async def _do(
        self, work: Callable[[Connection], Awaitable[_T]], within: float = _SILENCE
    ) -> _T:
        """Do something on the connection, one thing at a time."""
        async with self._turn:
            try:
                return await self._line.do(work, within=within)
            except TimeoutError as error:
                raise LimiterError(str(error)) from None
            except psycopg.Error as error:
                raise _ours(error) from error
            except OSError as error:
                raise LimiterError(f"{type(error).__name__}: {error}") from error

    async def _prepare(self, db: Connection) -> None:
        if None in _row(await (await db.execute(_postgres_sql.KNOWN)).fetchone()):
            # In one message: it is done to its end though nobody may wait for that any more.
            await db.execute(_postgres_sql.TABLES)
        await db.execute(_postgres_sql.NAME, {"name": self._name})


def _row(row: Sequence[object] | None) -> Sequence[object]:
    if row is None:
        raise LimiterError("somebody has deleted the row of the limits")
    return row


def _numbers(row: Sequence[object]) -> list[float]:
    return [float(cast("float", one)) for one in row]


def _ours(error: psycopg.Error) -> KlingError:
    """Return our error for one of the driver's."""
    words = " ".join(str(error).split())
    refused = error.sqlstate is None and any(one in words for one in _REFUSALS)
    if refused or isinstance(error, InsufficientPrivilege):
        return ConfigurationError(f"the engine of the limits refuses us: {words}")
    return LimiterError(f"{type(error).__name__}: {words}")


def engine(url: str, name: str) -> PostgresEngine:
    """Return the engine at an address."""
    return PostgresEngine(url, name)
