"""Shared limits in PostgreSQL 12 or later: one row for each name, and one for each lease.

Each call is one transaction, sent in one message: no lock is held while the client does anything.
Time is the server's. Commits wait for the disk as the server has it: after a crash it goes on as
the same one, and must not have forgotten turns that it gave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import psycopg

from kling_async._postgres.connection import ConnectionManager
from kling_async._postgres.errors import UnreachableError, describe_error, is_refusal
from kling_async._postgres.transaction import execute
from kling_async.errors import ConfigurationError, LimiterError
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
    from kling_async._postgres.transaction import Connection, Rows
    from kling_async.limits.shared.schedule import RequestSchedule
    from kling_async.limits.shared.window import Report

# Seconds after which the network is taken to be dead.
_SILENCE = 1.5

# The same for a look, for which nothing waits.
_LOOK = 10.0

# Of limits that were never used: what was learned, requests, their limit, that of tasks, the pause.
_UNUSED = ("", 0, 0, 0, 0.0)


class PostgresLimitsBackend:
    """A :class:`~kling_async.limits.shared.backend.LimitsBackend` in PostgreSQL.

    One connection is enough: calls are short, and a process makes a few of them a second.
    """

    def __init__(self, url: str, name: str) -> None:
        self._name = name
        self._connection = ConnectionManager(url, prepare=_create_tables, timeout=_SILENCE)

    async def reserve(self, number: int, report: Report, schedule: RequestSchedule) -> Reservation:
        """Take in a report, and reserve the next turns."""
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
        """Give no turn for ``delay`` seconds."""
        *_, rows = await self._execute(_postgres_sql.PAUSE, {"delay": delay, "age": age})
        began, remaining = _numbers(rows[0])
        return PauseStatus(bool(began), remaining)

    async def update_leases(self, update: LeaseUpdate) -> LeaseStatus:
        """Keep, give and free leases, all at once."""
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
        """Return what is in use."""
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
        await self._connection.close()

    async def _execute(
        self, query: str, values: Mapping[str, object], timeout: float = _SILENCE
    ) -> list[Rows]:
        try:
            return await self._connection.execute(
                query, {**values, "name": self._name}, timeout=timeout
            )
        except (UnreachableError, psycopg.Error) as error:
            message = describe_error(error)
            if is_refusal(error):
                raise ConfigurationError(
                    f"the server of the shared limits refuses access: {message}"
                ) from error
            raise LimiterError(message) from error


async def _create_tables(db: Connection) -> None:
    ((known,),) = await execute(db, _postgres_sql.KNOWN, timeout=_SILENCE)
    if None in known:
        await execute(db, _postgres_sql.TABLES, timeout=_SILENCE)


def _numbers(row: Sequence[object]) -> list[float]:
    return [float(cast("float", one)) for one in row]


def create_backend(url: str, name: str) -> PostgresLimitsBackend:
    """Return the engine at an address."""
    return PostgresLimitsBackend(url, name)
