"""Transactions of one message."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from kling_async._postgres.transaction import Connection, Rows, is_pooled, transact
from tests._postgres.connections import SETTINGS, connection_to

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def db(postgres_url: str) -> Iterator[psycopg.Connection]:
    """Connect as an operator does."""
    with psycopg.connect(postgres_url, autocommit=True) as db:
        db.execute("CREATE TABLE t (number integer)")
        yield db


async def test_several_statements(postgres_url: str, db: psycopg.Connection) -> None:
    """The rows of each statement are returned, and parameters of any type may be used in each."""
    values = {"text": "a'b\\%", "keys": ["x", "y,'{\\"], "bytes": b"\x00\xff'", "none": None}
    query = (
        "INSERT INTO t VALUES (1), (2); SELECT %(text)s, %(keys)s::text[];"
        " SELECT %(bytes)s::bytea, %(none)s; DELETE FROM t WHERE number = 1 RETURNING number"
    )
    async with connection_to(postgres_url) as connection:
        assert await connection.transact(query, values) == [
            [],
            [("a'b\\%", ["x", "y,'{\\"])],
            [(b"\x00\xff'", None)],
            [(1,)],
        ]
        assert await connection.transact("SELECT '100%'") == [[("100%",)]]
    assert db.execute("TABLE t").fetchall() == [(2,)]


async def test_all_or_nothing(postgres_url: str, db: psycopg.Connection) -> None:
    """If one statement fails, none was done, and the connection is in no transaction."""

    async def fail(db: Connection) -> list[Rows]:
        with pytest.raises(psycopg.errors.DivisionByZero):
            await transact(db, "INSERT INTO t VALUES (1); SELECT 1 / 0")
        return await transact(db, "TABLE t")

    async with connection_to(postgres_url) as connection:
        assert await connection.run(fail) == [[]]


@pytest.mark.parametrize("default", ["serializable", "repeatable read"])
async def test_settings_of_a_transaction(
    postgres_url: str, db: psycopg.Connection, default: str
) -> None:
    """Isolation level and timeouts are those of each transaction, and nothing stays for others."""
    name = db.info.dbname
    db.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{default}'".encode())

    async def settings(db: Connection) -> Rows:
        return await (await db.execute(SETTINGS)).fetchall()

    async with connection_to(postgres_url) as connection:
        assert await connection.transact(SETTINGS, timeout=3) == [
            [("read committed", "1500ms", "3s")]
        ]
        assert await connection.transact(SETTINGS) == [[("read committed", "5s", "10s")]]
        assert await connection.run(settings) == [(default, "0", "0")]


async def test_a_lock_that_is_held(postgres_url: str, db: psycopg.Connection) -> None:
    """A lock is not waited for after half of the time, also by a server whose client is gone."""
    async with connection_to(postgres_url) as connection:
        with db.transaction():
            db.execute("LOCK TABLE t")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                await connection.transact("TABLE t", timeout=0.2)
        assert await connection.transact("TABLE t", timeout=20) == [[]]


async def test_a_statement_that_takes_too_long(postgres_url: str) -> None:
    """The server itself ends it."""
    async with connection_to(postgres_url) as connection:
        with pytest.raises(psycopg.errors.QueryCanceled):
            await connection.run(lambda db: transact(db, "SELECT pg_sleep(60)", timeout=0.1))


@pytest.mark.parametrize("code", ["40001", "40P01"])
@pytest.mark.parametrize(("times", "done"), [(5, True), (6, False)])
async def test_what_is_undone_for_another(
    postgres_url: str, db: psycopg.Connection, code: str, times: int, *, done: bool
) -> None:
    """A transaction that the server has undone because of another one is repeated, five times."""
    db.execute("CREATE SEQUENCE tries")  # which nothing undoes
    raising = (
        "INSERT INTO t VALUES (1); DO $$ BEGIN IF nextval('tries') <= TIMES THEN"
        " RAISE USING ERRCODE = '=STATE='; END IF; END $$"
    )
    raising = raising.replace("TIMES", str(times)).replace("=STATE=", code)
    async with connection_to(postgres_url) as connection:
        if done:
            await connection.transact(raising)
        else:
            with pytest.raises(psycopg.errors.OperationalError):
                await connection.transact(raising)
    assert db.execute("TABLE t").fetchall() == [(1,)] * done
    assert db.execute("SELECT last_value FROM tries").fetchone() == (6,)


async def test_nothing_is_prepared(postgres_url: str) -> None:
    """No statement is prepared in the session, which a pooler may give to others."""

    async def often(db: Connection) -> Rows:
        for _ in range(10):
            await db.execute("SELECT %s", [1])
        return await (await db.execute("SELECT name FROM pg_prepared_statements")).fetchall()

    async with connection_to(postgres_url) as connection:
        assert await connection.run(often) == []
        assert await connection.run(is_pooled) is False
