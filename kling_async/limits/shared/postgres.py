"""Shared limits in PostgreSQL 12 or later: one row for each name, and one for each lease.

Each call is one transaction, sent in one message: no lock is held while the client does anything.
Time is the server's. Commits wait for the disk as the server is configured: after a crash it
continues as the same one, and must not have lost grants.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import psycopg
from psycopg.errors import InsufficientPrivilege

from kling_async._postgres.connection import Line, execute
from kling_async.errors import ConfigurationError, KlingError, LimiterError
from kling_async.limits.shared import _postgres_sql
from kling_async.limits.shared._learned_cap import parse_learned_cap
from kling_async.limits.shared.backend import (
    Lease,
    LeaseStatus,
    LeaseUpdate,
    PauseStatus,
    Reservation,
    Usage,
)

if TYPE_CHECKING:
    from kling_async._postgres.connection import Connection, Rows
    from kling_async.limits.shared.schedule import RequestSchedule
    from kling_async.limits.shared.window import Report

# Seconds after which the network is taken to be dead.
_SILENCE = 1.5

# The same for a look, for which nothing waits.
_LOOK = 10.0

# Of limits that were never used: what was learned, requests, their limit, that of tasks, the pause.
_UNUSED = ("", 0, 0, 0, 0.0)

# What a server says in these cases does not update by waiting. libpq gives no code for them.
_REFUSALS = (
    "authentication failed",
    "no password supplied",
    "does not exist",
    "no pg_hba.conf",
    "ProactorEventLoop",  # that of Windows, on which psycopg cannot work
)


class PostgresLimitsBackend:
    """A :class:`~kling_async.limits.shared.backend.LimitsBackend` in PostgreSQL.

    One connection is enough: calls are short, and a process makes a few of them a second.
    """

    def __init__(self, url: str, name: str) -> None:
        self._name = name
        self._turn = asyncio.Lock()
        self._line = Line(url, self._prepare, silent=True)

    async def reserve(self, number: int, report: Report, schedule: RequestSchedule) -> Reservation:
        """Apply a report, and reserve up to ``number`` of the next grants."""
        values = {
            "settle": schedule.recovery_delay,
            "burst": schedule.burst,
            "number": number,
            "interval": schedule.interval,
            "requests": schedule.requests_per_minute,
            "holder": report.holder,
            "sequence": report.sequence,
            "since": report.since,
            "under_way": report.in_flight,
            "ages": [age for age, _ in report.answered],
            "numbers": [number for _, number in report.answered],
        }
        *_, rows = await self._execute(_postgres_sql.RESERVE, values)
        *numbers, delays = rows[0]
        acknowledged, pause, paused_for, epoch, set_back = _numbers(numbers)
        return Reservation(
            delays=tuple(_numbers(cast("Sequence[object]", delays))),
            acknowledged=int(acknowledged),
            pause=pause,
            paused_for=paused_for,
            epoch=str(epoch),
            set_back=set_back,
        )

    async def pause(self, delay: float, age: float) -> PauseStatus:
        """Grant no request for ``delay`` seconds."""
        *_, rows = await self._execute(_postgres_sql.PAUSE, {"delay": delay, "age": age})
        began, remaining = _numbers(rows[0])
        return PauseStatus(bool(began), remaining)

    async def update_leases(self, update: LeaseUpdate) -> LeaseStatus:
        """Renew, acquire and release leases in one step."""
        known, news = update.learned or ("", "")
        values = {
            "settle": update.schedule.recovery_delay,
            "calm": update.recovery_delay,
            "limit": update.limit,
            "cap": update.cap,
            "lifetime": update.lifetime,
            "holder": update.holder,
            "keys": [one.key for one in update.renew],
            "held_for": [one.held_for for one in update.renew],
            "ends_in": [one.ends_in for one in update.renew],
            "take": list(update.acquire),
            "drop": list(update.release),
            "known": known,
            "news": news,
        }
        *_, taken, _, rows = await self._execute(_postgres_sql.LEASE_CALL, values)
        given = {row[0] for row in taken}
        epoch, set_back, learned, held, confirmed = rows[0]
        return LeaseStatus(
            acquired=tuple(one for one in update.acquire if one in given),
            epoch=str(epoch),
            learned=str(learned),
            held=int(cast("int", held)),
            confirmed=int(cast("int", confirmed)),
            set_back=float(cast("float", set_back)),
        )

    async def peek(self) -> Usage:
        """Return what is in use, and change nothing."""
        (rows,) = await self._execute(_postgres_sql.LOOK, {}, _LOOK)
        learned, *numbers = (rows[0] if rows else _UNUSED)[:5]
        used, requests, tasks, pause = _numbers(numbers)
        leases = tuple(
            Lease(str(row[5]), str(row[6]), *_numbers(row[7:])) for row in rows if row[5]
        )
        return Usage(
            requests=int(used),
            requests_per_minute=int(requests),
            concurrent_tasks=int(tasks),
            effective_tasks=parse_learned_cap(str(learned), int(tasks)),
            pause=pause,
            leases=leases,
        )

    async def close(self) -> None:
        """Close the connection."""
        await self._line.close()

    async def _execute(
        self, query: str, values: Mapping[str, object], within: float = _SILENCE
    ) -> list[Rows]:
        """Run one transaction on the connection, one at a time."""
        async with self._turn:
            try:
                return await self._line.execute(
                    query, {**values, "name": self._name}, within=within
                )
            except TimeoutError as error:
                raise LimiterError(str(error)) from None
            except psycopg.Error as error:
                raise _ours(error) from error
            except OSError as error:
                raise LimiterError(f"{type(error).__name__}: {error}") from error

    async def _prepare(self, db: Connection) -> None:
        ((known,),) = await execute(db, _postgres_sql.KNOWN, within=_SILENCE)
        if None in known:
            await execute(db, _postgres_sql.TABLES, within=_SILENCE)


def _numbers(row: Sequence[object]) -> list[float]:
    return [float(cast("float", one)) for one in row]


def _ours(error: psycopg.Error) -> KlingError:
    """Return our error for one of the driver's."""
    words = " ".join(str(error).split())
    refused = error.sqlstate is None and any(one in words for one in _REFUSALS)
    if refused or isinstance(error, InsufficientPrivilege):
        return ConfigurationError(f"the engine of the limits refuses us: {words}")
    return LimiterError(f"{type(error).__name__}: {words}")


def create_backend(url: str, name: str) -> PostgresLimitsBackend:
    """Return the engine at an address."""
    return PostgresLimitsBackend(url, name)
