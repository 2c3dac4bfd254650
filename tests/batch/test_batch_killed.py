"""A process is killed at random and started again; the emulator's ledger is the truth."""

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
from kling_async.journal.base import Entry, ItemState
from kling_async.journal.sqlite.journal import SqliteJournal
from tests.processes import unmeasured

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.conftest import Emulate

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are made by fork")

ITEMS = 120
KILLS = 25

# Forks itself for each line that it reads: importing takes longer than a run.
NURSERY = textwrap.dedent("""
    import asyncio, logging, os, sys
    import aiohttp, sqlite3
    from kling_async import Batch, Item, KlingClient, Limits, MasterTextToVideo, Polling, Retry
    from kling_async.tasks import poll_scheduler as polls, submitter as submits
    from kling_async import transport

    url, key, journal, items = sys.argv[1:]

    async def main(resubmit):
        fast = Polling(first=0.02, shortest=0.02, longest=0.1)
        limits = Limits(concurrent_tasks=5)
        async with (
            KlingClient(
                key, base_url=url, limits=limits, polling=fast, retry=Retry(base=0.01)
            ) as kling,
            Batch(kling, journal=journal, resubmit_unsure=resubmit) as batch,
        ):
            inputs = (Item(f"key {i}", MasterTextToVideo(f"{i}")) for i in range(int(items)))
            async for _ in batch.run(inputs):
                pass

    # In development mode asyncio logs every slow callback, and a busy machine makes many slow.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = 1
            try:
                asyncio.run(main(line == "resubmit\\n"))
                code = 0
            finally:
                os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
""")


class Killer:
    """Kills a process when the service accepts a task, before its answer is sent.

    It is the emulator's ``duration``, which is called at each acceptance.
    """

    def __init__(self) -> None:
        self.victim: int | None = None
        self.after = 0

    def __call__(self, sent: Mapping[str, object]) -> float:
        if self.victim is not None:
            self.after -= 1
            if self.after == 0:
                self.kill()
        return 60.0 + int(str(sent["prompt"])) % 30

    def kill(self) -> None:
        if self.victim is not None:
            with suppress(ProcessLookupError):  # it has ended by itself
                os.kill(self.victim, signal.SIGKILL)
            self.victim = None


async def entries(path: Path) -> dict[str, Entry]:
    """Read the journal."""
    async with SqliteJournal(path, read_only=True) as journal:
        return {entry.key: entry async for entry in journal.entries()}


@pytest.mark.slow
async def test_killed_at_random_moments(emulate: Emulate, tmp_path: Path) -> None:
    """Whenever the process dies, the next continues: nothing is paid twice, and nothing is lost.

    Unsure are exactly the items that the ledger shows as accepted while the journal has no
    reference for them, and those whose process died after it recorded SUBMITTING and before it
    sent the request: these are not in the ledger.
    """
    killer, dice = Killer(), random.Random(7)  # noqa: S311 - moments, not secrets
    path = tmp_path / "run.sqlite"
    emulator = await emulate(
        "submit:9=lost-answer", "submit:30=cut", "submit:20=503", speed=300.0, duration=killer
    )
    arguments = [emulator.base_url, emulator.key, str(path), str(ITEMS)]
    nursery = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", NURSERY, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=unmeasured(),
    )
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    talk, listen = nursery.stdin, nursery.stdout

    async def run(*, accepted: int = 0, requests: int = 0, resubmit: bool = False) -> int:
        """Run the batch and kill it after so many acceptances or requests; return its exit code."""
        before = len(emulator.requests)
        talk.write(b"resubmit\n" if resubmit else b"run\n")
        killer.after = accepted
        killer.victim = victim = int(await listen.readline())
        end = asyncio.ensure_future(listen.readline())
        while not end.done():
            if requests and len(emulator.requests) >= before + requests:
                await asyncio.sleep(dice.random() / 100)
                killer.kill()
            await asyncio.wait([end], timeout=0.002)
        assert killer.victim in (None, victim)
        killer.victim = None
        return int(await end)

    ends: Counter[int] = Counter()
    try:
        for number in range(KILLS):
            if number % 2:
                end = await run(accepted=dice.randint(1, 3))
            else:
                end = await run(requests=dice.randint(1, 7))
            ends[end] += 1
        assert await run() == 0
        await check(path, [(str(one.input["prompt"]), one.task_id) for one in emulator.ledger])
        assert set(ends) <= {0, -signal.SIGKILL}
        assert ends[-signal.SIGKILL] >= KILLS // 2

        paid = len(emulator.ledger)
        unsure = sum(e.state is ItemState.UNSURE for e in (await entries(path)).values())
        assert await run(resubmit=True) == 0
        assert len(emulator.ledger) == paid + unsure
        after = await entries(path)
        assert {entry.state for entry in after.values()} == {ItemState.FINISHED}
    finally:
        talk.close()
        await nursery.wait()


async def check(path: Path, ledger: list[tuple[str, str]]) -> None:
    """Compare the journal, at the end of the batch, with what was paid for."""
    known = await entries(path)
    assert list(known) == [f"key {number}" for number in range(ITEMS)]
    paid = Counter(f"key {prompt}" for prompt, _ in ledger)
    assert set(paid.values()) == {1}, "an input was submitted twice"

    unsure = {key for key, entry in known.items() if entry.state is ItemState.UNSURE}
    assert {entry.state for entry in known.values()} == {ItemState.FINISHED, ItemState.UNSURE}
    for prompt, task_id in ledger:
        entry = known[f"key {prompt}"]
        if entry.key in unsure:
            assert entry.ref is None
        else:
            ref = TaskRef("kling-2-1", task_id)
            assert entry.result is not None
            assert entry.ref == entry.result.ref == ref
    assert unsure & paid.keys(), "no kill was between acceptance and answer"
    assert set(known) - unsure <= paid.keys()

    async with SqliteJournal(path, read_only=True) as journal:
        for key in unsure:
            history = await journal.history(key)
            assert [move.state for move in history][-2:] == [ItemState.SUBMITTING, ItemState.UNSURE]
            assert history[-1].failure is not None
            assert history[-1].failure.may_have_charged
