"""Processes that share a journal are killed at random; the emulator's ledger is the truth."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import textwrap
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from kling_async import TaskRef
from kling_async.journal.base import ItemState
from kling_async.journal.postgres.journal import PostgresJournal
from tests.processes import unmeasured

if TYPE_CHECKING:
    from kling_async.testing import Emulator
    from tests.conftest import Emulate

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are made by fork")

ITEMS = 150
WORKERS = 3
KILLS = 12

# Forks itself for each byte that it reads: importing takes longer than a run.
NURSERY = textwrap.dedent("""
    import asyncio, logging, os, select, sys
    import aiohttp
    from kling_async import Batch, Item, KlingClient, Limits, MasterTextToVideo, Polling, Retry
    from kling_async import errors, transport
    from kling_async.tasks import poll_scheduler as polls, submitter as submits
    from kling_async.journal.postgres.journal import PostgresJournal

    url, key, journal, items = sys.argv[1:]

    async def main():
        fast = Polling(first=0.02, shortest=0.02, longest=0.1)
        async with (
            KlingClient(
                key, base_url=url, limits=Limits(concurrent_tasks=5), polling=fast,
                retry=Retry(base=0.01),
            ) as kling,
            Batch(kling, journal=PostgresJournal(journal, lease=1.0)) as batch,
        ):
            inputs = [Item(f"key {i}", MasterTextToVideo(f"{i}")) for i in range(int(items))]
            keys = [outcome.key async for outcome in batch.run(inputs)]
            assert sorted(keys) == sorted(item.key for item in inputs)

    # In development mode asyncio logs every slow callback, and a busy machine makes many slow.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    while True:
        if select.select([0], [], [], 0.005)[0]:
            if not os.read(0, 1):
                break
            child = os.fork()
            if not child:
                code = 1
                try:
                    asyncio.run(main())
                    code = 0
                except errors.JournalError as error:
                    # The machine was too busy to renew the lease for a second.
                    code = 3 if "run again" in str(error) else 1
                finally:
                    os._exit(code)
            print("born", child, flush=True)
        try:
            child, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            continue
        if child:
            print("died", child, os.waitstatus_to_exitcode(status), flush=True)
""")


async def test_workers_killed_at_random_moments(emulate: Emulate, postgres_url: str) -> None:
    """Whichever worker dies, the others continue: nothing is paid twice or lost.

    Unsure are exactly the items of which no process knows whether they were accepted.
    """
    dice = random.Random(5)  # noqa: S311 - moments, not secrets
    emulator = await emulate("submit:9=lost-answer", "submit:30=cut", "submit:20=503", speed=300.0)
    nursery = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", NURSERY),
        *(emulator.base_url, emulator.key, postgres_url, str(ITEMS)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=unmeasured(),
    )
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    nursery.stdin.write(b"+" * WORKERS)
    alive: set[int] = set()
    ends: Counter[int] = Counter()
    while not ends[0] or alive:
        word, child, *code = (await nursery.stdout.readline()).split()
        if word == b"born":
            alive.add(int(child))
        else:
            alive.remove(int(child))
            ends[int(code[0])] += 1
            if code != [b"0"]:
                nursery.stdin.write(b"+")
        if len(alive) == WORKERS and ends[-signal.SIGKILL] < KILLS:
            await asyncio.sleep(dice.random() / 4)
            # Now and then all of them at a time, as when a machine is switched off.
            victims = sorted(alive) if ends[-signal.SIGKILL] == KILLS // 2 else [max(alive)]
            for victim in victims:
                with suppress(ProcessLookupError):  # it has ended by itself
                    os.kill(victim, signal.SIGKILL)
    nursery.stdin.close()
    assert await nursery.wait() == 0
    assert set(ends) <= {0, 3, -signal.SIGKILL}
    assert ends[-signal.SIGKILL] >= KILLS
    await check(emulator, postgres_url)


async def check(emulator: Emulator, url: str) -> None:
    """Compare the journal, at the end of the batch, with what was paid for."""
    paid = Counter(f"key {one.input['prompt']}" for one in emulator.ledger)
    assert set(paid.values()) == {1}, "an input was submitted twice"
    tasks = {f"key {one.input['prompt']}": one.task_id for one in emulator.ledger}
    async with PostgresJournal(url, read_only=True) as journal:
        assert await journal.workers() == []
        known = [entry async for entry in journal.entries()]
        assert [entry.key for entry in known] == [f"key {number}" for number in range(ITEMS)]
        for entry in known:
            history = await journal.history(entry.key)
            if entry.state is ItemState.UNSURE:
                assert [move.state for move in history][-2:] == [ItemState.SUBMITTING, entry.state]
                assert history[-1].failure is not None
                assert history[-1].failure.may_have_charged
                assert entry.ref is None
            else:
                assert entry.state is ItemState.FINISHED
                assert entry.ref == TaskRef("kling-2-1", tasks[entry.key])
                assert entry.result is not None
                assert entry.result.ref == entry.ref
        unsure = {entry.key for entry in known if entry.state is ItemState.UNSURE}
        assert unsure & paid.keys(), "no kill was between acceptance and answer"
