"""Workers are killed at random moments, and once all of them, against the emulator's ledger."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from kling_async import TaskRef
from kling_async.fleet import Queue
from kling_async.journal.base import ItemState
from kling_async.journal.postgres.journal import PostgresJournal
from tests.fleet.conftest import items
from tests.fleet.nursery import Workers

if TYPE_CHECKING:
    from kling_async.testing import Emulator
    from tests.conftest import Emulate
    from tests.fleet.conftest import ReadJobs

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are made by fork")

ITEMS = 150
WORKERS = 3
KILLS = 6


async def test_killed_at_random_moments(emulate: Emulate, url: str, jobs: ReadJobs) -> None:
    """Whichever worker dies, nothing is paid twice or lost; unsure are items without an answer."""
    dice = random.Random(7)  # noqa: S311 - moments, not secrets
    workers = Workers(all_at=ITEMS // 3)
    emulator = await emulate(
        "submit:9=lost-answer", "submit:30=cut", "submit:20=503", speed=300.0, duration=workers
    )
    async with Queue(url) as queue:
        assert (await queue.put(items(ITEMS))).added == ITEMS
    await workers.open(emulator.base_url, emulator.key, url, concurrency=8, lease=1.5)
    try:
        await workers.spawn(WORKERS)
        kills = 0
        async with asyncio.timeout(60):
            while not workers.ended:
                await asyncio.sleep(0.2 + dice.random() / 5)
                if kills < KILLS and workers.living and workers.accepted:
                    kills += 1
                    workers.kill(dice.choice(sorted(workers.living)))
                if not workers.ended:
                    await workers.spawn(WORKERS - len(workers.living))
        assert workers.accepted > workers.all_at
        assert kills == KILLS
    finally:
        await workers.close()
    assert await jobs() == []
    await check(emulator, url)


async def check(emulator: Emulator, url: str) -> None:
    """Compare the journal, at the end, with what was paid for."""
    async with PostgresJournal(url, read_only=True) as journal:
        found = {entry.key: entry async for entry in journal.entries()}
        assert list(found) == [item.key for item in items(ITEMS)]
        paid = Counter(f"key {one.input['prompt']}" for one in emulator.ledger)
        assert set(paid.values()) == {1}, "an input was submitted twice"

        unsure = {key for key, entry in found.items() if entry.state is ItemState.UNSURE}
        assert {e.state for e in found.values()} == {ItemState.FINISHED, ItemState.UNSURE}
        for one in emulator.ledger:
            entry = found[f"key {one.input['prompt']}"]
            if entry.key in unsure:
                assert entry.ref is None
            else:
                assert entry.result is not None
                assert entry.ref == entry.result.ref == TaskRef("kling-2-1", one.task_id)
        assert unsure & paid.keys(), "no moment was hit between acceptance and hearing of it"
        assert set(found) - unsure <= paid.keys()
        for key in unsure:
            history = await journal.history(key)
            assert [move.state for move in history][-2:] == [ItemState.SUBMITTING, ItemState.UNSURE]
