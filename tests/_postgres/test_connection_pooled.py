"""PostgreSQL through PgBouncer, which gives a session to another client with each transaction."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psycopg
import pytest

from kling_async._postgres.connection import ConnectionManager
from kling_async._postgres.transaction import is_pooled
from kling_async.fleet.job_store import JobStore
from kling_async.journal.address import Address
from kling_async.journal.base import ItemState, Planned, Transition
from kling_async.journal.postgres.journal import PostgresJournal
from kling_async.webhooks.relay.backends import READ_WAIT, RelayBackend, open_backend

if TYPE_CHECKING:
    from tests.engines.postgres import Server

S = ItemState
SETTINGS = (
    "SELECT name, setting FROM pg_settings WHERE source = 'session'"
    " AND name NOT IN ('application_name', 'client_encoding', 'transaction_isolation',"
    " 'transaction_read_only', 'transaction_deferrable')"
)


@pytest.fixture
def pooled_url(postgres_url: str, postgres_server: Server, pooled_port: int) -> str:
    """Give the URL of an empty database, by way of PgBouncer."""
    return postgres_url.replace(f":{postgres_server.port}/", f":{pooled_port}/")


def left_in_sessions(url: str) -> set[tuple[str, ...]]:
    """Return the settings, prepared statements and channels that other clients would find."""
    found: set[tuple[str, ...]] = set()
    queries = (
        SETTINGS,
        "SELECT name FROM pg_prepared_statements",
        "SELECT * FROM pg_listening_channels()",
    )
    clients = [psycopg.connect(url, autocommit=True, prepare_threshold=None) for _ in range(2)]
    sessions = set()
    for db in clients:  # both at once, so that they have both sessions of the pool
        db.execute("BEGIN")
    for db in clients:
        sessions.add(db.execute("SELECT pg_backend_pid()").fetchone())
        for query in queries:
            found |= {tuple(map(str, row)) for row in db.execute(query.encode()).fetchall()}
        db.execute("COMMIT")
        db.close()
    assert len(sessions) == 2
    return found


async def test_a_journal(pooled_url: str) -> None:
    """A journal works, and leaves nothing in sessions that other applications get."""
    before = left_in_sessions(pooled_url)
    async with PostgresJournal(pooled_url) as one, PostgresJournal(pooled_url) as other:
        for journal in (one, other):
            await journal.plan([Planned(str(number), {}) for number in range(30)])
        await asyncio.gather(
            *(
                journal.record(Transition(str(number), S.SUBMITTING, datetime.now(UTC)))
                for number, journal in enumerate([one, other] * 15)
            )
        )
        assert (await one.summary()).attempts == 30
        assert len(await other.workers()) == 2
        assert left_in_sessions(pooled_url) == before


async def test_a_relay(pooled_url: str) -> None:
    """What one process publishes others read soon; no session of other applications listens."""
    before = left_in_sessions(pooled_url)
    engines = [open_backend(pooled_url, ("one",)) for _ in range(3)]

    async def read(engine: RelayBackend) -> list[str]:
        lines: list[str] = []
        while len(lines) < 20:
            lines += await engine.read()
        return lines

    try:
        readers = [asyncio.create_task(read(engine)) for engine in engines]
        async with asyncio.timeout(30):
            for number in range(20):
                await engines[number % 2].publish([str(number)])
            for reader in readers:
                assert await reader == [str(number) for number in range(20)]
        began = asyncio.get_running_loop().time()
        assert list(await engines[0].read()) == []
        assert asyncio.get_running_loop().time() - began < READ_WAIT
        assert left_in_sessions(pooled_url) == before
    finally:
        for engine in engines:
            await engine.close()


async def test_a_queue(pooled_url: str) -> None:
    """A queue works, and leaves nothing in sessions that other applications get."""
    before = left_in_sessions(pooled_url)
    async with (
        JobStore(Address.parse(pooled_url)) as one,
        JobStore(Address.parse(pooled_url)) as other,
    ):
        assert await one.enqueue([("a", b"{}"), ("b", b"{}")]) == 2
        await other.wait_for_jobs(0.1)
        assert len(await other.dequeue(10)) == 2
        assert left_in_sessions(pooled_url) == before


async def test_a_pooler_is_noticed(pooled_url: str) -> None:
    """A connection knows whether its session is its own."""
    connection = ConnectionManager(pooled_url)
    assert await connection.run(is_pooled) is True
    await connection.close()
