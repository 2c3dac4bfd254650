"""The tables of a PostgreSQL journal."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from urllib.parse import urlsplit

import psycopg
import pytest

from kling_async.errors import JournalError
from kling_async.journal.base import ItemState, Planned, Transition
from kling_async.journal.postgres._schema import LOCK, SCHEMA
from kling_async.journal.postgres.journal import PostgresJournal
from kling_async.results import TaskRef


async def test_many_make_the_tables(postgres_url: str) -> None:
    """Several workers that find no tables create them once."""
    journals = [PostgresJournal(postgres_url) for _ in range(6)]
    await asyncio.gather(*(journal.__aenter__() for journal in journals))
    assert len(await journals[0].workers()) == 6
    await asyncio.gather(*(journal.close() for journal in journals))


async def test_another_makes_the_tables(postgres_url: str) -> None:
    """A worker that has waited while another one created the tables finds them."""
    async with await psycopg.AsyncConnection.connect(postgres_url) as db:
        await db.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        opening = asyncio.create_task(PostgresJournal(postgres_url).__aenter__())
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while await (await db.execute(waiting)).fetchall() != [(1,)]:
            assert not opening.done()
        await db.execute(SCHEMA.encode())
    journal = await opening
    assert len(await journal.workers()) == 1
    await journal.close()


async def test_another_format(postgres_url: str) -> None:
    """A journal of a newer version is not used."""
    async with PostgresJournal(postgres_url):
        pass
    with psycopg.connect(postgres_url, autocommit=True) as db:
        db.execute("UPDATE kling_async_journal SET format = 2")
    for read_only in (False, True):
        with pytest.raises(JournalError, match=r"has format 2.*install a newer one"):
            await PostgresJournal(postgres_url, read_only=read_only).__aenter__()


async def test_no_rights(postgres_url: str) -> None:
    """Without the right to create the tables the error says so."""
    with psycopg.connect(postgres_url, autocommit=True) as db:
        db.execute("DROP ROLE IF EXISTS guest")
        db.execute("CREATE ROLE guest LOGIN PASSWORD 'welcome-1n'")
    parts = urlsplit(postgres_url)
    url = postgres_url.replace(parts.netloc, f"guest:welcome-1n@{parts.hostname}:{parts.port}")
    with pytest.raises(JournalError, match="grant the user that right"):
        await PostgresJournal(url).__aenter__()


async def test_a_server_that_only_reads(postgres_url: str) -> None:
    """A read-only server is not used for a batch, but for reading."""
    async with PostgresJournal(postgres_url):
        pass
    only = f"{postgres_url}?options=-c%20default_transaction_read_only%3Don"
    with pytest.raises(JournalError, match="read-only"):
        await PostgresJournal(only).__aenter__()
    async with PostgresJournal(only, read_only=True) as reader:
        assert [entry async for entry in reader.entries()] == []
    with pytest.raises(JournalError, match="connect to the primary"):
        await PostgresJournal(f"{only}&target_session_attrs=any").__aenter__()


async def test_tables_of_an_earlier_version(postgres_url: str) -> None:
    """Tables without a column for the trace are read as they are, and get one to be written."""
    async with PostgresJournal(postgres_url) as journal:
        await journal.plan([Planned("a", {})])
    with psycopg.connect(postgres_url, autocommit=True) as db:
        db.execute("ALTER TABLE kling_async_items DROP COLUMN trace")
    async with PostgresJournal(postgres_url, read_only=True) as reader:
        (entry,) = [entry async for entry in reader.entries()]
        assert (entry.key, entry.traceparent) == ("a", "")
    now, ref = datetime.now(UTC), TaskRef("kling-2-1", "task_1")
    async with PostgresJournal(postgres_url) as journal:
        await journal.record(
            Transition("a", ItemState.SUBMITTING, now),
            Transition("a", ItemState.SUBMITTED, now, ref, traceparent="00-trace"),
        )
        await journal.record(Transition("a", ItemState.FAILED, now))
        (claim,) = await journal.claim(entry)
        assert claim.entry.traceparent == "00-trace"
    async with PostgresJournal(postgres_url, read_only=True) as reader:
        (again,) = [entry async for entry in reader.entries()]
        assert again.traceparent == "00-trace"
