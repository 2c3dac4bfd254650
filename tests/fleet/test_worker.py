from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from kling_async import (
    AuthenticationError,
    BalanceError,
    ConfigurationError,
    JournalError,
    MasterTextToVideo,
    Outcome,
)
from kling_async.fleet import Queue, Worker
from kling_async.journal.base import ItemState
from kling_async.journal.postgres.journal import PostgresJournal
from tests.engines.postgres import PASSWORD
from tests.fleet.conftest import accepted, items, prompts, put, until

if TYPE_CHECKING:
    from pathlib import Path

    from kling_async.testing import Emulator
    from tests.conftest import Emulate
    from tests.fleet.conftest import Dial, ReadEntries, ReadJobs

FOX = MasterTextToVideo("a fox in fresh snow")


async def test_all_are_done(
    emulator: Emulator, dial: Dial, url: str, entries: ReadEntries, jobs: ReadJobs, tmp_path: Path
) -> None:
    """Each item of the queue is processed, reported and saved once; the queue is empty."""
    await put(url, 30)
    outcomes: list[Outcome] = []
    worker = Worker(await dial(emulator), url, until_empty=True, download_to=tmp_path)
    await worker.run(outcomes.append)
    assert sorted(prompts(emulator), key=int) == [f"{n}" for n in range(30)]
    assert sorted(str(outcome.key) for outcome in outcomes) == sorted(i.key for i in items(30))
    assert all(path.is_file() for outcome in outcomes for path in outcome.files)
    assert {entry.state for entry in (await entries()).values()} == {ItemState.SAVED}
    assert worker.counts[ItemState.SAVED] == 30
    assert (worker.handed_over, worker.stopped) == (0, None)
    assert await jobs() == await jobs(log=True) == []


async def test_concurrency(emulate: Emulate, dial: Dial, url: str) -> None:
    """As many tasks run at one time as concurrency allows, and no more."""
    emulator = await emulate(speed=60.0, concurrent_tasks=3)
    await put(url, 9)
    await Worker(await dial(emulator), url, until_empty=True, concurrency=3).run()
    assert {arrival.status for arrival in emulator.requests} == {200}
    begun = [one.at for one in emulator.ledger]
    assert begun[2] < begun[0] + 1.0 <= begun[3]


async def test_several_share(
    emulator: Emulator, dial: Dial, url: str, entries: ReadEntries
) -> None:
    """Several workers divide the items among them; each is reported by one."""
    await put(url, 40)
    kling = await dial(emulator)
    outcomes: list[list[Outcome]] = [[], [], []]
    workers = [Worker(kling, url, concurrency=5, until_empty=True) for _ in outcomes]
    await asyncio.gather(*(w.run(t.append) for w, t in zip(workers, outcomes, strict=True)))
    assert len(emulator.ledger) == 40
    assert all(outcomes)
    assert sorted(str(o.key) for each in outcomes for o in each) == sorted(await entries())


async def test_an_idle_worker_is_woken(emulator: Emulator, dial: Dial, url: str) -> None:
    """An idle worker begins as soon as there is a job, and ends when it is stopped."""
    outcomes: list[Outcome] = []
    worker = Worker(await dial(emulator), url, lease=3600)
    running = asyncio.create_task(worker.run(outcomes.append))
    await asyncio.sleep(0.3)
    async with asyncio.timeout(20):
        async with Queue(url) as queue:
            await queue.put(items(1))
            await accepted(emulator, 1)
            await queue.put(items(2))
            await accepted(emulator, 2)
        await until(lambda: len(outcomes) == 2)
        worker.stop()
        await running


async def test_drained(
    emulate: Emulate, dial: Dial, url: str, entries: ReadEntries, jobs: ReadJobs
) -> None:
    """A worker that is stopped dequeues nothing more, and waits for its running items."""
    emulator = await emulate(speed=60.0)
    await put(url, 6)
    worker = Worker(await dial(emulator), url, concurrency=2)
    running = asyncio.create_task(worker.run())
    await accepted(emulator, 2)
    worker.stop()
    async with asyncio.timeout(10):  # not as long as it may
        await running
    assert len(emulator.ledger) == 2
    states = [entry.state for entry in (await entries()).values()]
    assert states.count(ItemState.FINISHED) == 2
    assert [status for _, status in await jobs()] == ["queued"] * 4
    assert worker.handed_over == 0


@pytest.mark.parametrize("hurried", [False, True])
async def test_handed_over(
    emulate: Emulate, dial: Dial, url: str, jobs: ReadJobs, *, hurried: bool
) -> None:
    """What has not ended in time is another's at once, who attaches it; nothing is paid twice."""
    emulator = await emulate(speed=20.0)  # three seconds
    await put(url, 2)
    kling = await dial(emulator)
    worker = Worker(kling, url, drain=3600 if hurried else 0.1)
    running = asyncio.create_task(worker.run())
    await accepted(emulator, 2)
    async with asyncio.timeout(2):
        worker.stop()
        if hurried:
            worker.stop()
        await running
    assert worker.handed_over == 2
    assert [status for _, status in await jobs()] == ["queued"] * 2
    outcomes: list[Outcome] = []
    async with asyncio.timeout(15):
        await Worker(kling, url, until_empty=True).run(outcomes.append)
    assert [outcome.done_by_other for outcome in outcomes] == [False, False]
    assert all(outcome.result for outcome in outcomes)
    assert len(emulator.ledger) == 2


async def test_handed_to_one_who_waits(emulate: Emulate, dial: Dial, url: str) -> None:
    """Jobs that are handed over wake a waiting worker at once."""
    emulator = await emulate(speed=30.0)
    await put(url, 1)
    kling = await dial(emulator)
    one, other = Worker(kling, url, drain=0, lease=3600), Worker(kling, url, lease=3600)
    first = asyncio.create_task(one.run())
    await accepted(emulator, 1)
    outcomes: list[Outcome] = []
    second = asyncio.create_task(other.run(outcomes.append))
    await asyncio.sleep(0.5)
    one.stop()
    await first
    await until(lambda: outcomes)
    other.stop()
    await second
    assert len(emulator.ledger) == 1


async def test_until_no_worker_has_jobs(emulate: Emulate, dial: Dial, url: str) -> None:
    """With until_empty, a worker waits for the jobs of other workers."""
    emulator = await emulate(speed=60.0)
    await put(url, 1)
    kling = await dial(emulator)
    one = Worker(kling, url)
    first = asyncio.create_task(one.run())
    await accepted(emulator, 1)
    outcomes: list[Outcome] = []
    second = asyncio.create_task(Worker(kling, url, until_empty=True).run(outcomes.append))
    await asyncio.sleep(0.5)
    assert not second.done()
    async with asyncio.timeout(20):
        await second
    assert outcomes == []
    one.stop()
    await first


async def test_no_money(
    emulate: Emulate, dial: Dial, url: str, entries: ReadEntries, jobs: ReadJobs
) -> None:
    """If the balance is too low a worker ends with that error; items stay planned and enqueued."""
    emulator = await emulate("submit:*=402")
    await put(url, 3)
    worker = Worker(await dial(emulator), url)
    async with asyncio.timeout(20):
        with pytest.raises(BalanceError):
            await worker.run()
    assert worker.stopped
    assert {entry.state for entry in (await entries()).values()} == {ItemState.PLANNED}
    assert [status for _, status in await jobs()] == ["queued"] * 3


async def test_a_wrong_key(emulate: Emulate, dial: Dial, url: str, jobs: ReadJobs) -> None:
    """A worker with a key that is refused ends with that error."""
    emulator = await emulate("submit:*=401")
    await put(url, 1)
    with pytest.raises(AuthenticationError):
        await Worker(await dial(emulator), url).run()
    assert [status for _, status in await jobs()] == ["queued"]


async def test_lost(emulate: Emulate, dial: Dial, url: str, postgres_url: str) -> None:
    """A worker that has lost its lease ends with an error; another attaches its tasks."""
    emulator = await emulate(speed=60.0)
    await put(url, 1)
    kling = await dial(emulator)
    running = asyncio.create_task(Worker(kling, url).run())
    await accepted(emulator, 1)
    async with await psycopg.AsyncConnection.connect(postgres_url) as db:
        await db.execute("UPDATE kling_async_items SET worker = NULL, held = false")
        await db.execute("DELETE FROM kling_async_workers")
    with pytest.raises(JournalError, match="has expired"):
        await running
    await Worker(kling, url, until_empty=True).run()
    assert len(emulator.ledger) == 1


async def test_lost_while_idle(
    emulator: Emulator, dial: Dial, url: str, postgres_url: str, jobs: ReadJobs
) -> None:
    """An idle worker that has lost its lease ends with an error."""
    kling = await dial(emulator)
    running = asyncio.create_task(Worker(kling, url).run())
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as db:

        async def is_there() -> bool:
            found = await db.execute("SELECT to_regclass('kling_async_workers')")
            if (await found.fetchone()) == (None,):
                return False
            gone = await db.execute("DELETE FROM kling_async_workers RETURNING id")
            return await gone.fetchone() is not None

        async with asyncio.timeout(20):
            while not await is_there():  # noqa: ASYNC110 - another connection
                await asyncio.sleep(0.01)
    async with asyncio.timeout(30):
        with pytest.raises(JournalError, match="has expired"):
            await running
    await put(url, 3)
    outcomes: list[Outcome] = []
    await Worker(kling, url, until_empty=True).run(outcomes.append)
    assert len(outcomes) == 3
    assert await jobs() == []


async def test_no_money_for_more(emulate: Emulate, dial: Dial, url: str, jobs: ReadJobs) -> None:
    """A worker whose account was refused dequeues nothing more while its tasks end."""
    emulator = await emulate("submit:2-=402", speed=8.0)
    await put(url, 1)
    worker = Worker(await dial(emulator), url, concurrency=10, drain=3600)
    running = asyncio.create_task(worker.run())
    await accepted(emulator, 1)
    async with Queue(url) as queue:
        await queue.put(items(1, 1))
        await until(lambda: worker.stopped)
        await asyncio.sleep(1.5)
        await queue.put(items(200, 2))
    await asyncio.sleep(2)
    assert not running.done()
    assert [status for _, status in await jobs()].count("picked") <= 20
    with pytest.raises(BalanceError):  # as soon as the last has ended
        async with asyncio.timeout(60):
            await running
    assert {status for _, status in await jobs()} == {"queued"}


async def test_the_queue_is_gone(emulate: Emulate, dial: Dial, url: str, postgres_url: str) -> None:
    """A worker that cannot use the queue any more ends with that error; its tasks are kept."""
    emulator = await emulate(speed=30.0)
    await put(url, 1)
    worker = Worker(await dial(emulator), url, lease=1.0)
    running = asyncio.create_task(worker.run())
    await accepted(emulator, 1)
    async with await psycopg.AsyncConnection.connect(postgres_url) as db:
        await db.execute("ALTER TABLE pgqueuer RENAME TO gone")
    with pytest.raises(JournalError, match="has lost a table"):
        await running
    assert worker.handed_over == 1


@pytest.mark.parametrize("package", ["psycopg", "pgqueuer"])
def test_without_the_extra(package: str) -> None:
    """Where a package is not installed, the error says how to install it; the rest is there."""
    script = f"""
import sys
sys.modules["{package}"] = None
from kling_async import MissingExtraError
from kling_async.fleet import Queue
try:
    Queue("postgresql://host/db")
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run(
        (sys.executable, "-c", script), capture_output=True, text=True, check=True
    )
    assert "pip install " in done.stdout


async def test_the_caller_fails(emulator: Emulator, dial: Dial, url: str, jobs: ReadJobs) -> None:
    """An error in on_outcome ends the worker, and is raised."""

    def fail(outcome: Outcome) -> None:
        raise ZeroDivisionError

    await put(url, 2)
    with pytest.raises(ZeroDivisionError):
        await Worker(await dial(emulator), url, concurrency=1).run(fail)
    assert len(await jobs()) >= 1


async def test_cancelled(emulate: Emulate, dial: Dial, url: str, jobs: ReadJobs) -> None:
    """A worker that is cancelled hands over its jobs, as one that is stopped."""
    emulator = await emulate()
    await put(url, 2)
    running = asyncio.create_task(Worker(await dial(emulator), url).run())
    await accepted(emulator, 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [status for _, status in await jobs()] == ["queued"] * 2
    async with PostgresJournal(url) as journal:
        assert [worker.items for worker in await journal.workers()] == [0]


async def test_invalid_arguments(emulator: Emulator, dial: Dial, url: str) -> None:
    """Invalid arguments are refused, and the password is never shown."""
    kling = await dial(emulator)
    wrong: dict[str, Any] = {
        "concurrency": 0,
        "drain": "30",
        "timeout": 0,
        "lease": 0,
        "options": {"timeout": 5},
    }
    for name, value in wrong.items():
        with pytest.raises(ConfigurationError, match=name):
            Worker(kling, url, **{name: value})
    with pytest.raises(ConfigurationError, match="resubmit_unsure"):
        Worker(kling, url, resubmit_unsure=True)
    with pytest.raises(ConfigurationError, match="postgresql://"):
        Worker(kling, "run.sqlite")
    worker: Any = Worker(kling, url)
    with pytest.raises(ConfigurationError, match="on_outcome"):
        await worker.run([])
    assert PASSWORD not in repr(worker)
    assert "foxes" in repr(Worker(kling, url))
