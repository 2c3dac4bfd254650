from __future__ import annotations

import asyncio
import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from kling_async import ConfigurationError, InputError, JournalError
from kling_async.fleet.job_store import Done, Jobs
from kling_async.journal.address import Address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fleet.conftest import ReadJobs

ROWS = [(f"key {number}", b"{}") for number in range(5)]


@pytest.fixture
def address(url: str) -> Address:
    """Say where the jobs are."""
    return Address.parse(url)


async def execute(url: str, query: str) -> None:
    """Do something behind everybody's back."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as db:
        await db.execute(query.encode())


CUT = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND datname = current_database()
"""


async def test_each_is_taken_once(address: Address) -> None:
    """Jobs are taken in the order in which they came, each by one worker."""
    async with Jobs(address) as one, Jobs(address) as other:
        assert await one.add(ROWS) == 5
        first, rest = await one.take(2), await other.take(10)
        assert [job.id for job in (*first, *rest)] == sorted(job.id for job in (*first, *rest))
        assert (len(first), len(rest)) == (2, 3)
        assert await other.take(10) == []


async def test_each_is_there_once(address: Address) -> None:
    """A job that waits or is in hand is not put in again; one that is done with may be."""
    async with Jobs(address) as jobs:
        assert await jobs.add(ROWS) == 5
        (job,) = await jobs.take(1)
        assert await jobs.add(ROWS[:2]) == 0
        await jobs.done([Done(job)])
        assert await jobs.add([*ROWS, *ROWS]) == 1


async def test_queues_are_apart(url: str, postgres_url: str) -> None:
    """Batches of other names in the database have other queues."""
    other = Address.parse(postgres_url, "wolves")
    async with Jobs(Address.parse(url)) as foxes, Jobs(other) as wolves:
        assert await foxes.add(ROWS) == await wolves.add(ROWS) == 5
        assert len(await wolves.take(100)) == 5
        assert await wolves.take(100) == []
        assert (await foxes.left(), await wolves.left()) == (5, 5)


async def test_tables_made_by_many_at_once(address: Address) -> None:
    """Workers that start at one time do not stumble over each other's tables."""
    several = [Jobs(address) for _ in range(5)]
    await asyncio.gather(*(one.__aenter__() for one in several))
    assert await several[0].add(ROWS) == 5
    await asyncio.gather(*(one.__aexit__(None, None, None) for one in several))


async def test_done_and_set_aside(address: Address, jobs: ReadJobs) -> None:
    """What is done with is gone; what made no sense is kept as failed, and counts no more."""
    async with Jobs(address) as queue:
        await queue.add(ROWS[:3])
        one, other, _ = await queue.take(3)
        await queue.done([Done(one), Done(other, InputError("no such mode"))])
        assert await queue.left() == 1
        assert await queue.take(10) == []
    assert [status for _, status in await jobs()] == ["failed", "picked"]


async def test_the_dead_leave_their_jobs(address: Address, postgres_url: str) -> None:
    """The jobs of one who is not heard of are others' after the lease, not of one who is."""
    time_passes = "UPDATE pgqueuer SET heartbeat = heartbeat - interval '40 s'"
    async with Jobs(address, 60) as dead, Jobs(address, 60) as living, Jobs(address, 60) as heir:
        await dead.add(ROWS[:2])
        (lost,), (kept,) = await dead.take(1), await living.take(1)
        await execute(postgres_url, time_passes)
        assert await heir.take(10) == []
        await living.beat([kept])
        await execute(postgres_url, time_passes)
        assert [job.id for job in await heir.take(10)] == [lost.id]


async def test_put_back(address: Address) -> None:
    """What is put back is others' at once, or later, as is said; and its tries are counted."""
    async with Jobs(address) as one, Jobs(address) as other:
        await one.add(ROWS[:2])
        now, later = await one.take(2)
        await one.put_back([now])
        await one.put_back([later], 0.4)
        (again,) = await other.take(10)
        assert (again.id, again.attempts) == (now.id, 1)
        async with asyncio.timeout(5):
            await other.wait(60)  # as long as that one needs
            while not (found := await other.take(10)):  # noqa: ASYNC110 - told by no event
                await asyncio.sleep(0.01)
        assert [job.id for job in found] == [later.id]


@pytest.mark.parametrize("back", [False, True])
async def test_who_waits_hears_of_jobs(address: Address, *, back: bool) -> None:
    """One who waits is woken by a job that comes, or comes back, and not by one that ends."""
    async with Jobs(address) as one, Jobs(address) as other:
        await one.add(ROWS[:2])
        ended, job = await one.take(2)
        async with asyncio.timeout(10):
            await other.wait(60)  # woken as it begins to listen
            waiting = asyncio.create_task(other.wait(60))
            await one.done([Done(ended)])
            await asyncio.sleep(0.3)
            assert not waiting.done()
            await (one.put_back([job]) if back else one.add(ROWS[2:3]))
            await waiting


async def test_waiting_ends(address: Address) -> None:
    """Who waits does so no longer than was said, or until it is woken."""
    async with Jobs(address) as jobs:
        await jobs.wait(0.3)
        async with asyncio.timeout(10):
            await jobs.wait(0.1)
            waiting = asyncio.create_task(jobs.wait(60))
            await asyncio.sleep(0.1)
            jobs.wake()
            await waiting


async def test_the_log_is_folded(address: Address, jobs: ReadJobs, postgres_url: str) -> None:
    """Of jobs that are done with pgqueuer's log keeps counts, and whole rows of the failed."""
    async with Jobs(address) as queue:
        await queue.add(ROWS)
        taken = await queue.take(5)
        await queue.done(
            [Done(job, InputError("no") if job is taken[0] else None) for job in taken]
        )
        assert len(await jobs(log=True)) == 15
        await queue.tidy()
    assert [status for _, status in await jobs(log=True)] == ["failed"]
    async with await psycopg.AsyncConnection.connect(postgres_url) as db:
        found = await db.execute(
            "SELECT status::text, sum(count) FROM pgqueuer_statistics GROUP BY 1"
        )
        assert dict(await found.fetchall()) == {
            "queued": 5,
            "picked": 5,
            "successful": 4,
            "failed": 1,
        }


async def test_the_connection_is_lost(address: Address, postgres_url: str) -> None:
    """A connection that is cut is made anew, that on which news are heard, too."""
    async with Jobs(address) as one, Jobs(address) as other:
        await one.add(ROWS[:1])
        await other.wait(0.1)
        await execute(postgres_url, CUT)
        assert await one.add(ROWS[1:]) == 4
        assert len(await other.take(10)) == 5
        async with asyncio.timeout(10):
            await other.wait(60)  # woken as it listens again
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(other.wait(60))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await one.add([("another", b"{}")])
        async with asyncio.timeout(10):
            await waiting


@contextmanager
def standing_still(url: str) -> Iterator[None]:
    """Let those processes of the server do nothing that serve the database now."""
    with psycopg.connect(url, autocommit=True) as db:
        found = db.execute(
            "SELECT pid FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        ).fetchall()
    for (process,) in found:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for (process,) in found:
            os.kill(process, signal.SIGCONT)


async def test_a_server_that_hangs(address: Address, postgres_url: str) -> None:
    """In a hurry a server that does not answer is waited for no longer, and another is asked."""
    async with Jobs(address, 600.0) as jobs:
        await jobs.add(ROWS)
        with standing_still(postgres_url):
            asking = asyncio.create_task(jobs.left())
            await asyncio.sleep(0.1)
            jobs.hurry()
            async with asyncio.timeout(20):
                assert await asking == 5


async def test_cancelled_while_the_server_hangs(address: Address, postgres_url: str) -> None:
    """Who is cancelled waits for no server, and may go on afterwards."""
    async with Jobs(address, 600.0) as jobs:
        await jobs.add(ROWS)
        with standing_still(postgres_url):
            asking = asyncio.create_task(jobs.left())
            await asyncio.sleep(0.1)
            asking.cancel()
            done, _ = await asyncio.wait((asking,), timeout=20)
            assert done
            assert asking.cancelled()
        assert await jobs.left() == 5


async def test_cancelled_while_the_server_is_busy(address: Address, postgres_url: str) -> None:
    """Who is cancelled cancels what the server is asked, and keeps the connection."""
    who = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    async with Jobs(address, 600.0) as jobs:
        await jobs.add(ROWS)
        async with await psycopg.AsyncConnection.connect(postgres_url) as db:
            before = await (await db.execute(who.encode())).fetchall()
            await db.execute("LOCK TABLE pgqueuer")
            asking = asyncio.create_task(jobs.left())
            await asyncio.sleep(0.1)
            asking.cancel()
            await asyncio.wait((asking,), timeout=20)
            assert asking.cancelled()
        assert await jobs.left() == 5
        async with await psycopg.AsyncConnection.connect(postgres_url) as db:
            after = await (await db.execute(who.encode())).fetchall()
        assert len({*before} & {*after}) == 1


async def test_lost_before_the_hurry(address: Address, postgres_url: str) -> None:
    """A connection that was lost while nobody asked anything is made anew, in a hurry, too."""
    async with Jobs(address) as jobs:
        await jobs.add(ROWS)
        taken = await jobs.take(5)
        await execute(postgres_url, CUT)
        jobs.hurry()
        await jobs.put_back(taken)
        assert len(await jobs.take(5)) == 5


@pytest.mark.parametrize("words", ["hello", "[]", '{"operation": []}', "[" * 5000])
async def test_words_of_others(address: Address, postgres_url: str, words: str) -> None:
    """What others tell where pgqueuer tells its news wakes nobody, and does not end the hearing."""
    async with Jobs(address) as jobs, asyncio.timeout(20):
        await jobs.wait(60)  # woken as it begins to listen
        waiting = asyncio.create_task(jobs.wait(60))
        await execute(postgres_url, f"SELECT pg_notify('ch_pgqueuer', '{words}')")
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await jobs.add(ROWS[:1])
        await waiting


NOWHERE = "postgresql://nobody:hidden@127.0.0.1:1/db?connect_timeout=1"


async def test_nowhere() -> None:
    """A database that cannot be reached is an error after half a lease, without the password."""
    with pytest.raises(JournalError, match=r"queue postgresql://nobody@127.0.0.1:1/db") as told:
        async with Jobs(Address.parse(NOWHERE), 0.2):
            pass
    assert "cannot be reached" in str(told.value)
    assert "hidden" not in str(told.value)


async def test_in_a_hurry() -> None:
    """Who is in a hurry tries once, whatever the lease."""
    jobs = Jobs(Address.parse(NOWHERE), 600.0)
    jobs.hurry()
    async with asyncio.timeout(30):
        with pytest.raises(JournalError, match="cannot be reached"):
            await jobs.left()


async def test_not_allowed(address: Address, postgres_url: str) -> None:
    """What the server refuses is an error that says what to do."""
    async with Jobs(address) as jobs:
        await jobs.add(ROWS[:1])
        taken = await jobs.take(1)
        await execute(postgres_url, "ALTER TABLE pgqueuer RENAME TO gone")
        with pytest.raises(JournalError, match="has lost a table"):
            await jobs.take(1)
        await execute(postgres_url, "ALTER TABLE gone RENAME TO pgqueuer")
        await execute(postgres_url, "ALTER TABLE pgqueuer RENAME COLUMN attempts TO tries")
        with pytest.raises(JournalError, match=r"pgq upgrade"):
            await jobs.put_back(taken)


def test_not_a_url() -> None:
    """A URL that libpq does not understand is refused, and not shown."""
    address = Address.parse("postgresql://nobody:hidden@host/db?no_such_option=1")
    with pytest.raises(ConfigurationError, match="libpq") as told:
        Jobs(address)
    assert "hidden" not in str(told.value)
