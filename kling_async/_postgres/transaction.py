"""Transactions that are sent in one message, and other operations on a connection.

:func:`transact` sends all statements of a transaction in one message. The server runs it to its end
even if this process is suspended or unreachable meanwhile, so that no lock is held across a round
trip. Timeouts and the isolation level apply to that transaction only: a pooler such as PgBouncer
may give the session to another application as soon as the transaction ends. It would refuse them
as ``options`` of the connection, and settings of the session would affect other applications.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TypeAlias

from psycopg import AsyncClientCursor, AsyncConnection
from psycopg.rows import AsyncRowFactory, tuple_row

from kling_async._postgres.errors import ROLLED_BACK

Connection: TypeAlias = AsyncConnection[tuple[Any, ...]]
Rows: TypeAlias = list[Any]

# How often a transaction is repeated that the server has rolled back because of another one.
_REPEATS = 5

# Seconds for a statement where the caller sets no limit.
_LONGEST = 10.0

# Several statements in one message are one transaction, and SET LOCAL ends with it. The isolation
# level is set because the database may have another default: what others have committed while this
# transaction waited for a lock must be visible. A lock is waited for half as long as a statement
# may take, so that few connections wait if it is held for long. Since every statement is limited,
# the server need not check the client (client_connection_check_interval).
_BEGIN = (
    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; "
    "SET LOCAL statement_timeout = {statement:d}; SET LOCAL lock_timeout = {lock:d};\n"
)
_BEGIN_STATEMENTS = 3


async def transact(
    db: Connection,
    query: str,
    values: Mapping[str, object] | None = None,
    *,
    timeout: float | None = None,
    row_factory: AsyncRowFactory[Any] = tuple_row,
) -> list[Rows]:
    """Run statements in one transaction (READ COMMITTED) that is sent in one message.

    Such a message has no parameters: values are quoted by the driver. A list becomes the text of
    an array, for example, which the statement casts (``%(keys)s::text[]``). A transaction that the
    server has rolled back because of another one is repeated up to five times. If an exception is
    raised, nothing was written, and the connection is not in a transaction.

    Args:
        db: The connection, in autocommit mode.
        query: One or more statements. None of them begins or ends a transaction.
        values: The values of ``%(name)s`` placeholders.
        timeout: Seconds after which the server ends a statement; it waits half as long for a lock.
        row_factory: As for a cursor.

    Returns:
        The rows of each statement; an empty list for a statement that returns no rows.

    Raises:
        psycopg.Error: The transaction failed.
    """
    limit = round(1000 * (_LONGEST if timeout is None else timeout))
    message = _BEGIN.format(statement=max(2, limit), lock=max(1, limit // 2)) + query
    for _ in range(_REPEATS):
        with suppress(*ROLLED_BACK):
            return await _send(db, message, values, row_factory)
    return await _send(db, message, values, row_factory)


async def _send(
    db: Connection,
    message: str,
    values: Mapping[str, object] | None,
    row_factory: AsyncRowFactory[Any],
) -> list[Rows]:
    answers: list[Rows] = []
    async with AsyncClientCursor(db, row_factory=row_factory) as cursor:
        # As bytes: text is typed as a literal.
        await cursor.execute(message.encode(), values)
        more: bool | None = True
        while more:
            answers.append(await cursor.fetchall() if cursor.description else [])
            more = cursor.nextset()
    return answers[_BEGIN_STATEMENTS:]


async def is_pooled(db: Connection) -> bool:
    """Return whether a pooler, such as PgBouncer, is between this process and the server.

    Then each transaction may be in another session, so that LISTEN does not work.
    """
    cursor = await db.execute("SELECT pg_backend_pid()")
    return await cursor.fetchone() != (db.info.backend_pid,)


async def next_notification(db: Connection, timeout: float | None = None) -> str | None:
    """Return the payload of the next notification, or None if none arrives in time."""
    async for notification in db.notifies(timeout=timeout, stop_after=1):
        return notification.payload
    return None
