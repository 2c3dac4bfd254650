from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest

from kling_async import ConfigurationError, InputError, JournalError
from kling_async.fleet.job_store import JobStore
from kling_async.journal.address import Address
from tests.engines.postgres import suspended
from tests.patience import HANGS

if TYPE_CHECKING:
    from tests.fleet.conftest import ReadJobs

ROWS = [(f"key {number}", b"{}") for number in range(5)]


@pytest.fixture
def address(url: str) -> Address:
    """Return the address of the batch."""
    return Address.parse(url)


async def execute(url: str, query: str) -> None:
    """Execute a query on another connection."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as db:
        await db.execute(query.encode())


CUT = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND datname = current_database()
"""


async def test_each_job_is_dequeued_once(address: Address) -> None:
    """Jobs are dequeued in the order in which they came, each by one worker."""
    async with JobStore(address) as one, JobStore(address) as other:
        assert await one.enqueue(ROWS) == 5
        first, rest = await one.dequeue(2), await other.dequeue(10)
        assert [job.id for job in (*first, *rest)] == sorted(job.id for job in (*first, *rest))
        assert (len(first), len(rest)) == (2, 3)
        assert await other.dequeue(10) == []


async def test_deduplicated(address: Address) -> None:
    """A job that waits or is held is not enqueued again; a finished one may be."""
    async with JobStore(address) as jobs:
        assert await jobs.enqueue(ROWS) == 5
        (job,) = await jobs.dequeue(1)
        assert await jobs.enqueue(ROWS[:2]) == 0
        await jobs.finish([(job, None)])
        assert await jobs.enqueue([*ROWS, *ROWS]) == 1


async def test_queues_are_apart(url: str, postgres_url: str) -> None:
    """Batches of other names in the database have other queues."""
    other = Address.parse(postgres_url, "wolves")
    async with JobStore(Address.parse(url)) as foxes, JobStore(other) as wolves:
        assert await foxes.enqueue(ROWS) == await wolves.enqueue(ROWS) == 5
        assert len(await wolves.dequeue(100)) == 5
        assert await wolves.dequeue(100) == []
        assert (await foxes.count_open(), await wolves.count_open()) == (5, 5)


async def test_tables_made_by_many_at_once(address: Address) -> None:
    """Workers that start at the same time create the tables once."""
    several = [JobStore(address) for _ in range(5)]
    await asyncio.gather(*(one.__aenter__() for one in several))
    assert await several[0].enqueue(ROWS) == 5
    await asyncio.gather(*(one.__aexit__(None, None, None) for one in several))


async def test_done_and_set_aside(address: Address, jobs: ReadJobs) -> None:
    """What is done with is gone; what made no sense is kept as failed, and counts no more."""
    async with JobStore(address) as queue:
        await queue.enqueue(ROWS[:3])
        one, other, _ = await queue.dequeue(3)
        await queue.finish([(one, None), (other, InputError("no such mode"))])
        assert await queue.count_open() == 1
        assert await queue.dequeue(10) == []
    assert [status for _, status in await jobs()] == ["failed", "picked"]


async def test_the_dead_leave_their_jobs(address: Address, postgres_url: str) -> None:
    """Only the jobs of a worker that sends no heartbeat are taken by others after the lease."""
    time_passes = "UPDATE pgqueuer SET heartbeat = heartbeat - interval '40 s'"
    async with (
        JobStore(address, 60) as dead,
        JobStore(address, 60) as living,
        JobStore(address, 60) as heir,
    ):
        await dead.enqueue(ROWS[:2])
        (lost,), (kept,) = await dead.dequeue(1), await living.dequeue(1)
        await execute(postgres_url, time_passes)
        assert await heir.dequeue(10) == []
        await living.renew([kept])
        await execute(postgres_url, time_passes)
        assert [job.id for job in await heir.dequeue(10)] == [lost.id]


async def test_put_back(address: Address) -> None:
    """What is put back is others' at once, or later, as is said; and its tries are counted."""
    async with JobStore(address) as one, JobStore(address) as other:
        await one.enqueue(ROWS[:2])
        now, later = await one.dequeue(2)
        await one.requeue([now])
        await one.requeue([later], 0.4)
        (again,) = await other.dequeue(10)
        assert (again.id, again.attempts) == (now.id, 1)
        async with asyncio.timeout(5):
            await other.wait_for_jobs(60)  # as long as that one needs
            while not (found := await other.dequeue(10)):  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.01)
        assert [job.id for job in found] == [later.id]


@pytest.mark.parametrize("back", [False, True])
async def test_woken_by_jobs(address: Address, *, back: bool) -> None:
    """A job that is enqueued or requeued wakes a waiting worker; one that ends does not."""
    async with JobStore(address) as one, JobStore(address) as other:
        await one.enqueue(ROWS[:2])
        ended, job = await one.dequeue(2)
        async with asyncio.timeout(10):
            await other.wait_for_jobs(60)  # woken as it begins to listen
            waiting = asyncio.create_task(other.wait_for_jobs(60))
            await one.finish([(ended, None)])
            await asyncio.sleep(0.3)
            assert not waiting.done()
            await (one.requeue([job]) if back else one.enqueue(ROWS[2:3]))
            await waiting


async def test_waiting_ends(address: Address) -> None:
    """A wait ends after its timeout, or when it is woken."""
    async with JobStore(address) as jobs:
        await jobs.wait_for_jobs(0.3)
        async with asyncio.timeout(10):
            await jobs.wait_for_jobs(0.1)
            waiting = asyncio.create_task(jobs.wait_for_jobs(60))
            await asyncio.sleep(0.1)
            jobs.wake()
            await waiting


async def test_the_log_is_folded(address: Address, jobs: ReadJobs, postgres_url: str) -> None:
    """The log of pgqueuer keeps the number of finished jobs, and whole rows of the failed."""
    async with JobStore(address) as queue:
        await queue.enqueue(ROWS)
        taken = await queue.dequeue(5)
        await queue.finish([(job, InputError("no") if job is taken[0] else None) for job in taken])
        assert len(await jobs(log=True)) == 15
        await queue.fold_log()
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
    """A connection that is lost is replaced, and so is the listener's."""
    async with JobStore(address) as one, JobStore(address) as other:
        await one.enqueue(ROWS[:1])
        await other.wait_for_jobs(0.1)
        await execute(postgres_url, CUT)
        assert await one.enqueue(ROWS[1:]) == 4
        assert len(await other.dequeue(10)) == 5
        async with asyncio.timeout(10):
            await other.wait_for_jobs(60)  # woken as it listens again
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(other.wait_for_jobs(60))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await one.enqueue([("another", b"{}")])
        async with asyncio.timeout(10):
            await waiting


async def test_a_server_that_hangs(address: Address, postgres_url: str) -> None:
    """After hurry(), a server that does not answer is abandoned, and another connection is made."""
    async with JobStore(address, 600.0) as jobs:
        await jobs.enqueue(ROWS)
        with suspended(postgres_url):
            counting = asyncio.create_task(jobs.count_open())
            await asyncio.sleep(0.1)
            jobs.hurry()
            async with asyncio.timeout(20):
                assert await counting == 5


async def test_cancelled_while_the_server_hangs(address: Address, postgres_url: str) -> None:
    """A caller that is cancelled does not wait for the server; the store stays usable."""
    async with JobStore(address, 600.0) as jobs:
        await jobs.enqueue(ROWS)
        with suspended(postgres_url):
            counting = asyncio.create_task(jobs.count_open())
            await asyncio.sleep(0.1)
            counting.cancel()
            done, _ = await asyncio.wait((counting,), timeout=HANGS)
            assert done
            assert counting.cancelled()
        assert await jobs.count_open() == 5


async def test_cancelled_while_the_server_is_busy(address: Address, postgres_url: str) -> None:
    """A caller that is cancelled cancels its statement, and the connection is kept."""
    query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    async with JobStore(address, 600.0) as jobs:
        await jobs.enqueue(ROWS)
        async with await psycopg.AsyncConnection.connect(postgres_url) as db:
            before = await (await db.execute(query.encode())).fetchall()
            await db.execute("LOCK TABLE pgqueuer")
            counting = asyncio.create_task(jobs.count_open())
            await asyncio.sleep(0.1)
            counting.cancel()
            await asyncio.wait((counting,), timeout=HANGS)
            assert counting.cancelled()
        assert await jobs.count_open() == 5
        async with await psycopg.AsyncConnection.connect(postgres_url) as db:
            after = await (await db.execute(query.encode())).fetchall()
        assert len({*before} & {*after}) == 1


async def test_lost_before_the_hurry(address: Address, postgres_url: str) -> None:
    """A connection that was lost while idle is replaced, also after hurry()."""
    async with JobStore(address) as jobs:
        await jobs.enqueue(ROWS)
        taken = await jobs.dequeue(5)
        await execute(postgres_url, CUT)
        jobs.hurry()
        await jobs.requeue(taken)
        assert len(await jobs.dequeue(5)) == 5


@pytest.mark.parametrize("payload", ["hello", "[]", '{"operation": []}', "[" * 5000])
async def test_notifications_of_others(address: Address, postgres_url: str, payload: str) -> None:
    """Other notifications on pgqueuer's channel wake no worker and do not end the listener."""
    async with JobStore(address) as jobs, asyncio.timeout(20):
        await jobs.wait_for_jobs(60)  # woken as it begins to listen
        waiting = asyncio.create_task(jobs.wait_for_jobs(60))
        await execute(postgres_url, f"SELECT pg_notify('ch_pgqueuer', '{payload}')")
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await jobs.enqueue(ROWS[:1])
        await waiting


NOWHERE = "postgresql://someone:hidden@127.0.0.1:1/db?connect_timeout=1"


async def test_nowhere() -> None:
    """A database that cannot be reached is an error after half a lease, without the password."""
    with pytest.raises(JournalError, match=r"queue postgresql://someone@127.0.0.1:1/db") as caught:
        async with JobStore(Address.parse(NOWHERE), 0.2):
            pass
    assert "cannot be reached" in str(caught.value)
    assert "hidden" not in str(caught.value)


async def test_hurry() -> None:
    """After hurry(), a connection is attempted once, whatever the lease."""
    jobs = JobStore(Address.parse(NOWHERE), 600.0)
    jobs.hurry()
    async with asyncio.timeout(30):
        with pytest.raises(JournalError, match="cannot be reached"):
            await jobs.count_open()


async def test_no_right_to_install(postgres_url: str) -> None:
    """A user that may not create the tables gets an error that says so."""
    await execute(postgres_url, "DROP ROLE IF EXISTS visitor; CREATE ROLE visitor LOGIN")
    try:
        await execute(postgres_url, "ALTER ROLE visitor PASSWORD 'v1sitor'")
        parts = urlsplit(postgres_url)
        url = f"postgresql://visitor:v1sitor@{parts.hostname}:{parts.port}{parts.path}"
        with pytest.raises(JournalError, match="grant the user that right"):
            await JobStore(Address.parse(url)).__aenter__()
    finally:
        await execute(postgres_url, "DROP ROLE visitor")


async def test_not_allowed(address: Address, postgres_url: str) -> None:
    """What the server refuses is an error with advice."""
    async with JobStore(address) as jobs:
        await jobs.enqueue(ROWS[:1])
        taken = await jobs.dequeue(1)
        await execute(postgres_url, "ALTER TABLE pgqueuer RENAME TO gone")
        with pytest.raises(JournalError, match="has lost a table"):
            await jobs.dequeue(1)
        await execute(postgres_url, "ALTER TABLE gone RENAME TO pgqueuer")
        await execute(postgres_url, "ALTER TABLE pgqueuer RENAME COLUMN attempts TO tries")
        with pytest.raises(JournalError, match=r"pgq upgrade"):
            await jobs.requeue(taken)


def test_not_a_url() -> None:
    """A URL that libpq does not understand is refused, and not shown."""
    address = Address.parse("postgresql://someone:hidden@host/db?no_such_option=1")
    with pytest.raises(ConfigurationError, match="invalid postgresql:// URL") as caught:
        JobStore(address)
    assert "hidden" not in str(caught.value)
