"""The workers that share a batch on PostgreSQL: their leases, and what becomes of their items.

A worker is a row with the time at which its lease expires, by the server's clock. A transaction
that deletes the row of another worker, while it holds the row's lock, releases the worker's items.
A worker whose row is deleted writes nothing any more, so that neither a wrong clock nor a process
that was suspended does harm.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING

from attrs import asdict, define, field, frozen

from kling_async.journal.base import INTERRUPTED, LostError
from kling_async.journal.serialization import to_json

if TYPE_CHECKING:
    from kling_async._postgres.transaction import Rows
    from kling_async.journal.postgres._schema import Database

_MAKE_BATCH = """
    INSERT INTO kling_async_batches (name) VALUES (%(name)s) ON CONFLICT DO NOTHING
"""
_FIND_BATCH = "SELECT id FROM kling_async_batches WHERE name = %(name)s"
_JOIN = """
    INSERT INTO kling_async_workers (batch, name, since, until)
    SELECT %(batch)s, %(name)s, now, now + %(lease)s * interval '1 second'
    FROM clock_timestamp() AS now
    RETURNING id, since
"""
_RENEW = """
    UPDATE kling_async_workers
    SET until = clock_timestamp() + %(lease)s * interval '1 second'
    WHERE id = %(worker)s RETURNING id;
"""
# Marks workers, and locks their rows; _REMOVE removes them in the same transaction. A worker that
# is in a transaction is alive.
_MARK_EXPIRED = """
    UPDATE kling_async_workers SET until = '-infinity' WHERE id IN (
        SELECT id FROM kling_async_workers
        WHERE batch = %(batch)s AND until < clock_timestamp() FOR UPDATE SKIP LOCKED);
"""
_MARK_LEAVING = """
    UPDATE kling_async_workers SET until = '-infinity' WHERE id = %(worker)s;
"""
# The tasks of items that were being sent may have been started.
_REMOVE = """
    WITH lost AS (
        UPDATE kling_async_items SET state = 'unsure', failure = %(failure)s, worker = NULL,
            held = false, changed_at = clock_timestamp(), moved_at = clock_timestamp()
        WHERE held AND state = 'submitting' AND worker IN (
            SELECT id FROM kling_async_workers WHERE batch = %(batch)s AND until = '-infinity')
        RETURNING id, attempt, state, changed_at, failure
    )
    INSERT INTO kling_async_history (item, attempt, state, at, failure) SELECT * FROM lost;
    UPDATE kling_async_items SET worker = NULL, held = false WHERE held AND worker IN (
        SELECT id FROM kling_async_workers WHERE batch = %(batch)s AND until = '-infinity');
    DELETE FROM kling_async_workers WHERE batch = %(batch)s AND until = '-infinity';
"""
_WORKERS = """
    SELECT w.name, w.since, extract(epoch FROM w.until - clock_timestamp())::float8,
        (SELECT count(*) FROM kling_async_items AS i WHERE i.worker = w.id AND i.held)
    FROM kling_async_workers AS w WHERE w.batch = %(batch)s ORDER BY w.id
"""


@frozen
class WorkerInfo:
    """A worker of a batch, as other workers see it.

    Attributes:
        name: Its host and process.
        since: When it opened the journal, by the server's clock.
        lease: Seconds until its lease expires. If negative, the next worker that renews its own
            lease releases the items of this one.
        items: How many items it has.
    """

    name: str
    since: datetime
    lease: float
    items: int


@define
class WorkerSession:
    """The worker that this process is, from opening the journal to closing it."""

    batch: int
    id: int
    since: datetime
    lease: float
    commit_numbers: Iterator[int] = field(init=False, factory=lambda: count(1))


async def find_batch(db: Database, name: str) -> int | None:
    """Return the number of a batch, or None if there is no such batch."""
    (rows,) = await db.send(_FIND_BATCH, {"name": name})
    return rows[0][0] if rows else None


async def join_batch(db: Database, name: str, lease: float) -> WorkerSession:
    """Become a worker of a batch, which is created if it does not exist."""
    _, (row,) = await db.send(f"{_MAKE_BATCH};{_FIND_BATCH}", {"name": name})
    values = {"batch": row[0], "lease": lease, "name": f"{socket.gethostname()}:{os.getpid()}"}
    # What expired workers leave behind was so when this one came: to it, nothing has changed.
    *_, ((worker, since),) = await _remove_workers(db, _MARK_EXPIRED, values, _JOIN)
    return WorkerSession(row[0], worker, since, lease)


async def renew_lease(db: Database, session: WorkerSession) -> None:
    """Renew this worker's lease, and release the items of those whose lease has expired.

    Raises:
        LostError: This worker's lease has expired.
    """
    values = {"batch": session.batch, "worker": session.id, "lease": session.lease}
    renewed, *_ = await _remove_workers(db, _RENEW + _MARK_EXPIRED, values)
    check_alive(renewed, session)


async def leave_batch(db: Database, session: WorkerSession) -> None:
    """Release this worker's items, and end it."""
    await _remove_workers(db, _MARK_LEAVING, {"batch": session.batch, "worker": session.id})


async def _remove_workers(
    db: Database, mark: str, values: Mapping[str, object], then: str = ""
) -> list[Rows]:
    failure = to_json(asdict(INTERRUPTED))
    return await db.send(mark + _REMOVE + then, {**values, "failure": failure})


def check_alive(rows: object, session: WorkerSession) -> None:
    """Raise :class:`LostError` if this worker's row was not found."""
    if not rows:
        raise LostError(
            f"this worker's lease of {session.lease:g} s has expired, and another worker has taken"
            " over its items: run again to continue with the rest"
        )


async def read_workers(db: Database, batch: int) -> list[WorkerInfo]:
    """Return the workers that share a batch, oldest first."""
    (rows,) = await db.send(_WORKERS, {"batch": batch})
    return [WorkerInfo(name, since.astimezone(UTC), lease, n) for name, since, lease, n in rows]
