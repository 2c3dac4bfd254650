from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

import psycopg
import pytest

from kling_async import (
    AuthenticationError,
    ConnectError,
    DownloadError,
    MasterTextToVideo,
    Outcome,
    RateLimitError,
    Result,
    ResultExpiredError,
    StorageError,
    TaskFailedError,
    TaskRef,
    TaskTimeoutError,
)
from kling_async.fleet import Worker
from kling_async.fleet.worker_loop import has_ended
from tests.fleet.conftest import accepted, insert, items, put

if TYPE_CHECKING:
    from kling_async.testing import Emulator
    from tests.conftest import Emulate
    from tests.fleet.conftest import Dial, ReadJobs

FOX = MasterTextToVideo("a fox in fresh snow")
REF = TaskRef("kling-2-1", "task_1")


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


RESULT = Result(REF, ("https://example.com/a.mp4",))


@pytest.mark.parametrize(
    ("outcome", "ended"),
    [
        (Outcome(0, FOX, REF, RESULT), True),
        (Outcome(0, FOX, REF, error=TaskFailedError("no", ref=REF)), True),
        (Outcome(0, FOX, REF, error=TaskTimeoutError("too long", ref=REF)), False),
        (Outcome(0, FOX, REF, error=ConnectError("refused")), False),
        (Outcome(0, FOX, error=ConnectError("refused")), False),
        (Outcome(0, FOX, error=RateLimitError("slowly", status=429, retryable=True)), False),
        (Outcome(0, FOX, error=RateLimitError("no", may_have_charged=True, retryable=True)), True),
        (Outcome(0, FOX, REF, error=AuthenticationError("no", status=401, retryable=False)), False),
        (Outcome(0, FOX, REF, RESULT, DownloadError("it broke off")), False),
        (Outcome(0, FOX, REF, RESULT, DownloadError("no room", retryable=False)), False),
        (Outcome(0, FOX, REF, RESULT, StorageError("denied", retryable=False)), False),
        (Outcome(0, FOX, error=StorageError("denied", retryable=False)), True),
        (Outcome(0, FOX, REF, RESULT, ResultExpiredError("gone", retryable=False)), True),
    ],
)
def test_what_has_ended(outcome: Outcome, *, ended: bool) -> None:
    """An item has ended unless another try, for free, may have another outcome."""
    assert has_ended(outcome) is ended
