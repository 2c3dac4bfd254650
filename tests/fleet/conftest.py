from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

import psycopg
import pytest

from kling_async import Item, KlingClient, Limits, MasterTextToVideo, Polling, Retry
from kling_async.fleet import Queue
from kling_async.journal.postgres.journal import PostgresJournal

if TYPE_CHECKING:
    from collections.abc import Callable

    from kling_async.journal.base import Entry
    from kling_async.testing import Emulator
    from tests.conftest import Connect, Emulate

FAST = Polling(first=0.05, shortest=0.05, longest=0.2)


class Dial(Protocol):
    async def __call__(self, emulator: Emulator, **options: Any) -> KlingClient: ...  # noqa: ANN401


class ReadEntries(Protocol):
    async def __call__(self) -> dict[str, Entry]: ...


class ReadJobs(Protocol):
    async def __call__(self, log: bool = ...) -> list[tuple[str, str]]: ...  # noqa: FBT001


def items(number: int, first: int = 0) -> list[Item]:
    """Make items; the prompt is the key's number."""
    numbers = range(first, first + number)
    return [Item(f"key {n}", MasterTextToVideo(f"{n}")) for n in numbers]


def prompts(emulator: Emulator) -> list[str]:
    """Return what was paid for."""
    return [str(entry.input["prompt"]) for entry in emulator.ledger]


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is true for which there is no event."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - as it says
            await asyncio.sleep(0.01)


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


@pytest.fixture
async def emulator(emulate: Emulate) -> Emulator:
    """Run a service in which a video takes 0.2 s."""
    return await emulate(speed=300.0)


@pytest.fixture
def dial(connect: Connect) -> Dial:
    """Return a function that makes clients with short poll intervals."""

    async def dial(emulator: Emulator, **options: Any) -> KlingClient:  # noqa: ANN401
        usual = {"limits": Limits(1_000_000, 100), "polling": FAST, "retry": Retry(base=0.01)}
        return await connect(emulator, **{**usual, **options})

    return dial


@pytest.fixture
def url(postgres_url: str) -> str:
    """Return the URL of a batch."""
    return f"{postgres_url}?batch=foxes"


@pytest.fixture
def entries(url: str) -> ReadEntries:
    """Read the journal."""

    async def entries() -> dict[str, Entry]:
        async with PostgresJournal(url, read_only=True) as journal:
            return {entry.key: entry async for entry in journal.entries()}

    return entries


@pytest.fixture
def jobs(postgres_url: str) -> ReadJobs:
    """Read the jobs in the queue, or their log: payload or id, and status."""

    async def jobs(log: bool = False) -> list[tuple[str, str]]:  # noqa: FBT001, FBT002
        async with await psycopg.AsyncConnection.connect(postgres_url) as db:
            found = await db.execute(
                "SELECT job_id::text, status::text FROM pgqueuer_log ORDER BY id"
                if log
                else "SELECT convert_from(payload, 'utf8'), status::text FROM pgqueuer ORDER BY id"
            )
            return await found.fetchall()

    return jobs
