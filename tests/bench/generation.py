"""What one generation costs: submit, one poll and parse, 100 at a time, at a server without delay.

CPU time is compared with that of a loop as one would write it by hand, with the same inputs. The
other rows show what the connections of submits cost: see `lost`.

Where a process has its memory, and how its strings are hashed, is chance, and moves a ratio by a
tenth. So the figures come from several processes, in each of which the contenders take turns.
"""

import asyncio
import gc
import json
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing
from functools import partial
from statistics import median

import aiohttp

from kling_async import KlingClient, Limits, MasterTextToVideo, Polling
from tests.bench import figures, server

# Many short rounds: what else the machine does then meets both of a pair alike.
TASKS = 100
ROUNDS = 12
AT_ONCE = 100
PROCESSES = 12

INPUTS = [MasterTextToVideo(f"a fox in fresh snow, take {number}") for number in range(TASKS)]
BODIES = [
    {
        "request_type": "async",
        "input": {
            "mode": "master-text-to-video",
            "prompt": one.prompt,
            "duration": 5,
            "aspect_ratio": "16:9",
        },
    }
    for one in INPUTS
]


class SubmitLane(aiohttp.TCPConnector):
    """Submits through one connector, everything else through another."""

    def __init__(self, submits: aiohttp.TCPConnector) -> None:
        super().__init__()
        self._lane = submits

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[aiohttp.tracing.Trace],
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.connector.Connection:
        if req.method == "POST":
            return await self._lane.connect(req, traces, timeout)
        return await super().connect(req, traces, timeout)

    async def close(self, *, abort_ssl: bool = False) -> None:
        await self._lane.close(abort_ssl=abort_ssl)
        await super().close(abort_ssl=abort_ssl)


async def by_hand(session: aiohttp.ClientSession, base: str, number: int) -> list[str]:
    """Generate as one would without this project."""
    submit = f"{base}/generateTask/kling-2-1"
    async with session.post(submit, json=BODIES[number]) as answer:
        answer.raise_for_status()
        envelope = await answer.json()
    if envelope["code"] != 200:
        raise RuntimeError(envelope["message"])
    task = {"taskId": envelope["data"]["taskId"]}
    async with session.get(f"{base}/statusTask/kling-2-1", params=task) as answer:
        answer.raise_for_status()
        envelope = await answer.json()
    if envelope["code"] != 200 or envelope["data"]["state"] != "success":
        raise RuntimeError(envelope["message"])
    urls: list[str] = json.loads(envelope["data"]["resultJson"])["resultUrls"]
    return urls


async def by_client(client: KlingClient, number: int) -> tuple[str, ...]:
    """Generate with this project."""
    return (await client.generate(INPUTS[number])).result_urls


async def round_of(generate: Callable[[int], Awaitable[object]]) -> float:
    """Return the seconds of CPU time that one task took."""

    async def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            await generate(number)

    async def work(tasks: int) -> None:
        numbers = iter(range(tasks))
        async with asyncio.TaskGroup() as workers:
            for _ in range(AT_ONCE):
                workers.create_task(worker(numbers))

    gc.collect()
    await work(AT_ONCE)  # what idled during the others' turns is connected again
    begun = time.process_time()
    await work(TASKS)
    return (time.process_time() - begun) / TASKS


async def measure(origin: str) -> AsyncGenerator[tuple[str, list[float], list[float]]]:
    """Let each contender take turns with the loop written by hand; give both their figures."""
    limits = Limits(requests_per_minute=10_000_000, concurrent_tasks=100_000)
    lanes = {
        "the client": None,
        "the client, submits in the common pool": aiohttp.TCPConnector(),
        "the client, a new connection for every submit": SubmitLane(
            aiohttp.TCPConnector(force_close=True)
        ),
    }
    async with AsyncExitStack() as stack:
        headers = {"Authorization": "Bearer a-key-of-the-usual-length"}
        plain = await stack.enter_async_context(aiohttp.ClientSession(headers=headers))
        hand = partial(round_of, partial(by_hand, plain, f"{origin}/api/v1"))
        for name, lane in lanes.items():
            session: aiohttp.ClientSession | None = None
            if lane is not None:
                session = aiohttp.ClientSession(connector=lane, cookie_jar=aiohttp.DummyCookieJar())
                await stack.enter_async_context(session)
            client = KlingClient(
                "a-key-of-the-usual-length",
                base_url=origin,
                limits=limits,
                polling=Polling(first=0),
                session=session,
            )
            await stack.enter_async_context(client)
            pair = {"by hand": hand, name: partial(round_of, partial(by_client, client))}
            taken = await figures.take_turns(pair, ROUNDS)
            yield name, taken[name], taken["by hand"]


async def measured(origin: str) -> dict[str, tuple[float, float, float]]:
    """Return what this process has measured: seconds a task, those by hand, and the ratio."""
    async with aclosing(measure(origin)) as rows:
        return {
            name: (median(ours), median(hand), figures.ratio(ours, hand))
            async for name, ours, hand in rows
        }


def report(processes: list[dict[str, tuple[float, float, float]]]) -> None:
    """Print the ratios."""
    figures.title(
        f"One generation: CPU time per task, {AT_ONCE} at a time, in turns with a loop written by"
        f" hand; medians of {PROCESSES} processes, {ROUNDS} rounds of {TASKS} tasks in each"
    )
    for name in processes[0]:
        ours, hand, ratios = zip(*(process[name] for process in processes), strict=True)
        both = f"{median(ours) * 1e6:.0f} us", f"by hand {median(hand) * 1e6:.0f} us"
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        figures.row(name, *both, f"ratio {median(ratios):.2f}", spread)


def one_process(origin: str) -> dict[str, tuple[float, float, float]]:
    """Measure in a process of its own."""
    command = (sys.executable, "-m", "tests.bench.generation", origin)
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    return json.loads(said)  # type: ignore[no-any-return]


def main() -> None:
    """Measure it beside a server in another process."""
    with server.running() as origin:
        report([one_process(origin) for _ in range(PROCESSES)])


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measured(sys.argv[1]))))
