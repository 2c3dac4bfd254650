"""Commits to a PostgreSQL journal: two round trips, and what happens if an answer is lost."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from random import Random
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from attrs import define, field

from kling_async.errors import JournalError
from kling_async.journal.address import Address
from kling_async.journal.base import ItemError, Ownership, Planned
from kling_async.journal.calls import Call
from kling_async.journal.postgres._commit import GroupCommit, PostgresChanges
from kling_async.journal.postgres._schema import Database, create_tables
from kling_async.journal.postgres._workers import join_batch
from kling_async.journal.postgres.journal import PostgresJournal
from tests.journal.examples import (
    SUBMITTED,
    S,
    plan_call,
    planned,
    read_entries,
    sending,
    transitions,
)
from tests.journal.postgres.lossy_proxy import LossyProxy
from tests.processes import unmeasured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from kling_async._postgres.transaction import Rows
    from kling_async.journal.base import Entry
    from kling_async.journal.postgres._workers import WorkerSession

MINE = Ownership.MINE

# What is in the requests of a commit.
READ, WRITE = b"SELECT commits", b"FOR UPDATE"


async def test_two_round_trips(batch_url: str) -> None:
    """A write of any number of calls asks the server twice."""
    proxy = LossyProxy(batch_url)
    async with proxy.open() as url, PostgresJournal(url) as journal:
        await journal.plan([Planned(key, {}) for key in "abc"])
        before = proxy.trips
        await journal.record(*map(sending, "abc"))
        assert proxy.trips == before + 2


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize("words", [WRITE, READ])
async def test_a_write_whose_answer_is_lost(batch_url: str, words: bytes, *, arrives: bool) -> None:
    """Whether it was committed or not: it is written once, and the call returns."""
    proxy = LossyProxy(batch_url)
    async with proxy.open() as url, PostgresJournal(url) as journal:
        (entry,) = await journal.plan([Planned("a", {})])
        setattr(proxy, "cut_after" if arrives else "cut_before", words)
        await journal.record(sending("a"))
        assert proxy.cuts == 1
        assert [move.state for move in await journal.history("a")] == [S.PLANNED, S.SUBMITTING]
        assert (await journal.plan([Planned("a", {})]))[0].state is S.SUBMITTING
        assert (await journal.claim(entry))[0].entry.state is S.SUBMITTING


async def test_a_plan_whose_answer_is_lost(batch_url: str) -> None:
    """It is planned once."""
    proxy = LossyProxy(batch_url)
    async with proxy.open() as url, PostgresJournal(url) as journal:
        proxy.cut_after = WRITE
        first = await journal.plan([Planned("a", {}), Planned("b", {})])
        assert proxy.cuts == 1
        assert await journal.plan([Planned("a", {}), Planned("b", {})]) == first
        assert len(await journal.history("a")) == 1


async def test_taken_over_while_the_answer_was_lost(batch_url: str) -> None:
    """A worker whose lease expired meanwhile gets an error, though the write may be stored."""
    proxy = LossyProxy(batch_url)
    async with proxy.open() as url, PostgresJournal(url) as journal:
        await journal.plan([Planned("a", {})])
        with psycopg.connect(batch_url.partition("?")[0], autocommit=True) as db:
            proxy.cut_after = WRITE
            proxy.closed = True
            writing = asyncio.create_task(journal.record(sending("a")))
            await proxy.was_cut.wait()
            db.execute("UPDATE kling_async_workers SET id = DEFAULT")
            proxy.closed = False
            with pytest.raises(JournalError, match="has expired"):
                await writing


@pytest.mark.parametrize(("times", "written"), [(1, True), (5, True), (6, False)])
async def test_a_rollback_of_the_server(postgres_url: str, times: int, *, written: bool) -> None:
    """A transaction that the server has rolled back is repeated, a few times."""
    async with PostgresJournal(postgres_url) as journal:
        await journal.plan([Planned("a", {})])
        with psycopg.connect(postgres_url, autocommit=True) as db:
            db.execute("CREATE SEQUENCE tries")  # which nothing undoes
            db.execute(
                "CREATE FUNCTION deadlock() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                f" IF nextval('tries') <= {times} THEN RAISE USING ERRCODE = '40P01'; END IF;"
                " RETURN NEW; END $$".encode()
            )
            db.execute(
                "CREATE TRIGGER deadlock BEFORE UPDATE ON kling_async_items"
                " FOR EACH ROW EXECUTE FUNCTION deadlock()"
            )
        if written:
            await journal.record(sending("a"))
        else:
            with pytest.raises(JournalError, match="cannot be used"):
                await journal.record(sending("a"))
        assert len(await journal.history("a")) == 1 + written


@pytest.fixture
async def db(batch_url: str) -> AsyncIterator[Database]:
    """Connect to a database with the tables of a journal."""
    address = Address.parse(batch_url)
    async with await psycopg.AsyncConnection.connect(
        address.conninfo, autocommit=True
    ) as connection:
        db = Database(connection, 10.0)
        await create_tables(db, address)
        yield db


def claim_call(*entries: Entry) -> Call[PostgresChanges]:
    """Return a call that claims items."""
    keys = [entry.key for entry in entries]
    return Call(keys, lambda changes: [changes.claim(entry) for entry in entries])


async def commit(db: Database, session: WorkerSession, call: Call[Any]) -> Any:  # noqa: ANN401
    """Commit one call; return its result."""
    (result,) = await GroupCommit(session, [call])(db)
    return result


async def test_a_row_that_changes_meanwhile(batch_url: str, db: Database) -> None:
    """A row that another worker changes between the round trips is read again."""
    name = Address.parse(batch_url).batch
    one, other = await join_batch(db, name, 60.0), await join_batch(db, name, 60.0)
    first, second = await commit(db, one, plan_call(Planned("a", {}), Planned("b", {})))

    @define
    class Meddler(Database):
        calls: list[str] = field(factory=list)

        async def send(self, query: str, values: Mapping[str, object] | None = None) -> list[Rows]:
            self.calls.append(query)
            if len(self.calls) == 2:
                await commit(db, other, claim_call(first))
            return await super().send(query, values)

    meddler = Meddler(db.connection, db.timeout)
    claims = await commit(meddler, one, claim_call(first, second))
    assert [claim.ownership for claim in claims] == [Ownership.OTHERS, Ownership.MINE]
    assert len(meddler.calls) == 4


async def test_a_key_that_is_planned_meanwhile(batch_url: str, db: Database) -> None:
    """A key that another worker plans between the round trips is planned once."""
    name = Address.parse(batch_url).batch
    one, other = await join_batch(db, name, 60.0), await join_batch(db, name, 60.0)
    plan = plan_call(Planned("a", {}))
    late = PostgresChanges(one, [])
    plan.apply(late)
    planned = await commit(db, other, plan)
    assert not await late.write(db, 1, 0)
    assert await commit(db, one, plan) == planned


async def test_a_message_that_arrives_late(batch_url: str, db: Database) -> None:
    """A message that reaches the server after the next commit writes nothing."""
    session = await join_batch(db, Address.parse(batch_url).batch, 60.0)
    late = PostgresChanges(session, [])
    late.plan([Planned("late", {})])
    await commit(db, session, plan_call(Planned("a", {})))
    assert not await late.write(db, 7, 0)
    query = "SELECT FROM kling_async_items WHERE key = 'late' AND batch = %(batch)s"
    assert await db.send(query, {"batch": session.batch}) == [[]]


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
            journal.record(*transitions("a", S.SUBMITTING)),
            journal.plan([Planned("ä" * 500, {})]),
            return_exceptions=True,
        )
        assert isinstance(refused, ItemError)
        assert moved is None
        assert isinstance(other, list)
        assert [entry.key for entry in await read_entries(journal)] == ["a", "ä" * 500]


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
        assert sorted(entry.key for entry in await read_entries(journals[0])) == sorted(keys)
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


async def test_calls_of_one_commit(batch_url: str, db: Database) -> None:
    """Calls during a commit share the next one; each of them sees the changes of earlier ones."""
    async with PostgresJournal(batch_url) as journal:
        found = await journal.plan(planned("a", "b"))
        counting = "SELECT commits FROM kling_async_workers ORDER BY id DESC LIMIT 1"
        (((before,),),) = await db.send(counting)
        await asyncio.gather(
            journal.plan([]),
            *(journal.record(*transitions("a", state)) for state in (*SUBMITTED, S.FINISHED)),
            journal.release("a", ended=True),
            journal.claim(*found),
            journal.peek(*found),
        )
        assert await db.send(counting) == [[(before + 2,)]]
        assert [worker.items for worker in await journal.workers()] == [2]


WORKER = """
import asyncio, sys
from datetime import UTC, datetime
from kling_async.journal.base import ItemState, Planned, Transition
from kling_async.journal.postgres.journal import PostgresJournal

async def main():
    async with PostgresJournal(sys.argv[1]) as journal:
        await journal.plan([Planned(str(number), {}) for number in range(20)])
        print("ready", flush=True)
        while True:
            for state in (ItemState.SUBMITTING, ItemState.PLANNED):
                now = datetime.now(UTC)
                await journal.record(*(Transition(str(n), state, now) for n in range(20)))

asyncio.run(main())
"""


async def test_a_process_that_is_suspended(batch_url: str, db: Database) -> None:
    """Whenever a process is suspended, it holds no lock in the server."""
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WORKER, batch_url),
        stdout=asyncio.subprocess.PIPE,
        env=unmeasured(),
    )
    assert worker.stdout is not None
    in_transaction = "SELECT 1 FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    dice = Random(3)  # noqa: S311 - moments, not secrets
    try:
        await worker.stdout.readline()
        async with PostgresJournal(batch_url) as journal:
            entries = await read_entries(journal)
            for _ in range(10):
                await asyncio.to_thread(time.sleep, dice.uniform(0.01, 0.1))
                worker.send_signal(signal.SIGSTOP)
                await asyncio.to_thread(time.sleep, 0.1)
                await journal.claim(*entries)
                assert await db.send(in_transaction) == [[]]
                worker.send_signal(signal.SIGCONT)
    finally:
        worker.kill()
        await worker.wait()
