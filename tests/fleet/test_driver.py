from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import psycopg
import pytest

from kling_async._postgres.connection import ConnectionManager
from kling_async.fleet._driver import ManagedDriver, make_queries, quote

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def connection(postgres_url: str) -> AsyncIterator[ConnectionManager]:
    """Connect to an empty database."""
    connection = ConnectionManager(postgres_url)
    yield connection
    await connection.close()


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("a'b\\$1", "text"),
        (7, "integer"),
        (2**40, "bigint"),
        (True, "boolean"),
        (b"\x00'", "bytea"),
        (timedelta(seconds=90), "interval"),
        (datetime(2026, 1, 2, tzinfo=UTC), "timestamp with time zone"),
        (UUID(int=7), "uuid"),
        ([b"a", None], "bytea[]"),
        ([timedelta(1), None], "interval[]"),
        ([1, 2], "smallint[]"),
    ],
)
async def test_values(connection: ConnectionManager, value: object, kind: str) -> None:
    """Values reach the server with their types, and come back in a row that is a dictionary."""
    driver = ManagedDriver(connection, 10.0)
    query = "SELECT $1 AS value, pg_typeof($1)::text AS kind, $2::int AS other"
    (row,) = await driver.fetch(query, value, 3)
    assert row["value"] == value
    assert row["kind"] in {kind, "unknown"}
    assert row["other"] == 3


async def test_several_statements(connection: ConnectionManager) -> None:
    """Without arguments several statements may be sent, in which names like $1 stay."""
    driver = ManagedDriver(connection, 10.0)
    await driver.execute(
        "CREATE FUNCTION twice(integer) RETURNS integer LANGUAGE sql AS 'SELECT 2 * $1';"
        " CREATE TABLE t AS SELECT twice(4)"
    )
    assert await driver.fetch("TABLE t") == [{"twice": 8}]


async def test_a_timeout(connection: ConnectionManager, postgres_url: str) -> None:
    """The server ends a statement that takes too long."""
    driver = ManagedDriver(connection, 0.2)
    async with await psycopg.AsyncConnection.connect(postgres_url) as other:
        await other.execute("CREATE TABLE t ()")
        await other.commit()
        await other.execute("LOCK TABLE t")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            await driver.fetch("TABLE t")


async def test_queries(connection: ConnectionManager) -> None:
    """Pgqueuer's queries work with the driver."""
    queries = make_queries(connection, 10.0)
    assert not await queries.schema_is_installed()
    await queries.install()
    assert await queries.schema_is_installed()
    await queries.driver.notify("channel", "payload")


async def test_quoting(connection: ConnectionManager) -> None:
    """Placeholders are replaced by literals, each in its place."""

    async def check(db: psycopg.AsyncConnection[tuple[object, ...]]) -> str:
        return quote(db, "SELECT $2, $10, $1", ("$2", *range(1, 10)))

    assert await connection.run(check) == "SELECT 1, 9, '$2'"
