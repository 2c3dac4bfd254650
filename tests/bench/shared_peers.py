"""``python -m tests.bench.shared_peers``: libraries that share a request limit, side by side.

It needs ``pip install pyrate-limiter throttled-py self-limiters``, and takes a good minute: all
run at the same time, each with a Redis of its own, and each twice: with one clock 1.5 s wrong
the second time, where the clock of a process is read. Of the calls, those of scripts are
counted, by the server.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from importlib import import_module
from statistics import median
from typing import Any

import redis.asyncio

from kling_async.limits.base import Limits
from kling_async.limits.shared.limiter import SharedLimiter
from tests.bench import figures
from tests.bench.shared import Child
from tests.engines.redis import Server, serving
from tests.limits.conftest import fullest

LIMIT = 1_000
PROCESSES = 4
WAITERS = 100
SECONDS = 75.0
WRONG = 1.5

Acquire = Callable[[], Awaitable[object]]


async def pyrate(url: str) -> Acquire:
    """Use the log of pyrate-limiter."""
    them: Any = import_module("pyrate_limiter")
    client = redis.asyncio.Redis.from_url(url)
    rates = [them.Rate(LIMIT, them.Duration.MINUTE)]
    limiter: Any = them.Limiter(await them.RedisBucket.init(rates, client, "bench"))

    async def acquire() -> None:
        await limiter.try_acquire_async()

    return acquire


async def throttled(url: str, burst: int = LIMIT) -> Acquire:
    """Use the GCRA of throttled-py, with its default burst or another."""
    them: Any = import_module("throttled.asyncio")
    quota = them.rate_limiter.per_min(LIMIT, burst=burst)
    store = them.RedisStore(server=url)
    limiter = them.Throttled(key="bench", using="gcra", quota=quota, store=store, timeout=60)

    async def acquire() -> None:
        while (await limiter.limit()).limited:
            pass

    return acquire


async def throttled_evenly(url: str) -> Acquire:
    """Use throttled-py without a burst."""
    return await throttled(url, 1)


async def self_limiters(url: str) -> Acquire:
    """Use the token bucket of self-limiters."""
    them: Any = import_module("self_limiters")

    async def acquire() -> None:
        one = {"capacity": 1, "refill_amount": 1, "refill_frequency": 60 / LIMIT}
        async with them.TokenBucket(name="bench", redis_url=url, max_sleep=600, **one):
            pass

    return acquire


async def ours(url: str) -> Acquire:
    """Use ours."""
    limiter = SharedLimiter(url, limits=Limits(LIMIT), name="bench")

    async def acquire() -> None:
        (await limiter.request()).answered()

    return acquire


LIBRARIES = {
    "kling_async": ours,
    "pyrate-limiter": pyrate,
    "throttled-py, gcra": throttled,
    "throttled-py, gcra, burst=1": throttled_evenly,
    "self-limiters": self_limiters,
}


# Those in which the clock of a process may matter; and ours, where it does not.
ASK = {"kling_async", "pyrate-limiter"}


async def crowd(acquire: Acquire) -> list[tuple[float, float]]:
    """Let a crowd ask without end; return when each asked and was admitted."""
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    admitted: list[tuple[float, float]] = []
    end = time.monotonic() + SECONDS

    async def one() -> None:
        while time.monotonic() < end:
            asked = time.monotonic()
            try:
                await acquire()
            except Exception:  # noqa: BLE001 - of whatever library, under load
                await asyncio.sleep(1)
            else:
                admitted.append((asked, time.monotonic()))

    waiters = [asyncio.create_task(one()) for _ in range(WAITERS)]
    await asyncio.sleep(SECONDS)
    for waiter in waiters:
        waiter.cancel()
    await asyncio.wait(waiters)
    return admitted


def be(library: str, url: str, wrong: str) -> None:
    """Be one of the processes."""
    if wrong == "wrong":
        right, right_ns = time.time, time.time_ns
        time.time = lambda: right() + WRONG
        time.time_ns = lambda: right_ns() + int(WRONG * 1e9)

    async def run() -> None:
        print(json.dumps(await crowd(await LIBRARIES[library](url))), flush=True)
        os._exit(0)  # none of them is closed

    asyncio.run(run())


async def measure(library: str, server: Server, *, wrong: bool) -> list[str]:
    """Return the figures of one library."""
    children = [
        await Child.start(
            *("tests.bench.shared_peers", library, server.url()),
            "wrong" if wrong and not number else "right",
        )
        for number in range(PROCESSES)
    ]
    for child in children:
        child.begin()
    shares = [(await child.read_results())[0] for child in children]
    moments = sorted(at for share in shares for _, at in share)
    waits = sorted(at - asked for share in shares for asked, at in share)
    equal = len(moments) / PROCESSES
    async with redis.asyncio.Redis.from_url(server.url()) as client:
        stats = await client.info("commandstats")
    calls = sum(stats.get(f"cmdstat_{one}", {"calls": 0})["calls"] for one in ("eval", "evalsha"))
    return [
        f"{fullest(moments):,}",
        f"{fullest(moments, 1.0):,}",
        f"{min(map(len, shares)) / equal:.2f}-{max(map(len, shares)) / equal:.2f}",
        f"{calls / len(moments):.2f}",
        f"{median(waits):.0f} s, {waits[-1]:.0f} s",
    ]


async def main() -> None:
    """Measure all at the same time, and print the figures."""
    with ExitStack() as stack:
        contenders = [(name, wrong) for name in LIBRARIES for wrong in (False, True)]
        contenders = [(name, wrong) for name, wrong in contenders if not wrong or name in ASK]
        measured = await asyncio.gather(
            *(
                measure(name, stack.enter_context(serving()), wrong=wrong)
                for name, wrong in contenders
            )
        )
    figures.title(
        f"Libraries: {PROCESSES} processes x {WAITERS} waiters, {LIMIT:,} a minute, {SECONDS:.0f} s"
    )
    figures.row("", "worst minute", "worst second", "shares", "calls/request", "median, longest")
    for (name, wrong), row in zip(contenders, measured, strict=True):
        figures.row(f"{name}{', one clock 1.5 s wrong' if wrong else ''}", *row)


if __name__ == "__main__":
    if sys.argv[1:]:
        be(*sys.argv[1:])
    else:
        asyncio.run(main())
