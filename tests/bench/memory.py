"""How much memory very many inputs need, in a process of its own.

Time is virtual, and the service is a model that answers at once, with tasks of a second: what
grows would grow with the number of inputs, not with the time they take. One run fans out over
a generator; the other is a batch with a journal in a real file.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import psutil

from kling_async import Batch, KlingClient, Limits, MasterTextToVideo, Outcome, Polling
from kling_async.testing import VirtualLoop
from tests.bench import figures
from tests.bench.simulation import ENOUGH, Service

BATCH = 100_000
MILLION = 1_000_000
LOOKS = 1_000

# Bytes that a batch may take at the most.
MOST = 150e6


def inputs(many: int) -> Iterator[MasterTextToVideo]:
    """Make inputs one by one, no two alike."""
    for number in range(many):
        yield MasterTextToVideo(f"a fox in fresh snow, take {number}")


async def work(many: int, folder: Path | None) -> dict[str, float]:
    """Generate from so many inputs, in a batch if there is a folder; return what it took."""
    limits = Limits(requests_per_minute=ENOUGH)
    service = Service(lambda now, dice, number: 1.0, limits, latency=(0.0, 0.0))
    process = psutil.Process()
    sizes_bytes = [process.memory_info().rss]
    done, begun = 0, time.perf_counter()
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            KlingClient("a-key", transport=service, limits=limits, polling=Polling(first=1.0))
        )
        outcomes: AsyncGenerator[Outcome] = client.generate_many(inputs(many))
        if folder is not None:
            batch = Batch(client, journal=folder / "journal.sqlite")
            await stack.enter_async_context(batch)
            outcomes = batch.run(inputs(many))
        async for outcome in await stack.enter_async_context(aclosing(outcomes)):
            assert outcome.result is not None
            done += 1
            if done % (many // LOOKS) == 0:
                sizes_bytes.append(process.memory_info().rss)
                service.forget()
    assert done == many
    return {
        "first_bytes": sizes_bytes[0],
        "tenth_bytes": max(sizes_bytes[: LOOKS // 10]),
        "most_bytes": max(sizes_bytes),
        "took": time.perf_counter() - begun,
    }


def measure(many: int, *journal: str) -> dict[str, float]:
    """Return the figures of a process that does nothing else."""
    reported = subprocess.run(
        [sys.executable, "-m", "tests.bench.memory", str(many), *journal],
        check=True,
        stdout=subprocess.PIPE,
    )
    figure: dict[str, float] = json.loads(reported.stdout)
    return figure


def show(name: str, figure: dict[str, float], *more: str) -> None:
    """Print one row."""
    most, tenth = figure["most_bytes"], figure["tenth_bytes"]
    figures.row(
        name,
        f"{figure['first_bytes'] / 1e6:.0f} MB",
        f"{tenth / 1e6:.1f} MB",
        f"{most / 1e6:.1f} MB",
        f"{most / tenth:.3f}",
        f"{figure['took']:.0f} s",
        *more,
    )


def head(what: str) -> None:
    """Print the names of the columns."""
    figures.title(f"Resident memory: {what}")
    figures.row("", "before", "after a tenth", "at the most", "growth", "took")


def main() -> None:
    """Print the rows of 100,000 inputs; both at once, since memory does not mind."""
    head("100,000 inputs from a generator, 1,000 at a time")
    with ThreadPoolExecutor() as threads:
        plain = threads.submit(measure, BATCH)
        journaled = threads.submit(measure, BATCH, "journal")
    show("generate_many", plain.result())
    figure = journaled.result()
    share = figure["most_bytes"] / MOST
    show("Batch with a journal", figure, f"{share:.2f} of {MOST / 1e6:.0f} MB")


def million() -> None:
    """Print the row of a million inputs."""
    head("a million inputs from a generator, 1,000 at a time")
    show("generate_many", measure(MILLION))


async def _in(folder: str) -> dict[str, float]:
    return await work(int(sys.argv[1]), Path(folder) if "journal" in sys.argv else None)


if __name__ == "__main__":
    with (
        tempfile.TemporaryDirectory() as folder,
        asyncio.Runner(loop_factory=VirtualLoop) as runner,
    ):
        print(json.dumps(runner.run(_in(folder))))
