"""Shared limits in PostgreSQL 12 or later: one row for each name, and one for each lease.

Each call is one transaction, sent in one message: no lock is held across a round trip. Times are
those of the server's clock. Commits wait for the disk as the server is configured: grants must not
be lost in a crash.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import psycopg
from attrs import asdict

from kling_async._postgres.connection import ConnectionManager
from kling_async._postgres.errors import UnreachableError, describe_error, is_refusal
from kling_async._postgres.transaction import transact
from kling_async.errors import ConfigurationError, LimiterError
from kling_async.limits.shared import _postgres_sql
from kling_async.limits.shared._learned_cap import parse_learned_cap
from kling_async.limits.shared.backend import (
    Lease,
    LeaseStatus,
    LeaseUpdate,
    Reservation,
    Usage,
)

if TYPE_CHECKING:
    from kling_async._postgres.transaction import Connection, Rows
    from kling_async.limits.shared.schedule import RequestSchedule
    from kling_async.limits.shared.window import Report

# Seconds to wait for an answer.
_TIMEOUT = 1.5
_PEEK_TIMEOUT = 10.0  # no request waits for it

# Usage of limits that were never used: the learned cap, requests, both limits, and the pause.
_UNUSED = ("", 0, 0, 0, 0.0)


class PostgresLimitsBackend:
    """A :class:`~kling_async.limits.shared.backend.LimitsBackend` in PostgreSQL.

    One connection is enough: calls are short, and a process makes a few per second.
    """

    def __init__(self, url: str, name: str) -> None:
        self._name = name
        self._connection = ConnectionManager(url, prepare=_create_tables, timeout=_TIMEOUT)

    async def reserve(self, number: int, report: Report, schedule: RequestSchedule) -> Reservation:
        """Apply a report, and reserve the next grants."""
        values = {
            **asdict(schedule),
            **asdict(report),
            "grant_delay": schedule.settle,
            "number": number,
            "ages": [age for age, _ in report.answered],
            "numbers": [number for _, number in report.answered],
        }
        *_, (row,) = await self._execute(_postgres_sql.RESERVE, values)
        acknowledged, pause, paused_for, epoch, set_back, delays = row
        return Reservation(
            delays=tuple(delays),
            acknowledged=acknowledged,
            pause=pause,
            paused_for=paused_for,
            epoch=str(epoch),
            set_back=set_back,
        )

    async def pause(self, delay: float, age: float) -> float:
        """Grant no request for ``delay`` seconds; return for how long the pause lasts."""
        *_, ((remaining,),) = await self._execute(_postgres_sql.PAUSE, {"delay": delay, "age": age})
        return cast("float", remaining)

    async def update_leases(self, update: LeaseUpdate) -> LeaseStatus:
        """Renew, acquire and release leases in one step."""
        old_learned, new_learned = update.learned or ("", "")
        values = {
            **asdict(update, recurse=False),
            "grant_delay": update.schedule.settle,
            "keys": [lease.key for lease in update.renew],
            "held_for": [lease.held_for for lease in update.renew],
            "ends_in": [lease.ends_in for lease in update.renew],
            "acquire": list(update.acquire),
            "release": list(update.release),
            "old_learned": old_learned,
            "new_learned": new_learned,
        }
        *_, acquired, _, (row,) = await self._execute(_postgres_sql.UPDATE_LEASES, values)
        keys = {key for (key,) in acquired}
        epoch, set_back, learned, held, confirmed = row
        return LeaseStatus(
            acquired=tuple(key for key in update.acquire if key in keys),
            epoch=str(epoch),
            learned=str(learned),
            held=held,
            confirmed=confirmed,
            set_back=set_back,
        )

    async def peek(self) -> Usage:
        """Return what is in use."""
        (rows,) = await self._execute(_postgres_sql.USAGE, {}, _PEEK_TIMEOUT)
        learned, used, requests, tasks, pause = (rows[0] if rows else _UNUSED)[:5]
        return Usage(
            requests=int(used),  # a sum is a Decimal
            requests_per_minute=requests,
            concurrent_tasks=tasks,
            effective_tasks=parse_learned_cap(learned, tasks),
            pause=pause,
            leases=tuple(Lease(*row[5:]) for row in rows if row[5]),
        )

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    async def _execute(
        self, query: str, values: Mapping[str, object], timeout: float = _TIMEOUT
    ) -> list[Rows]:
        try:
            return await self._connection.transact(
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
    ((found,),) = await transact(db, _postgres_sql.TABLES_EXIST, timeout=_TIMEOUT)
    if None in found:
        await transact(db, _postgres_sql.TABLES, timeout=_TIMEOUT)


def create_backend(url: str, name: str) -> PostgresLimitsBackend:
    """Return the backend for a URL."""
    return PostgresLimitsBackend(url, name)
