"""Runs pgqueuer's statements on this package's connection manager.

pgqueuer's own driver for psycopg needs a permanent connection. It neither limits the duration of a
statement nor repeats it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

from pgqueuer.queries import Queries
from psycopg import sql
from psycopg.rows import dict_row

from kling_async._postgres.transaction import Connection, transact

if TYPE_CHECKING:
    from pgqueuer.ports.driver import Driver

    from kling_async._postgres.connection import ConnectionManager

_PLACEHOLDER = re.compile(r"\$(\d+)")


class ManagedDriver:
    """Runs each statement in a transaction of its own, which is one message.

    Args:
        connection: The connection manager.
        timeout: Seconds for a statement.
    """

    def __init__(self, connection: ConnectionManager, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout

    async def fetch(self, query: str, *args: object) -> list[dict[str, Any]]:
        """Return the rows of a statement."""

        async def send(db: Connection) -> list[dict[str, Any]]:
            *_, rows = await transact(
                db, quote(db, query, args), timeout=self._timeout, row_factory=dict_row
            )
            return rows

        return await self._connection.run(send, timeout=self._timeout)

    async def execute(self, query: str, *args: object) -> str:
        """Run a statement, or several without arguments."""
        await self.fetch(query, *args)
        return ""

    async def notify(self, channel: str, payload: str) -> None:
        """Send a notification."""
        await self.execute("SELECT pg_notify($1, $2)", channel, payload)


def make_queries(connection: ConnectionManager, timeout: float) -> Queries:
    """Return pgqueuer's queries, each of which may take so many seconds."""
    # They use no other methods of a driver.
    return Queries(cast("Driver", ManagedDriver(connection, timeout)))


def quote(db: Connection, query: str, args: tuple[object, ...]) -> str:
    """Return a query with literals, typed like parameters, in place of ``$1`` and so on."""
    if not args:
        return query  # the texts of functions may contain such names, too
    literals = [sql.Literal(argument).as_string(db) for argument in args]
    return _PLACEHOLDER.sub(lambda found: literals[int(found[1]) - 1], query)
