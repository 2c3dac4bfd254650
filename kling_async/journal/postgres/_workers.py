"""The workers that share a batch on PostgreSQL: who lives, and what becomes of the others' items.

A worker is one row with a time until which it is believed to live, by the server's clock. All that
it has in hand hangs on that row: to renew it is one statement, however much that is. Who takes the
row of another away, under its lock, takes its items in the same transaction; a worker whose row is
gone writes nothing any more. So it does not matter whose clock is wrong, or who was asleep.

Everything here blocks: it runs in the journal's own thread.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from attrs import asdict, frozen

from kling_async.journal.base import GIVEN_UP, LostError
from kling_async.journal.text import write

if TYPE_CHECKING:
    from kling_async.journal.postgres._link import Connection

_JOIN = """
    INSERT INTO kling_async_workers (batch, name, since, until)
    SELECT %s, %s, now, now + %s * interval '1 second' FROM clock_timestamp() AS now
    RETURNING id, since
"""
_RENEW = """
    UPDATE kling_async_workers SET until = clock_timestamp() + %s * interval '1 second'
    WHERE id = %s RETURNING id
"""
_LAPSED = """
    SELECT id FROM kling_async_workers WHERE batch = %s AND until < clock_timestamp()
    FOR UPDATE SKIP LOCKED
"""
# Their tasks may have been started, and nobody has heard.
_GIVE_UP = """
    WITH lost AS (
        UPDATE kling_async_items SET state = 'unsure', failure = %(failure)s, worker = NULL,
            held = false, changed_at = clock_timestamp(), moved_at = clock_timestamp()
        WHERE worker = ANY(%(workers)s) AND held AND state = 'submitting'
        RETURNING id, attempt, state, changed_at, failure
    )
    INSERT INTO kling_async_history (item, attempt, state, at, failure) SELECT * FROM lost
"""
_LET_GO = """
    UPDATE kling_async_items SET worker = NULL, held = false WHERE worker = ANY(%s) AND held
"""
_WORKERS = """
    SELECT w.name, w.since, extract(epoch FROM w.until - clock_timestamp())::float8,
        (SELECT count(*) FROM kling_async_items AS i WHERE i.worker = w.id AND i.held)
    FROM kling_async_workers AS w WHERE w.batch = %s ORDER BY w.id
"""


@frozen
class Worker:
    """A worker of a batch, as the others see it.

    Attributes:
        name: Its host and process.
        since: When it opened the journal, by the server's clock.
        lease: Seconds for which it is believed to live unless it is heard of; below 0, the next
            of the others takes its items.
        items: How many it has in hand.
    """

    name: str
    since: datetime
    lease: float
    items: int


@frozen
class WorkerSession:
    """The worker that this process is."""

    batch: int
    id: int
    since: datetime
    lease: float


def find_batch(db: Connection, name: str) -> int | None:
    """Return the number of a batch."""
    row = db.execute("SELECT id FROM kling_async_batches WHERE name = %s", (name,)).fetchone()
    return None if row is None else row[0]


def join(db: Connection, batch: str, lease: float) -> WorkerSession:
    """Become one of the workers of a batch, which is made if it is not there."""
    db.execute(
        "INSERT INTO kling_async_batches (name) VALUES (%s) ON CONFLICT DO NOTHING", (batch,)
    )
    number = find_batch(db, batch)
    assert number is not None  # noqa: S101 - for the type checker
    name = f"{socket.gethostname()}:{os.getpid()}"
    expire_dead(
        db, number
    )  # what they leave behind is no news then: it stood so when this one came
    ((me, since),) = db.execute(_JOIN, (number, name, lease)).fetchall()
    return WorkerSession(number, me, since, lease)


def renewal(me: WorkerSession) -> tuple[str, tuple[float, int]]:
    """Return the statement that renews a worker; it gives a row if the worker lives."""
    return _RENEW, (me.lease, me.id)


def renew(db: Connection, me: WorkerSession) -> None:
    """Say that this worker lives, and take the items of those that do not."""
    check(db.execute(*renewal(me)).fetchone(), me)
    expire_dead(db, me.batch)


def check(row: object, me: WorkerSession) -> None:
    """Complain if this worker is not among the living."""
    if row is None:
        raise LostError(
            f"this worker was not heard of for {me.lease:g} s, and another has taken over its"
            " items: run again to go on with what is left"
        )


def expire_dead(db: Connection, batch: int) -> None:
    """Take away the workers whose time has run out."""
    if dead := [number for (number,) in db.execute(_LAPSED, (batch,)).fetchall()]:
        _take_away(db, dead)


def leave(db: Connection, me: WorkerSession) -> None:
    """Be none of the workers any more."""
    _take_away(db, [me.id])


def _take_away(db: Connection, gone: Sequence[int]) -> None:
    failure = write(asdict(GIVEN_UP))
    db.execute(_GIVE_UP, {"failure": failure, "workers": list(gone)})
    db.execute(_LET_GO, (list(gone),))
    db.execute("DELETE FROM kling_async_workers WHERE id = ANY(%s)", (list(gone),))


def workers(db: Connection, batch: int) -> list[Worker]:
    """Return those who share a batch, the oldest first."""
    return [
        Worker(name, since.astimezone(UTC), lease, items)
        for name, since, lease, items in db.execute(_WORKERS, (batch,)).fetchall()
    ]
