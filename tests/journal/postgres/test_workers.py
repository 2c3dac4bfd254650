"""The workers that share a batch on PostgreSQL: their leases, and how items are taken over."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from kling_async.errors import JournalError
from kling_async.journal.base import LostError, Ownership
from kling_async.journal.postgres.journal import LEASE, PostgresJournal
from tests.journal.examples import NOW, SUBMITTED, S, ownerships, planned, read_entries, transitions

if TYPE_CHECKING:
    import psycopg

MINE, OTHERS, DONE = Ownership


def expire(db: psycopg.Connection, place: int) -> None:
    """Let the lease of a worker expire: that of the first worker is 0."""
    db.execute(
        "UPDATE kling_async_workers SET until = clock_timestamp() - interval '1 second' WHERE id ="
        " (SELECT id FROM kling_async_workers WHERE batch = (SELECT max(id) FROM"
        " kling_async_batches) ORDER BY id OFFSET %s LIMIT 1)",
        (place,),
    )


async def test_an_expired_lease(batch_url: str, db: psycopg.Connection) -> None:
    """The items can be claimed; those that were being sent are unsure; the worker is removed."""
    async with PostgresJournal(batch_url) as two:
        async with PostgresJournal(batch_url) as one:
            await one.plan(planned("a", "b", "c", "d", "e"))
            await one.claim(*await read_entries(one))
            await one.record(*transitions("b", S.SUBMITTING), *transitions("c", *SUBMITTED))
            await one.record(*transitions("e", *SUBMITTED, S.FINISHED))
            expire(db, 1)
            assert {hold for hold, _ in (await ownerships(two)).values()} == {OTHERS}
            await asyncio.sleep(LEASE / 2)  # one of them renews its lease, and removes the other
            assert await ownerships(two) == dict.fromkeys("abcde", (MINE, True))
            assert len(await two.workers()) == 1
            for use in (
                one.record(*transitions("a", S.SUBMITTING)),
                one.plan([]),
                one.claim(),
                one.release("d"),
            ):
                with pytest.raises(JournalError, match=r"lease of 60 s has expired.*run again"):
                    await use
        found = {entry.key: entry.state for entry in await read_entries(two)}
        assert found == {"a": S.PLANNED, "b": S.UNSURE, "c": S.SUBMITTED, "d": S.PLANNED} | {
            "e": S.FINISHED
        }
        assert [move.state for move in await two.history("b")] == [
            S.PLANNED,
            S.SUBMITTING,
            S.UNSURE,
        ]
        await two.record(*transitions("c", S.FINISHED))


async def test_all_leases_have_expired(batch_url: str, db: psycopg.Connection) -> None:
    """A worker that comes when all leases have expired can claim everything at once."""
    one = await PostgresJournal(batch_url).__aenter__()
    await one.plan(planned("a", "b"))
    await one.record(*transitions("a", S.SUBMITTING), *transitions("b", *SUBMITTED))
    expire(db, 0)
    async with PostgresJournal(batch_url) as two:
        assert await ownerships(two) == {"a": (MINE, False), "b": (MINE, False)}
        assert [entry.state for entry in await read_entries(two)] == [S.UNSURE, S.SUBMITTED]
    await one.close()


async def test_a_lease_is_renewed(batch_url: str, db: psycopg.Connection) -> None:
    """A lease is renewed, also if there is nothing to write."""
    async with PostgresJournal(batch_url) as journal:
        db.execute("UPDATE kling_async_workers SET until = clock_timestamp() + interval '9 s'")
        await asyncio.sleep(LEASE / 4 + 0.1)
        assert (await journal.workers())[0].lease > LEASE - 5
        db.execute("UPDATE kling_async_workers SET until = clock_timestamp() + interval '9 s'")
        await journal.plan([])
        assert (await journal.workers())[0].lease > LEASE - 5


async def test_the_workers(batch_url: str) -> None:
    """The workers of a batch are listed with their items; readers are not."""
    before = datetime.now(UTC)
    async with PostgresJournal(batch_url, lease=9) as one, PostgresJournal(batch_url) as two:
        await one.claim(*(await two.plan(planned("a", "b"))))
        async with PostgresJournal(batch_url, read_only=True) as reader:
            first, second = await reader.workers()
        assert (first.items, second.items) == (2, 0)
        assert first.name.endswith(f":{os.getpid()}")
        assert 0 < first.lease <= 9 < second.lease <= LEASE
        assert abs((first.since - before).total_seconds()) < 60
        assert first.since.utcoffset() == NOW.utcoffset()
        await one.close()
        assert len(await two.workers()) == 1


async def test_a_failed_renewal(
    batch_url: str, db: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """A failed renewal is logged, and tried again."""
    async with PostgresJournal(batch_url) as journal:
        db.execute("ALTER TABLE kling_async_workers RENAME TO gone")
        await asyncio.sleep(LEASE)
        db.execute("ALTER TABLE gone RENAME TO kling_async_workers")
        assert caplog.text.count("has lost a table") >= 3
        await journal.plan([])


async def test_a_lost_lease(
    batch_url: str, db: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """A lost lease is final, and logged once; after opening again it is a new worker."""
    journal = PostgresJournal(batch_url)
    async with journal:
        gone = db.execute(
            "DELETE FROM kling_async_workers WHERE batch = %s RETURNING *",
            (journal._batch,),  # noqa: SLF001
        )
        with pytest.raises(LostError, match="has expired"):
            await journal.claim()
        await asyncio.sleep(LEASE)
        assert caplog.text.count("has expired") == 1
        back = "INSERT INTO kling_async_workers OVERRIDING SYSTEM VALUE VALUES (%s,%s,%s,%s,%s,%s)"
        db.execute(back, gone.fetchone())
        for use in (journal.claim(), journal.plan([])):
            with pytest.raises(LostError, match="has expired"):
                await use
        assert await read_entries(journal) == []
    async with journal:
        await journal.claim()
