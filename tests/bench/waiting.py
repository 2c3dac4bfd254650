"""What 1,000 tasks that wait at once need: memory, and how late the event loop becomes.

The client runs in a process of its own. It keeps the default limits and asks as often as they
allow, so the loop has all the work that it can ever have.
"""

import asyncio
import json
import subprocess
import sys
from itertools import pairwise
from statistics import quantiles

import psutil

from kling_async import KlingClient, MasterTextToVideo, Polling
from tests.bench import figures, server

TASKS = 1_000
DURATION = 15.0
TICK = 0.005


async def tick(moments: list[float], sizes_bytes: list[int]) -> None:
    """Note when the loop comes round, and now and then how large the process is."""
    loop = asyncio.get_running_loop()
    process = psutil.Process()
    while True:
        moments.append(loop.time())
        if len(moments) % 100 == 0:
            sizes_bytes.append(process.memory_info().rss)
        await asyncio.sleep(TICK)


async def wait_for_all(origin: str) -> dict[str, float]:
    """Generate everything at once; return what it took."""
    moments: list[float] = []
    sizes_bytes: list[int] = []
    ticking = asyncio.create_task(tick(moments, sizes_bytes))
    polling = Polling(first=1.0, shortest=1.0)
    async with (
        KlingClient("a-key", base_url=origin, polling=polling) as client,
        asyncio.TaskGroup() as waiters,
    ):
        for number in range(TASKS):
            one = MasterTextToVideo(f"a fox in fresh snow, take {number}")
            waiters.create_task(client.generate(one))
    ticking.cancel()
    late = [max(0.0, after - before - TICK) for before, after in pairwise(moments)]
    return {
        "took": moments[-1] - moments[0],
        "largest_bytes": max(sizes_bytes),
        "late_p50": quantiles(late, n=100)[49],
        "late_p95": quantiles(late, n=100)[94],
        "latest": max(late),
    }


def main() -> None:
    """Print the figures of a process that does nothing else."""
    with server.running(duration=DURATION) as origin:
        reported = subprocess.run(
            [sys.executable, "-m", "tests.bench.waiting", origin],
            check=True,
            stdout=subprocess.PIPE,
        )
    figure: dict[str, float] = json.loads(reported.stdout)
    figures.title(f"{TASKS} tasks waiting at once, for {figure['took']:.0f} s, default limits")
    figures.row("resident memory, at the most", f"{figure['largest_bytes'] / 1e6:.0f} MB")
    figures.row("lag of the loop, 50th percentile", f"{figure['late_p50'] * 1000:.1f} ms")
    figures.row("lag of the loop, 95th percentile", f"{figure['late_p95'] * 1000:.1f} ms")
    figures.row("lag of the loop, at the most", f"{figure['latest'] * 1000:.1f} ms")


if __name__ == "__main__":
    print(json.dumps(asyncio.run(wait_for_all(sys.argv[1]))))
