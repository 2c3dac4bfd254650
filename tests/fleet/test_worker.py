from __future__ import annotations

import asyncio
import json
import logging
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
    TaskTimeoutError,
)
from kling_async.fleet import Queue, Worker
from kling_async.journal.base import ItemState
from kling_async.journal.postgres.journal import PostgresJournal
from tests.engines.postgres import PASSWORD
from tests.fleet.conftest import items, prompts, until

if TYPE_CHECKING:
    from pathlib import Path

    from kling_async.testing import Emulator
    from tests.conftest import Emulate
    from tests.fleet.conftest import Dial, ReadEntries, ReadJobs

FOX = MasterTextToVideo("a fox in fresh snow")


async def put(url: str, number: int) -> None:
    """Put items in the queue."""
    async with Queue(url) as queue:
        await queue.put(items(number))


async def accepted(emulator: Emulator, number: int) -> None:
    """Wait until so many tasks were started."""
    await until(lambda: len(emulator.ledger) >= number)


async def insert(url: str, payload: bytes, *, name: str = "foxes") -> None:
    """Enqueue a job as other programs do."""
    async with await psycopg.AsyncConnection.connect(url) as db:
        await db.execute(
            "INSERT INTO pgqueuer (priority, status, entrypoint, payload)"
            " VALUES (0, 'queued', %s, %s)",
            (f"kling_async:{name}", payload),
        )


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


@pytest.mark.parametrize(
    "payload",
    [
        b"no JSON",
        b'{"key": "wolf", "mode": "no-such-mode"}',
        json.dumps({"key": "key 0", **FOX.to_dict()}).encode(),
        b"[" * 100_000,
    ],
)
async def test_an_invalid_job(
    emulator: Emulator,
    dial: Dial,
    url: str,
    postgres_url: str,
    jobs: ReadJobs,
    caplog: pytest.LogCaptureFixture,
    payload: bytes,
) -> None:
    """A job that is invalid, or has the key of another input, is set aside; the others are done."""
    await put(url, 1)
    await insert(postgres_url, payload)
    await insert(postgres_url, json.dumps({"key": "fox", **FOX.to_dict()}).encode())
    outcomes: list[Outcome] = []
    await Worker(await dial(emulator), url, until_empty=True).run(outcomes.append)
    assert sorted(str(outcome.key) for outcome in outcomes) == ["fox", "key 0"]
    assert await jobs() == [(payload.decode(), "failed")]
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert "is set aside as failed" in record.message


async def test_the_same_job_twice(
    emulator: Emulator, dial: Dial, url: str, postgres_url: str, jobs: ReadJobs
) -> None:
    """Two jobs for one item both finish, at the price of one."""
    await put(url, 1)
    again = json.dumps({"key": "key 0", **items(1)[0].input.to_dict()}).encode()
    await insert(postgres_url, again)
    await Worker(await dial(emulator), url, until_empty=True).run()
    assert len(emulator.ledger) == 1
    assert await jobs() == []


async def test_tried_again(emulate: Emulate, dial: Dial, url: str) -> None:
    """A task that took too long is attached again, a lease later, and not paid again."""
    emulator = await emulate(speed=60.0)  # a second
    await put(url, 1)
    outcomes: list[Outcome] = []
    worker = Worker(await dial(emulator), url, until_empty=True, timeout=0.3, lease=0.8)
    async with asyncio.timeout(20):
        await worker.run(outcomes.append)
    assert isinstance(outcomes[0].error, TaskTimeoutError)
    assert outcomes[-1].result
    assert len(emulator.ledger) == 1


async def test_the_last_attempt(
    emulate: Emulate, dial: Dial, url: str, postgres_url: str, jobs: ReadJobs
) -> None:
    """After its tenth attempt an item that has not ended is set aside."""
    emulator = await emulate()
    await put(url, 1)
    async with await psycopg.AsyncConnection.connect(postgres_url) as db:
        await db.execute("UPDATE pgqueuer SET attempts = 9")
    await Worker(await dial(emulator), url, until_empty=True, timeout=0.1).run()
    assert [status for _, status in await jobs()] == ["failed"]


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


async def test_heartbeats(emulate: Emulate, dial: Dial, url: str) -> None:
    """A task that takes longer than a lease stays with a worker that is alive."""
    emulator = await emulate(speed=10.0)  # six seconds
    await put(url, 1)
    kling = await dial(emulator)
    outcomes: list[Outcome] = []
    one = Worker(kling, url, lease=4.0, concurrency=1)  # it has no room for its own jobs
    other = Worker(kling, url, lease=4.0, until_empty=True)
    first = asyncio.create_task(one.run(outcomes.append))
    await accepted(emulator, 1)
    unwanted: list[Outcome] = []
    await other.run(unwanted.append)
    one.stop()
    await first
    assert len(outcomes) == 1
    assert unwanted == []


async def test_its_own_job_again(
    emulate: Emulate, dial: Dial, url: str, postgres_url: str, jobs: ReadJobs
) -> None:
    """A worker that dequeues its own job again, since its heartbeat was late, continues with it."""
    emulator = await emulate(speed=20.0)  # three seconds
    await put(url, 1)
    outcomes: list[Outcome] = []
    worker = Worker(await dial(emulator), url, until_empty=True)
    running = asyncio.create_task(worker.run(outcomes.append))
    await accepted(emulator, 1)
    async with await psycopg.AsyncConnection.connect(postgres_url) as db:
        await db.execute("UPDATE pgqueuer SET heartbeat = heartbeat - interval '1 hour'")
    await running
    assert len(outcomes) == len(emulator.ledger) == 1
    assert await jobs() == []


async def test_stopped_while_dequeuing(
    emulator: Emulator, dial: Dial, url: str, postgres_url: str, jobs: ReadJobs
) -> None:
    """Jobs that were being dequeued when the worker was stopped are put back."""
    await put(url, 3)
    worker = Worker(await dial(emulator), url)
    async with await psycopg.AsyncConnection.connect(postgres_url) as db:  # in a transaction
        await db.execute("LOCK TABLE pgqueuer IN EXCLUSIVE MODE")
        running = asyncio.create_task(worker.run())
        await _blocked(postgres_url)
        worker.stop()
    await running
    assert worker.handed_over == 3
    assert [status for _, status in await jobs()] == ["queued"] * 3
    assert len(emulator.ledger) == 0


async def _blocked(url: str) -> None:
    """Wait until a connection waits for a lock."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as db:
        async with asyncio.timeout(20):
            while True:
                found = await db.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
                if await found.fetchone() != (0,):
                    return
                await asyncio.sleep(0.01)


async def test_the_connections_are_cut(
    emulate: Emulate, dial: Dial, url: str, postgres_url: str, jobs: ReadJobs
) -> None:
    """A worker whose connections are lost makes others and continues."""
    emulator = await emulate(speed=60.0)
    await put(url, 8)
    outcomes: list[Outcome] = []
    worker = Worker(await dial(emulator), url, concurrency=4, until_empty=True)
    running = asyncio.create_task(worker.run(outcomes.append))
    for number in (1, 5):
        await accepted(emulator, number)
        async with await psycopg.AsyncConnection.connect(postgres_url) as db:
            await db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
    async with asyncio.timeout(20):
        await running
    assert all(outcome.result for outcome in outcomes)
    assert len(outcomes) == len(emulator.ledger) == 8
    assert await jobs() == []


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


async def test_the_log_does_not_grow(
    emulator: Emulator, dial: Dial, url: str, jobs: ReadJobs
) -> None:
    """While a worker runs, the log of finished jobs is folded."""
    worker = Worker(await dial(emulator), url, lease=1.0)
    running = asyncio.create_task(worker.run())
    await put(url, 5)
    await accepted(emulator, 5)
    async with asyncio.timeout(20):
        while await jobs() or await jobs(log=True):  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.05)
    worker.stop()
    await running


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
    wrong: dict[str, Any] = {"concurrency": 0, "drain": -1, "timeout": 0, "lease": 0}
    for name, value in wrong.items():
        with pytest.raises(ConfigurationError, match=name):
            Worker(kling, url, **{name: value})
    with pytest.raises(ConfigurationError, match="resubmit_unsure"):
        Worker(kling, url, resubmit_unsure=True)
    with pytest.raises(ConfigurationError, match="postgresql://"):
        Worker(kling, "run.sqlite")
    assert PASSWORD not in repr(Worker(kling, url))
    assert "foxes" in repr(Worker(kling, url))
