"""One connection to PostgreSQL: transactions of one message, their timeouts, and how it ends."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from kling_async._postgres.connection import ConnectionManager
from kling_async._postgres.errors import UnreachableError
from kling_async._postgres.transaction import Connection, Rows, execute, is_pooled
from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.conftest import ServeRaw

SETTINGS = (
    "SELECT current_setting('transaction_isolation'), current_setting('lock_timeout'),"
    " current_setting('statement_timeout')"
)


@asynccontextmanager
async def connection_to(url: str, **options: Any) -> AsyncIterator[ConnectionManager]:  # noqa: ANN401
    """Make a connection manager, and close it at the end."""
    connection = ConnectionManager(url, **options)
    try:
        yield connection
    finally:
        await connection.close()


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
        assert await connection.execute(query, values) == [
            [],
            [("a'b\\%", ["x", "y,'{\\"])],
            [(b"\x00\xff'", None)],
            [(1,)],
        ]
        assert await connection.execute("SELECT '100%'") == [[("100%",)]]
    assert db.execute("TABLE t").fetchall() == [(2,)]


async def test_all_or_nothing(postgres_url: str, db: psycopg.Connection) -> None:
    """If one statement fails, none was done, and the connection is in no transaction."""

    async def fail(db: Connection) -> list[Rows]:
        with pytest.raises(psycopg.errors.DivisionByZero):
            await execute(db, "INSERT INTO t VALUES (1); SELECT 1 / 0")
        return await execute(db, "TABLE t")

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
        assert await connection.execute(SETTINGS, timeout=3) == [
            [("read committed", "1500ms", "3s")]
        ]
        assert await connection.execute(SETTINGS) == [[("read committed", "5s", "10s")]]
        assert await connection.run(settings) == [(default, "0", "0")]


async def test_a_lock_that_is_held(postgres_url: str, db: psycopg.Connection) -> None:
    """A lock is not waited for after half of the time, also by a server whose client is gone."""
    async with connection_to(postgres_url) as connection:
        with db.transaction():
            db.execute("LOCK TABLE t")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                await connection.execute("TABLE t", timeout=0.2)
        assert await connection.execute("TABLE t", timeout=20) == [[]]


async def test_a_statement_that_takes_too_long(postgres_url: str) -> None:
    """The server itself ends it."""
    async with connection_to(postgres_url) as connection:
        with pytest.raises(psycopg.errors.QueryCanceled):
            await connection.run(lambda db: execute(db, "SELECT pg_sleep(60)", timeout=0.1))


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
            await connection.execute(raising)
        else:
            with pytest.raises(psycopg.errors.OperationalError):
                await connection.execute(raising)
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


async def test_a_network_that_is_checked(postgres_url: str) -> None:
    """The system looks whether an idle network is alive; what the URL says comes first."""

    async def parameters(db: Connection) -> dict[str, str]:
        return db.info.get_parameters()

    async with connection_to(f"{postgres_url}?keepalives_idle=77") as connection:
        used = await connection.run(parameters)
    assert {name: used[name] for name in ("keepalives_idle", "keepalives_count")} == {
        "keepalives_idle": "77",
        "keepalives_count": "3",
    }
    assert (used["tcp_user_timeout"], used["target_session_attrs"]) == ("20000", "read-write")


async def test_a_server_that_only_reads(postgres_url: str) -> None:
    """One that takes no writes, as after a failover, is not connected to."""
    async with connection_to(
        f"{postgres_url}?options=-cdefault_transaction_read_only%3Don"
    ) as connection:
        with pytest.raises(UnreachableError, match="read-only"):
            await connection.execute("SELECT 1")


async def test_no_answer(postgres_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A call that is given up raises TimeoutError, and the driver logs nothing."""
    caplog.set_level(logging.DEBUG, "psycopg")
    async with connection_to(postgres_url) as connection:
        with pytest.raises(UnreachableError, match=r"no answer within 0\.05 s"):
            await connection.run(lambda db: execute(db, "SELECT pg_sleep(60)"), timeout=0.05)
        assert await connection.execute("SELECT 1") == [[(1,)]]
    assert [record.message for record in caplog.records if "terminating" in record.message] == []


async def test_a_connection_that_was_closed(postgres_url: str) -> None:
    """Where the connection was closed, here or by the server, another one is made before use."""

    async def end(db: Connection) -> None:
        await db.close()

    async with connection_to(postgres_url) as connection:
        await connection.run(end)
        await connection.execute("SELECT 1")
        with psycopg.connect(postgres_url, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert await connection.execute("SELECT 1") == [[(1,)]]


async def test_cancelled_again_and_again(postgres_url: str) -> None:
    """However often the caller is cancelled, nothing of the call is left, and the line works."""
    async with connection_to(postgres_url) as connection:
        await connection.execute("SELECT 1")
        call = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
        await asyncio.sleep(0.05)
        while not call.done():
            call.cancel()
            await asyncio.sleep(0)
        assert call.cancelled()
        assert len(asyncio.all_tasks()) == 1
        assert await connection.execute("SELECT 1") == [[(1,)]]


async def test_cancelled_while_connecting(serve_raw: ServeRaw) -> None:
    """A connection that is not there yet is given up, too, and a timeout is one all the same."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1_000):
            pass

    place = (await serve_raw(silent)).partition("://")[2]
    async with connection_to(f"postgresql://{place}/db") as connection:
        with pytest.raises(UnreachableError, match="no answer within"):
            await connection.execute("SELECT 1", timeout=0.05)
        call = asyncio.create_task(connection.execute("SELECT 1"))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


@pytest.mark.parametrize("url", ["postgresql://u:p@ss@h/db", "postgresql://h/db?colour=s3cret"])
def test_invalid_urls(url: str) -> None:
    """A URL that libpq would misread is refused, without what may be a password."""
    with pytest.raises(ConfigurationError, match="invalid postgresql:// URL") as caught:
        ConnectionManager(url)
    assert "s3cret" not in str(caught.value)
    assert "p@ss" not in str(caught.value)
