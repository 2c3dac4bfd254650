"""The workers that share a batch on PostgreSQL: their leases, and who takes over."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psycopg
import pytest

from kling_async.errors import JournalError
from kling_async.journal.base import LostError, Ownership
from kling_async.journal.postgres.journal import LEASE, PostgresJournal
from tests.journal.examples import NOW, SUBMITTED, S, planned, read_entries, transitions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kling_async.journal.base import Journal

MINE, OTHERS, DONE = Ownership


@pytest.fixture
def db(batch_url: str) -> Iterator[psycopg.Connection]:
    """Talk to the database itself."""
    with psycopg.connect(batch_url.partition("?")[0], autocommit=True) as db:
        yield db


async def holds(journal: Journal, *, take: bool = True) -> dict[str, tuple[Ownership, bool]]:
    """Claim all items, or look; tell what became of each, and whether it is news."""
    found = await read_entries(journal)
    claims = await (journal.claim if take else journal.peek)(*found)
    return {claim.entry.key: (claim.ownership, claim.changed) for claim in claims}


def expire_dead(db: psycopg.Connection, place: int) -> None:
    """Let the time of a worker run out: the first that has come is 0."""
    db.execute(
        "UPDATE kling_async_workers SET until = clock_timestamp() - interval '1 second' WHERE id ="
        " (SELECT id FROM kling_async_workers WHERE batch = (SELECT max(id) FROM"
        " kling_async_batches) ORDER BY id OFFSET %s LIMIT 1)",
        (place,),
    )


async def test_a_worker_that_is_not_heard_of(batch_url: str, db: psycopg.Connection) -> None:
    """What it had in hand is anybody's; what it was sending is unsure; the worker is gone."""
    async with PostgresJournal(batch_url) as two:
        async with PostgresJournal(batch_url) as one:
            await one.plan(planned("a", "b", "c", "d", "e"))
            await one.claim(*await read_entries(one))
            await one.record(*transitions("b", S.SUBMITTING), *transitions("c", *SUBMITTED))
            await one.record(*transitions("e", *SUBMITTED, S.FINISHED))
            expire_dead(db, 1)
            assert {hold for hold, _ in (await holds(two)).values()} == {OTHERS}
            await asyncio.sleep(LEASE / 2)  # one of them is heard of, and looks for the others
            assert await holds(two) == dict.fromkeys("abcde", (MINE, True))
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


async def test_nobody_looks_after_the_dead(batch_url: str, db: psycopg.Connection) -> None:
    """Who comes when all are dead has everything in hand at once."""
    one = await PostgresJournal(batch_url).__aenter__()
    await one.plan(planned("a", "b"))
    await one.record(*transitions("a", S.SUBMITTING), *transitions("b", *SUBMITTED))
    expire_dead(db, 0)
    async with PostgresJournal(batch_url) as two:
        assert await holds(two) == {"a": (MINE, False), "b": (MINE, False)}
        assert [entry.state for entry in await read_entries(two)] == [S.UNSURE, S.SUBMITTED]
    await one.close()


async def test_a_worker_is_heard_of(batch_url: str, db: psycopg.Connection) -> None:
    """A worker says that it lives, whether it has anything to write or not."""
    async with PostgresJournal(batch_url) as journal:
        db.execute("UPDATE kling_async_workers SET until = clock_timestamp() + interval '9 s'")
        await asyncio.sleep(LEASE / 4 + 0.1)
        assert (await journal.workers())[0].lease > LEASE - 5
        db.execute("UPDATE kling_async_workers SET until = clock_timestamp() + interval '9 s'")
        await journal.plan([])
        assert (await journal.workers())[0].lease > LEASE - 5


async def test_the_workers(batch_url: str) -> None:
    """Those who share a batch are told, with what they have in hand; readers are none of them."""
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


async def test_a_heart_that_fails(
    batch_url: str, db: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Who cannot say that it lives says so in the log, and tries again."""
    async with PostgresJournal(batch_url) as journal:
        db.execute("ALTER TABLE kling_async_workers RENAME TO gone")
        await asyncio.sleep(LEASE)
        db.execute("ALTER TABLE gone RENAME TO kling_async_workers")
        assert caplog.text.count("has lost a table") >= 3
        await journal.plan([])


async def test_a_worker_that_is_lost(
    batch_url: str, db: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Who was taken for dead is so for good, and says so once; opened again it is a new one."""
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
