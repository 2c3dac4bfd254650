"""What a journal costs: 1,000 callers that write at once, on a real loop, to a real disk.

It is written to a file, and to a PostgreSQL on this machine that waits for its disk, too.

Each brings items of its own through the four transitions of a batch. A turn of the loop is what
it does between two looks at its sockets. The longest turn is reported twice: by the clock, which
other programs on the machine lengthen, and in CPU time of the loop's thread, which they do not.
The lag of a timer holds all of that, and the waits for the interpreter while the journal's
thread has it. Beside it stands an idle loop: what the machine does by itself.
"""

import asyncio
import json
import selectors
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles

from kling_async.journal.base import ItemState, Journal, Planned, Transition
from kling_async.journal.postgres.journal import PostgresJournal
from kling_async.journal.sqlite.journal import SqliteJournal
from kling_async.results import Result, SavedFile, TaskRef
from tests.bench import figures
from tests.engines.postgres import serving

CALLERS = 1_000
ITEMS = 15  # of each caller
ROUNDS = 3
TICK = 0.001
IDLE = 3.0

# Transitions a second, at the least, and seconds of the loop at a stretch, at the most.
LEAST = 5_000
LONGEST = 0.010

INPUT = {"mode": "master-text-to-video", "prompt": "a fox in fresh snow", "duration": 5}
URL = "https://cdn.example.com/videos/fox.mp4"


class Selector(selectors.DefaultSelector):
    """Notes the longest turns of its loop, in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.forget()

    def forget(self) -> None:
        """Start again."""
        self.clock = self.cpu = 0.0
        self._begun = time.perf_counter(), time.thread_time()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """End a turn, wait, and begin the next."""
        clock, cpu = self._begun
        self.clock = max(self.clock, time.perf_counter() - clock)
        self.cpu = max(self.cpu, time.thread_time() - cpu)
        events = super().select(timeout)
        self._begun = time.perf_counter(), time.thread_time()
        return events


async def tick(moments: list[float]) -> None:
    """Note when the loop comes round."""
    while True:
        moments.append(time.perf_counter())
        await asyncio.sleep(TICK)


async def carry(journal: Journal, caller: int) -> None:
    """Bring a caller's items from planned to saved, each transition written before the next."""
    for number in range(ITEMS):
        key = f"{caller}-{number}"
        ref = TaskRef("kling-2-1", f"task_{key}")
        for move in (
            Transition(key, ItemState.SUBMITTING, datetime.now(UTC)),
            Transition(key, ItemState.SUBMITTED, datetime.now(UTC), ref=ref),
            Transition(key, ItemState.FINISHED, datetime.now(UTC), result=Result(ref, (URL,))),
            Transition(
                key,
                ItemState.SAVED,
                datetime.now(UTC),
                files=(SavedFile(URL, f"{key}.mp4", 1_000_000, "0" * 64),),
            ),
        ):
            await journal.record(move)


async def write(journal: Journal, selector: Selector) -> dict[str, float]:
    """Let all callers write; return what it took."""
    items = [Planned(f"{one}-{n}", INPUT) for one in range(CALLERS) for n in range(ITEMS)]
    async with journal:
        await journal.plan(items)
        moments: list[float] = []
        ticking = asyncio.create_task(tick(moments))
        begun, begun_cpu = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as callers:
            for caller in range(CALLERS):
                callers.create_task(carry(journal, caller))
                await asyncio.sleep(0)  # to begin with a thousand takes a turn's time by itself
            selector.forget()
        took, cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
        ticking.cancel()
        counts = (await journal.summary()).counts
    assert counts[ItemState.SAVED] == len(items)
    done = 4 * len(items)
    return {"pace": done / took, "pace_cpu": done / cpu, **reported(moments, selector)}


async def idle(selector: Selector) -> dict[str, float]:
    """Do nothing for a while; return the same figures."""
    moments: list[float] = []
    ticking = asyncio.create_task(tick(moments))
    selector.forget()
    await asyncio.sleep(IDLE)
    ticking.cancel()
    return reported(moments, selector)


def reported(moments: list[float], selector: Selector) -> dict[str, float]:
    """Return how long the loop was busy, and how late."""
    late = [max(0.0, after - before - TICK) for before, after in pairwise(moments)]
    return {
        "turn": selector.clock,
        "turn_cpu": selector.cpu,
        "late_p99": quantiles(late, n=100)[98],
        "latest": max(late),
    }


def rounds(what: str, *urls: str) -> dict[str, list[float]]:
    """Measure in processes of their own, one after another."""
    results: list[dict[str, float]] = []
    for number in range(ROUNDS):
        command = [sys.executable, "-m", "tests.bench.journal", what]
        command += [f"{url}?batch={number}" for url in urls]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        results.append(json.loads(done.stdout))
    return {name: [one[name] for one in results] for name in results[0]}


def main() -> None:
    """Print the figures."""
    figures.title(
        f"Journal: {CALLERS:,} callers write {4 * CALLERS * ITEMS:,} transitions, {ROUNDS} rounds"
    )
    idled = rounds("idle")
    written = {"SQLite": rounds("write")}
    with serving(durable=True) as server:
        written["PostgreSQL"] = rounds("write", server.url())
    for engine, results in written.items():
        figures.row(engine, "median", "best", "worst", "", "idle loop, worst")
        show(results, idled)
    ratio = median(written["PostgreSQL"]["pace"]) / median(written["SQLite"]["pace"])
    figures.row("PostgreSQL's pace, of SQLite's", f"{ratio:.2f}")


def show(written: dict[str, list[float]], idled: dict[str, list[float]]) -> None:
    """Print the figures of one engine."""
    for key, name in {
        "pace": "transitions a second",
        "pace_cpu": "transitions a second of CPU time, both threads",
    }.items():
        paces = written[key]
        figures.row(
            name,
            *(f"{one(paces):,.0f}" for one in (median, max, min)),
            f"{median(paces) / LEAST:.1f} of {LEAST:,}",
        )
    for key, name in {
        "turn_cpu": "longest turn of the loop, CPU time",
        "turn": "longest turn of the loop",
        "late_p99": "lag of the loop, 99 %",
        "latest": "lag of the loop, at the most",
    }.items():
        seconds = written[key]
        figures.row(
            name,
            *(f"{one(seconds) * 1000:.1f} ms" for one in (median, min, max)),
            f"{median(seconds) / LONGEST:.2f} of {LONGEST * 1000:.0f} ms",
            f"{max(idled[key]) * 1000:.1f} ms",
        )


def _one_round() -> dict[str, float]:
    selector = Selector()
    with (
        tempfile.TemporaryDirectory() as folder,
        asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner,
    ):
        what, *urls = sys.argv[1:]
        if what == "idle":
            return runner.run(idle(selector))
        file = Path(folder) / "journal.sqlite"
        journal: Journal = PostgresJournal(urls[0]) if urls else SqliteJournal(file)
        return runner.run(write(journal, selector))


if __name__ == "__main__":
    print(json.dumps(_one_round()))
