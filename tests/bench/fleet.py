"""A fleet whose workers are killed at random, and once all of them at the same time.

By the emulator's ledger no input may be submitted twice, and exactly the items whose answers were
lost may be unsure in the journal.
"""

import asyncio
import random
import time
from collections import Counter

from kling_async import Item, MasterTextToVideo
from kling_async.fleet import Queue
from kling_async.journal.base import ItemState
from kling_async.journal.postgres.journal import PostgresJournal
from kling_async.testing import Emulator
from tests.bench import figures
from tests.engines import postgres
from tests.fleet.nursery import Workers

TASKS = 2_000
WORKERS = 3
CONCURRENCY = 100
EVERY = 3.0  # seconds between two kills
LEASE = 5.0
SPEED = 30.0


async def enqueue(url: str) -> float:
    """Put everything in the queue; return how long it took."""
    begun = time.perf_counter()
    async with Queue(url) as queue:
        await queue.put(Item(f"key {n}", MasterTextToVideo(f"{n}")) for n in range(TASKS))
    return time.perf_counter() - begun


async def run(url: str) -> None:
    """Let the workers live and die; print what was paid for, and what became of it."""
    dice = random.Random(1)  # noqa: S311 - victims, not secrets
    workers = Workers(all_at=TASKS // 2)
    put = await enqueue(url)
    figures.row(f"{TASKS:,} rows into journal and queue", f"{put:.1f} s")
    async with Emulator(
        video="small",
        speed=SPEED,
        duration=workers,
        balance=1_000_000.0,
        requests_per_minute=10_000_000,
        concurrent_tasks=100_000,
    ) as emulator:
        await workers.open(
            emulator.base_url, emulator.key, url, concurrency=CONCURRENCY, lease=LEASE
        )
        begun = killed_at = time.perf_counter()
        try:
            while not workers.ended:
                await workers.spawn(WORKERS - len(workers.living))
                await asyncio.sleep(0.2)
                if time.perf_counter() - killed_at > EVERY and workers.living:
                    killed_at = time.perf_counter()
                    workers.kill(dice.choice(sorted(workers.living)))
        finally:
            await workers.close()
        took = time.perf_counter() - begun
    figures.row("time", f"{took:.1f} s")
    figures.row("workers killed, one by one and once all", str(workers.killed))
    paid = Counter(f"key {one.input['prompt']}" for one in emulator.ledger)
    async with PostgresJournal(url, read_only=True) as journal:
        states = {entry.key: entry.state async for entry in journal.entries()}
    unsure = {key for key, state in states.items() if state is ItemState.UNSURE}
    finished = {key for key, state in states.items() if state is ItemState.FINISHED}
    figures.row("submitted, by the ledger", f"{sum(paid.values()):,}")
    figures.row("submitted twice", str(sum(number > 1 for number in paid.values())))
    figures.row("finished, by the journal", f"{len(finished):,}")
    figures.row("unsure: sent and unheard", f"{len(unsure)}")
    figures.row("  of these in the ledger", f"{len(unsure & paid.keys())}")
    figures.row(
        "in the ledger, neither finished nor unsure", f"{len(paid.keys() - finished - unsure)}"
    )
    figures.row("neither finished nor unsure", f"{TASKS - len(finished) - len(unsure)}")


def main() -> None:
    """Print the facts of one run."""
    figures.title(
        f"{WORKERS} workers, {TASKS:,} tasks; one is killed every {EVERY:g} s, and all of them once"
    )
    with postgres.serving() as server, server.database("fleet") as url:
        asyncio.run(run(f"{url}?batch=bench"))


if __name__ == "__main__":
    main()
