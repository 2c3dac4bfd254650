"""Several workers that share a batch on PostgreSQL."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psycopg
import pytest

from kling_async.errors import ConfigurationError, JournalError
from kling_async.journal.base import (
    INTERRUPTED,
    Entry,
    ItemError,
    ItemState,
    Journal,
    LostError,
    Ownership,
    Planned,
    Transition,
)
from kling_async.journal.postgres.journal import LEASE, PostgresJournal
from kling_async.results import Result, SavedFile, TaskRef

if TYPE_CHECKING:
    from collections.abc import Iterator

S = ItemState
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
REF = TaskRef("kling-2-1", "task_1")
RESULT = Result(REF, ("https://example.com/a.mp4",))
FILES = (SavedFile("https://example.com/a.mp4", "a.mp4", 10, "00"),)
SUBMITTED = (S.SUBMITTING, S.SUBMITTED)

MINE, OTHERS, TOLD = Ownership


@pytest.fixture
def db(batch_url: str) -> Iterator[psycopg.Connection]:
    """Talk to the database itself."""
    with psycopg.connect(batch_url.partition("?")[0], autocommit=True) as db:
        yield db


def planned(*keys: str) -> list[Planned]:
    """Give items of one input."""
    return [Planned(key, {"prompt": "a fox"}) for key in keys]


def moves(key: str, *states: ItemState) -> list[Transition]:
    """Give moves of one item, with what they need."""
    return [Transition(key, state, NOW, ref=REF, result=RESULT, files=FILES) for state in states]


async def entries(journal: Journal, *states: ItemState) -> list[Entry]:
    """Read all entries in these states."""
    return [entry async for entry in journal.entries(*states)]


async def holds(journal: Journal, *, take: bool = True) -> dict[str, tuple[Ownership, bool]]:
    """Claim all items, or look; tell what became of each, and whether it is news."""
    found = await entries(journal)
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


@pytest.mark.parametrize("lease", [0, -1.0, float("inf"), float("nan")])
def test_a_lease_that_is_none(lease: float) -> None:
    """A lease is a number of seconds."""
    with pytest.raises(ConfigurationError, match="a lease must be"):
        PostgresJournal("postgresql://h/db", lease=lease)


async def test_an_item_is_in_one_hand(batch_url: str) -> None:
    """What one worker has claimed the others cannot claim, nor move, until he lets go of it."""
    async with PostgresJournal(batch_url) as one, PostgresJournal(batch_url) as two:
        first, second = await one.plan(planned("a", "b"))
        assert [claim.ownership for claim in await one.claim(first)] == [MINE]
        assert [claim.ownership for claim in await one.claim(first)] == [MINE]
        for take in (False, True):
            claims = await (two.claim if take else two.peek)(first, second)
            assert [claim.ownership for claim in claims] == [OTHERS, MINE]
            assert claims[0].entry == first
        with pytest.raises(JournalError, match="'a' is claimed by another worker"):
            await two.record(*moves("a", S.SUBMITTING))
        await two.release("a")
        with pytest.raises(JournalError, match="'b' is claimed by another worker"):
            await one.record(*moves("a", S.SUBMITTING), *moves("b", S.SUBMITTING))
        assert [entry.state for entry in await entries(one)] == [S.PLANNED, S.PLANNED]
        await one.release("a")
        await two.record(*moves("a", S.SUBMITTING))
        assert (await one.claim(first))[0].ownership is OTHERS


async def test_who_asks_disturbs_nobody(batch_url: str, db: psycopg.Connection) -> None:
    """Whether an item is in another's hand is found out without waiting for that one."""
    async with PostgresJournal(batch_url) as one, PostgresJournal(batch_url) as two:
        (first,) = await one.plan(planned(batch_url))
        await one.claim(first)
        with db.transaction():  # as when the other is writing
            db.execute("SELECT FROM kling_async_items WHERE key = %s FOR UPDATE", (batch_url,))
            assert (await two.claim(first))[0].ownership is OTHERS


async def test_a_look_takes_nothing(batch_url: str) -> None:
    """Who has looked at an item does not have it in hand."""
    async with PostgresJournal(batch_url) as one, PostgresJournal(batch_url) as two:
        entry = (await one.plan(planned("a")))[0]
        assert (await one.peek(entry))[0].ownership is MINE
        assert (await two.claim(entry))[0].ownership is MINE
        assert (await one.peek(entry))[0].ownership is OTHERS


async def test_a_move_claims(batch_url: str) -> None:
    """Who moves an item that nobody has in hand has it from then on."""
    async with PostgresJournal(batch_url) as one, PostgresJournal(batch_url) as two:
        await one.plan(planned("a"))
        await one.record(*moves("a", S.SUBMITTING, S.PLANNED))
        with pytest.raises(JournalError, match="claimed by another"):
            await two.record(*moves("a", S.SUBMITTING))


@pytest.mark.parametrize("end", [S.FINISHED, S.FAILED])
async def test_what_another_has_ended(batch_url: str, end: ItemState) -> None:
    """What another has ended since I came he tells; who comes later may do with it what he will."""
    async with PostgresJournal(batch_url) as one, PostgresJournal(batch_url) as two:
        await one.plan(planned("a"))
        await one.record(*moves("a", *SUBMITTED, end))
        assert await holds(two) == {"a": (OTHERS, False)}
        await one.release("a", ended=True)
        assert await holds(one) == {"a": (MINE, False)}
        await one.release("a", ended=True)
        assert await holds(two) == await holds(two, take=False) == {"a": (TOLD, True)}
    async with PostgresJournal(batch_url) as three, PostgresJournal(batch_url) as four:
        assert await holds(three) == {"a": (MINE, False)}
        assert await holds(four) == {"a": (OTHERS, False)}


@pytest.mark.parametrize("states", [[], SUBMITTED, [*SUBMITTED, S.FINISHED]])
async def test_what_another_hands_over(batch_url: str, states: list[ItemState]) -> None:
    """What another lets go of before its end is anybody's at once, with all that is known."""
    async with PostgresJournal(batch_url) as one, PostgresJournal(batch_url) as two:
        await one.claim(*(await one.plan(planned("a"))))
        await one.record(*moves("a", *states))
        await one.release("a")
        assert await holds(two) == {"a": (MINE, True)}
        assert await holds(one) == {"a": (OTHERS, False)}
        (entry,) = await entries(two)
        assert entry.ref == (REF if states else None)


async def test_what_is_being_sent_is_not_let_go_of(batch_url: str) -> None:
    """What is being sent stays in hand, and is unsure as soon as its worker goes, to all."""
    async with PostgresJournal(batch_url) as two:
        async with PostgresJournal(batch_url) as one:
            await one.plan(planned("a"))
            await one.record(*moves("a", S.SUBMITTING))
            await one.release("a")
            assert await holds(two) == {"a": (OTHERS, False)}
        (entry,) = await entries(two)
        assert (entry.state, entry.failure) == (S.UNSURE, INTERRUPTED)
        assert await holds(two) == {"a": (MINE, True)}


async def test_a_worker_that_is_not_heard_of(batch_url: str, db: psycopg.Connection) -> None:
    """What it had in hand is anybody's; what it was sending is unsure; the worker is gone."""
    async with PostgresJournal(batch_url) as two:
        async with PostgresJournal(batch_url) as one:
            await one.plan(planned("a", "b", "c", "d", "e"))
            await one.claim(*await entries(one))
            await one.record(*moves("b", S.SUBMITTING), *moves("c", *SUBMITTED))
            await one.record(*moves("e", *SUBMITTED, S.FINISHED))
            expire_dead(db, 1)
            assert {hold for hold, _ in (await holds(two)).values()} == {OTHERS}
            await asyncio.sleep(LEASE / 2)  # one of them is heard of, and looks for the others
            assert await holds(two) == dict.fromkeys("abcde", (MINE, True))
            assert len(await two.workers()) == 1
            for use in (
                one.record(*moves("a", S.SUBMITTING)),
                one.plan([]),
                one.claim(),
                one.release("d"),
            ):
                with pytest.raises(JournalError, match=r"lease of 60 s has expired.*run again"):
                    await use
        found = {entry.key: entry.state for entry in await entries(two)}
        assert found == {"a": S.PLANNED, "b": S.UNSURE, "c": S.SUBMITTED, "d": S.PLANNED} | {
            "e": S.FINISHED
        }
        assert [move.state for move in await two.history("b")] == [
            S.PLANNED,
            S.SUBMITTING,
            S.UNSURE,
        ]
        await two.record(*moves("c", S.FINISHED))


async def test_nobody_looks_after_the_dead(batch_url: str, db: psycopg.Connection) -> None:
    """Who comes when all are dead has everything in hand at once."""
    one = await PostgresJournal(batch_url).__aenter__()
    await one.plan(planned("a", "b"))
    await one.record(*moves("a", S.SUBMITTING), *moves("b", *SUBMITTED))
    expire_dead(db, 0)
    async with PostgresJournal(batch_url) as two:
        assert await holds(two) == {"a": (MINE, False), "b": (MINE, False)}
        assert [entry.state for entry in await entries(two)] == [S.UNSURE, S.SUBMITTED]
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
        assert await entries(journal) == []
    async with journal:
        await journal.claim()


async def test_batches_are_apart(batch_url: str) -> None:
    """Batches of other names in the same database have other items and other workers."""
    async with PostgresJournal(batch_url) as one, PostgresJournal(f"{batch_url}-2") as two:
        await one.plan(planned("a"))
        await two.plan([Planned("a", {})])
        await two.record(*moves("a", *SUBMITTED))
        assert [entry.state for entry in await entries(one)] == [S.PLANNED]
        assert (await one.summary()).attempts == 0
        assert (await two.summary()).attempts == 1
        assert [len(await one.history("a")), len(await two.history("a"))] == [1, 3]
        assert len(await one.workers()) == 1


@pytest.mark.parametrize(
    "item",
    [Planned("a", {}), Planned("b\0", {}), Planned("b\ud800", {}), Planned("ä" * 501, {})],
    ids=["another input", "nul", "surrogate", "too long"],
)
async def test_an_item_that_is_refused(batch_url: str, item: Planned) -> None:
    """An item that the journal refuses is an error of its own call, and of no other."""
    async with PostgresJournal(batch_url) as journal:
        await journal.plan(planned("a"))
        _, refused, moved, other = await asyncio.gather(
            journal.summary(),  # those that follow share a transaction
            journal.plan([*planned("b"), item]),
            journal.record(*moves("a", S.SUBMITTING)),
            journal.plan([Planned("ä" * 500, {})]),
            return_exceptions=True,
        )
        assert isinstance(refused, ItemError)
        assert moved is None
        assert isinstance(other, list)
        assert [entry.key for entry in await entries(journal)] == ["a", "ä" * 500]


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_a_database_that_isolates_more(postgres_url: str, level: str) -> None:
    """What others have committed meanwhile is seen, whatever the database's default is."""
    with psycopg.connect(postgres_url, autocommit=True) as db:
        name = db.info.dbname
        db.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'".encode())
    journals = [PostgresJournal(postgres_url) for _ in range(3)]
    try:
        for journal in journals:
            await journal.__aenter__()
        for number in range(20):
            given = planned(str(number))
            found = await asyncio.gather(*(journal.plan(given) for journal in journals))
            claims = await asyncio.gather(*(journal.claim(*found[0]) for journal in journals))
            assert [claim.ownership for (claim,) in claims].count(MINE) == 1
    finally:
        await asyncio.gather(*(journal.close() for journal in journals))


async def test_many_plan_the_same(batch_url: str) -> None:
    """Workers that plan the same items at a time write each once, in one order for all."""
    keys = [str(number) for number in range(50)]
    journals = [PostgresJournal(batch_url) for _ in range(4)]
    try:
        await asyncio.gather(*(journal.__aenter__() for journal in journals))
        await asyncio.gather(
            *(
                journal.plan(planned(*keys[at : at + 5]))
                for at in range(0, 50, 5)
                for journal in journals
            )
        )
        assert sorted(entry.key for entry in await entries(journals[0])) == sorted(keys)
        assert {len(await journals[0].history(key)) for key in keys} == {1}
    finally:
        await asyncio.gather(*(journal.close() for journal in journals))


async def test_many_claim_the_same(batch_url: str) -> None:
    """Of workers that claim the same items at a time, each item goes to one."""
    keys = [str(number) for number in range(60)]
    journals = [PostgresJournal(batch_url) for _ in range(4)]
    try:
        await asyncio.gather(*(journal.__aenter__() for journal in journals))
        found = await journals[0].plan(planned(*keys))
        claims = await asyncio.gather(
            *(journal.claim(entry) for entry in found for journal in journals)
        )
        mine = [claim.entry.key for (claim,) in claims if claim.ownership is MINE]
        assert sorted(mine) == sorted(keys)
    finally:
        await asyncio.gather(*(journal.close() for journal in journals))


async def test_calls_of_one_commit(batch_url: str, db: psycopg.Connection) -> None:
    """Calls made while a commit is under way share the next; each sees those before it."""
    async with PostgresJournal(batch_url) as journal:
        found = await journal.plan(planned("a", "b"))
        counting = "SELECT commits FROM kling_async_workers ORDER BY id DESC LIMIT 1"
        ((before,),) = db.execute(counting).fetchall()
        await asyncio.gather(
            journal.plan([]),
            *(journal.record(*moves("a", state)) for state in (*SUBMITTED, S.FINISHED)),
            journal.release("a", ended=True),
            journal.claim(*found),
            journal.peek(*found),
        )
        assert db.execute(counting).fetchall() == [(before + 2,)]
        assert [worker.items for worker in await journal.workers()] == [2]


@pytest.mark.parametrize("damage", ["state = 'lost'", "input = '{'", "ref = 'x'", "files = '5'"])
async def test_rows_that_make_no_sense(batch_url: str, db: psycopg.Connection, damage: str) -> None:
    """A row that cannot be understood is told as damage; other rows can be read and written."""
    async with PostgresJournal(batch_url) as journal:
        first, _ = await journal.plan(planned(batch_url, "b"))
        change = f"UPDATE kling_async_items SET {damage} WHERE key = %s"  # noqa: S608 - our own words
        db.execute(change.encode(), (batch_url,))
        for use in (journal.claim(first), journal.peek(first)):
            with pytest.raises(JournalError, match=r"is damaged .*cannot be read"):
                await use
        if damage[0] != "s":
            with pytest.raises(JournalError, match="is damaged"):
                await entries(journal)
        await journal.record(*moves("b", S.SUBMITTING))
        assert [entry.key for entry in await entries(journal, S.SUBMITTING)] == ["b"]
        db.execute(
            "UPDATE kling_async_history SET state = 'lost' WHERE item ="
            " (SELECT id FROM kling_async_items WHERE key = %s)",
            (batch_url,),
        )
        with pytest.raises(JournalError, match="is damaged"):
            await journal.history(batch_url)
