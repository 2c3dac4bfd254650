"""A connection to PostgreSQL: how it is made, lost and replaced."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import pytest

from kling_async._postgres.connection import (
    ConnectionManager,
    parse_conninfo,
    timeout_for_lease,
)
from kling_async._postgres.errors import UnreachableError
from kling_async._postgres.transaction import Connection, Rows, next_notification, transact
from kling_async.errors import ConfigurationError
from tests._postgres.connections import connection_to
from tests.engines.postgres import suspended
from tests.patience import HANGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import ServeRaw


@pytest.fixture
def db(postgres_url: str) -> Iterator[psycopg.Connection]:
    """Connect as an operator does."""
    with psycopg.connect(postgres_url, autocommit=True) as db:
        db.execute("CREATE TABLE t (number integer)")
        yield db


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
            await connection.transact("SELECT 1")


async def test_no_answer(postgres_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A call that is given up raises TimeoutError, and the driver logs nothing."""
    caplog.set_level(logging.DEBUG, "psycopg")
    async with connection_to(postgres_url) as connection:
        with pytest.raises(UnreachableError, match=r"no answer within 0\.05 s"):
            await connection.run(lambda db: transact(db, "SELECT pg_sleep(60)"), timeout=0.05)
        assert await connection.transact("SELECT 1") == [[(1,)]]
    assert [record.message for record in caplog.records if "terminating" in record.message] == []


async def test_a_connection_that_was_closed(postgres_url: str) -> None:
    """Where the connection was closed, here or by the server, another one is made before use."""

    async def end(db: Connection) -> None:
        await db.close()

    async with connection_to(postgres_url) as connection:
        await connection.run(end)
        await connection.transact("SELECT 1")
        with psycopg.connect(postgres_url, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert await connection.transact("SELECT 1") == [[(1,)]]


async def test_cancelled_again_and_again(postgres_url: str) -> None:
    """However often the caller is cancelled, nothing of the call is left, and the line works."""
    async with connection_to(postgres_url) as connection:
        await connection.transact("SELECT 1")
        call = asyncio.create_task(connection.transact("SELECT pg_sleep(60)"))
        await asyncio.sleep(0.05)
        while not call.done():
            call.cancel()
            await asyncio.sleep(0)
        assert call.cancelled()
        assert len(asyncio.all_tasks()) == 1
        assert await connection.transact("SELECT 1") == [[(1,)]]


async def test_cancelled_while_connecting(serve_raw: ServeRaw) -> None:
    """A connection that is not there yet is given up, too, and a timeout is one all the same."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1_000):
            pass

    place = (await serve_raw(silent)).partition("://")[2]
    async with connection_to(f"postgresql://{place}/db") as connection:
        with pytest.raises(UnreachableError, match="no answer within"):
            await connection.transact("SELECT 1", timeout=0.05)
        call = asyncio.create_task(connection.transact("SELECT 1"))
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


async def test_a_server_that_hangs(postgres_url: str) -> None:
    """Work is repeated on another connection if the server does not answer."""
    async with connection_to(postgres_url, timeout=0.5, patience=60.0) as connection:
        await connection.transact("SELECT 1")
        with suspended(postgres_url):
            assert await connection.transact("SELECT 1") == [[(1,)]]


async def test_patience(postgres_url: str, db: psycopg.Connection) -> None:
    """After patience has run out, work is tried once per call until it succeeds."""
    loop = asyncio.get_running_loop()
    calls: list[float] = []

    async def work(connection: Connection) -> list[Rows]:
        calls.append(loop.time())
        return await transact(connection, "TABLE t", timeout=0.02)

    async with connection_to(postgres_url, patience=0.3) as connection:
        with db.transaction():
            db.execute("LOCK TABLE t")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                await connection.run(work)
            assert len(calls) > 1
            assert loop.time() - calls[0] > 0.2  # the last one may have begun long before
            del calls[:]
            with pytest.raises(psycopg.errors.LockNotAvailable):
                await connection.run(work)
            assert len(calls) == 1
        assert await connection.run(work) == [[]]


async def test_a_hurry(postgres_url: str, db: psycopg.Connection) -> None:
    """A hurry shortens the wait that is under way; the work is repeated once."""
    async with connection_to(postgres_url, timeout=600.0, patience=600.0) as connection:
        await connection.transact("SELECT 1")
        with suspended(postgres_url):
            call = asyncio.create_task(connection.transact("SELECT 1"))
            await asyncio.sleep(0.1)
            connection.hurry(1.0)
            assert await call == [[(1,)]]
        with db.transaction():
            db.execute("LOCK TABLE t")
            with pytest.raises((UnreachableError, psycopg.errors.QueryCanceled)):
                await connection.transact("TABLE t", timeout=600.0)
        connection.hurry(None)
        assert await connection.transact("TABLE t") == [[]]


async def test_a_cancelled_statement(postgres_url: str, db: psycopg.Connection) -> None:
    """The server cancels the statement of a caller that is cancelled; the connection is kept."""
    pid = "SELECT pg_backend_pid()"
    async with connection_to(postgres_url) as connection:
        before = await connection.transact(pid)
        call = asyncio.create_task(connection.transact("SELECT pg_sleep(60)", timeout=100))
        await asyncio.sleep(0.1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await connection.transact(pid) == before
    running = "SELECT FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND state = 'active'"
    assert db.execute(running + " AND pid <> pg_backend_pid()").fetchall() == []


async def test_a_cancelled_caller_whose_server_hangs(postgres_url: str) -> None:
    """The connection is cut, and the next call makes another one."""
    async with connection_to(postgres_url) as connection:
        await connection.transact("SELECT 1")
        with suspended(postgres_url):
            call = asyncio.create_task(connection.transact("SELECT 1"))
            await asyncio.sleep(0.1)
            call.cancel()
            await asyncio.wait([call], timeout=HANGS)
            assert call.cancelled()
            assert await connection.transact("SELECT 1") == [[(1,)]]


async def test_errors_of_the_work(postgres_url: str) -> None:
    """An error that is not the driver's is raised, and the connection is kept."""

    async def fail(_: Connection) -> None:
        raise ZeroDivisionError

    async with connection_to(postgres_url) as connection:
        before = await connection.transact("SELECT pg_backend_pid()")
        with pytest.raises(ZeroDivisionError):
            await connection.run(fail)
        assert await connection.transact("SELECT pg_backend_pid()") == before


async def test_an_error_in_the_preparation(postgres_url: str) -> None:
    """A connection that could not be prepared is not used."""
    prepared: list[int] = []

    async def prepare(db: Connection) -> None:
        prepared.append(db.info.backend_pid)
        if len(prepared) == 1:
            await transact(db, "SELECT pg_sleep(60)", timeout=0.1)

    async with connection_to(postgres_url, prepare=prepare) as connection:
        with pytest.raises(psycopg.errors.QueryCanceled):
            await connection.transact("SELECT 1")
        assert await connection.transact("SELECT pg_backend_pid()") == [[(prepared[1],)]]


async def test_notifications(postgres_url: str, db: psycopg.Connection) -> None:
    """A connection that listens waits for notifications, also for a limited time."""

    async def listen(connection: Connection) -> None:
        await connection.execute("LISTEN things")

    async with connection_to(postgres_url, prepare=listen, listens=True) as connection:
        assert await connection.run(partial(next_notification, timeout=0.01)) is None
        db.execute("NOTIFY things, 'first'")
        assert await connection.run(next_notification) == "first"
        waiting = asyncio.create_task(connection.run(next_notification))
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        db.execute("NOTIFY things, 'lost'")
        assert await connection.run(partial(next_notification, timeout=0.01)) is None


@pytest.mark.parametrize(("lease", "seconds"), [(60.0, 15.0), (1.0, 5.0)])
def test_the_timeout_for_a_lease(lease: float, seconds: float) -> None:
    """It is a part of the lease, and enough for any transaction."""
    assert timeout_for_lease(lease) == seconds


def test_parameters() -> None:
    """A URL's parameters override the defaults."""
    given = parse_conninfo("postgresql://me:a%40b@h/db?connect_timeout=3", read_only=True)
    assert (given["password"], given["connect_timeout"]) == ("a@b", "3")
    assert given["application_name"] == "kling_async"
    assert "target_session_attrs" not in given
    assert parse_conninfo("postgresql://h")["target_session_attrs"] == "read-write"
