"""Shared limits: four processes, 500 waiters in each, real backends, the vendor's figures.

``python -m tests.bench shared`` takes about two minutes, ``shared-full`` watches 150 s. The
crowds run at the same time, each with limits of a name of its own. Moments are those of the
machine's monotonic clock, which all its processes share.
"""

import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack, ExitStack
from itertools import pairwise
from random import uniform
from statistics import mean
from typing import Any

from attrs import frozen

from kling_async import TaskRef
from kling_async.limits.base import Limits
from kling_async.limits.shared.backend import (
    LeaseStatus,
    LeaseUpdate,
    LimitsBackend,
    Reservation,
    Usage,
    create_backend,
)
from kling_async.limits.shared.limiter import SharedLimiter
from kling_async.limits.shared.schedule import RequestSchedule
from kling_async.limits.shared.window import Report
from tests.bench import figures
from tests.engines import postgres, redis
from tests.limits.conftest import Proxy, fullest

OURS = "tests.bench.shared"
PROCESSES = 4
WAITERS = 500
LIMIT = 10_000
WRONG = 1.5  # seconds, of a clock
LATENCY = (0.05, 0.3)  # seconds, of a request
DISTANCE = 0.030  # seconds, there and back
SHORT, FULL = 75.0, 150.0

# Of the part about leases: seconds that a task takes, at the most and at the least, that a lease
# lasts, until one process is killed, and for which it is watched.
SLOTS = 100
WORKERS = 60
TASK = (4.0, 6.0)
LIFETIME = 10.0
KILLED_AT = 12.0
LEASES_FOR = 34.0


class Counted:
    """Counts the calls of a backend."""

    def __init__(self, backend: LimitsBackend) -> None:
        self._backend = backend
        self.calls = 0

    async def reserve(self, number: int, report: Report, pace: RequestSchedule) -> Reservation:
        """Count, and pass it on."""
        self.calls += 1
        return await self._backend.reserve(number, report, pace)

    async def pause(self, delay: float, age: float) -> float:
        """Count, and pass it on."""
        self.calls += 1
        return await self._backend.pause(delay, age)

    async def update_leases(self, change: LeaseUpdate) -> LeaseStatus:
        """Count, and pass it on."""
        self.calls += 1
        return await self._backend.update_leases(change)

    async def peek(self) -> Usage:
        """Pass it on."""
        return await self._backend.peek()

    async def close(self) -> None:
        """Pass it on."""
        await self._backend.close()


class WrongLoop(asyncio.SelectorEventLoop):
    """Takes its time from a clock that is wrong."""

    def time(self) -> float:
        """Return a time that is not that of the others."""
        return super().time() + WRONG


async def begin(backend: LimitsBackend) -> None:
    """Connect, say so, and wait for the word to begin."""
    await backend.peek()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)


async def ask(url: str, name: str, seconds: float) -> dict[str, Any]:
    """Let a crowd ask without end; return the figures."""
    backend = Counted(create_backend(url, name))
    limiter = SharedLimiter(backend, limits=Limits(LIMIT), name=name)
    moments: list[float] = []
    await begin(backend)
    end, cpu = time.monotonic() + seconds, time.process_time()

    async def one() -> None:
        while time.monotonic() < end:
            permit = await limiter.request()
            moments.append(time.monotonic())
            await asyncio.sleep(uniform(*LATENCY))  # noqa: S311 - no secret
            permit.answered()

    waiters = [asyncio.create_task(one()) for _ in range(WAITERS)]
    await asyncio.sleep(seconds)
    cpu = time.process_time() - cpu
    for waiter in waiters:
        waiter.cancel()
    await asyncio.wait(waiters)
    await limiter.close()
    await backend.close()
    return {"moments": moments, "calls": backend.calls, "cpu": cpu}


async def hold(url: str, name: str, seconds: float) -> None:
    """Acquire and release slots without end; print each at once, since it may be killed."""
    backend = create_backend(url, name)
    limits = Limits(concurrent_tasks=SLOTS, presumed_lifetime=LIFETIME)
    limiter = SharedLimiter(backend, limits=limits, name=name)
    await begin(backend)
    end = time.monotonic() + seconds

    async def one(number: int) -> None:
        shortest, longest = TASK
        while time.monotonic() < end:
            asked = time.monotonic()
            slot = await limiter.slot()
            ref = TaskRef("kling-2-1", f"{limiter.name}-{id(slot)}-{asked}")
            slot.confirm(ref)
            print(json.dumps([str(ref), 1, time.monotonic()]), flush=True)
            await asyncio.sleep(shortest + (longest - shortest) * number / WORKERS)
            print(json.dumps([str(ref), 0, time.monotonic()]), flush=True)
            slot.release()

    workers = [asyncio.create_task(one(number)) for number in range(WORKERS)]
    await asyncio.sleep(seconds)
    for worker in workers:
        worker.cancel()
    await asyncio.wait(workers)
    await limiter.close()
    await backend.close()


def be(what: str, url: str, name: str, seconds: str, wrong: str) -> None:
    """Be one of the processes."""
    loop: Any = None
    if wrong == "wrong":
        loop, right = WrongLoop, time.time
        time.time = lambda: right() + WRONG
    with asyncio.Runner(loop_factory=loop) as runner:
        if what == "ask":
            print(json.dumps(runner.run(ask(url, name, float(seconds)))), flush=True)
        else:
            runner.run(hold(url, name, float(seconds)))


class Child:
    """One of the processes, seen from here."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        assert process.stdin is not None
        assert process.stdout is not None
        self._to, self._from = process.stdin, process.stdout

    @classmethod
    async def start(cls, module: str, *arguments: str) -> "Child":
        """Start it, and wait until it is ready."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", module, *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=64 * 1024 * 1024,
        )
        made = cls(process)
        line = await made._from.readline()
        assert line == b"ready\n", line
        return made

    def begin(self) -> None:
        """Let it begin."""
        self._to.write(b"go\n")

    async def read_results(self) -> list[Any]:
        """Return all that it says to its end."""
        lines = (await self._from.read()).splitlines()
        await self.process.wait()
        self._to.close()
        return [json.loads(line) for line in lines]


@frozen
class Crowd:
    """What is measured at once."""

    title: str
    url: str
    name: str
    one_wrong: bool = False


async def watch(crowd: Crowd, children: list[Child]) -> None:
    """Print the figures of one crowd."""
    results = [(await child.read_results())[0] for child in children]
    shares = [len(one["moments"]) for one in results]
    moments = sorted(moment for one in results for moment in one["moments"])
    used = (len(moments) - 1) / (moments[-1] - moments[0]) * 60 / LIMIT
    equal = len(moments) / PROCESSES
    figures.row(
        crowd.title,
        f"{fullest(moments):,}",
        f"{used:.1%}",
        f"{min(shares) / equal:.3f}-{max(shares) / equal:.3f}",
        f"{sum(one['calls'] for one in results) / len(moments):.3f}",
        f"{sum(one['cpu'] for one in results) / len(moments) * 1e6:.0f} µs",
    )


async def requests(seconds: float, near: redis.Server, other: postgres.Server) -> None:
    """Measure all crowds at the same time."""
    async with AsyncExitStack() as stack:
        urls, far = (near.url(), other.url()), []
        for url, port in zip(urls, (near.port, other.port), strict=True):
            proxy = await stack.enter_async_context(Proxy("127.0.0.1", port))
            proxy.delay = DISTANCE / 2
            far.append(url.replace(f":{port}", f":{proxy.port}"))
        crowds = [
            Crowd("Redis", urls[0], "near"),
            Crowd("Redis, one clock 1.5 s wrong", urls[0], "wrong", one_wrong=True),
            Crowd("Redis, 30 ms away", far[0], "far"),
            Crowd("PostgreSQL", urls[1], "near"),
            Crowd("PostgreSQL, 30 ms away", far[1], "far"),
        ]
        children = [
            [
                await Child.start(
                    *(OURS, "ask", one.url, one.name, str(seconds)),
                    "wrong" if one.one_wrong and number == 0 else "right",
                )
                for number in range(PROCESSES)
            ]
            for one in crowds
        ]
        for some in children:
            for child in some:
                child.begin()
        figures.title(
            f"Shared limits: {PROCESSES} processes x {WAITERS} waiters, {LIMIT:,} a minute,"
            f" {seconds:.0f} s; all at the same time"
        )
        figures.row("", "worst minute", "used", "shares", "calls/request", "CPU/request")
        for crowd, some in zip(crowds, children, strict=True):
            await watch(crowd, some)


async def leases(title: str, url: str) -> None:
    """Kill one of the processes, and see what becomes of its slots."""
    children = [
        await Child.start(OURS, "hold", url, "leases", str(LEASES_FOR), "right")
        for _ in range(PROCESSES)
    ]
    for one in children:
        one.begin()
    begun = time.monotonic()
    reading = [asyncio.create_task(one.read_results()) for one in children]
    await asyncio.sleep(KILLED_AT)
    children[0].process.kill()
    killed = time.monotonic()
    results = await asyncio.gather(*reading)
    changes: list[tuple[float, int]] = []
    for number, events in enumerate(results):
        begins = {ref: at for ref, taken, at in events if taken}
        ends = {ref: at for ref, taken, at in events if not taken}
        for ref, at in begins.items():
            # Tasks of the dead one still run at the service: its lease counts to the end.
            end = ends.get(ref, at + LIFETIME - 0.1 if number == 0 else float("inf"))
            changes += [(at, 1), (end, -1)]
    changes.sort()
    used, most, levels = 0, 0, [(begun, 0)]
    for at, change in changes:
        used += change
        most = max(most, used)
        levels.append((at, used))
    alive = sorted((at, 1 if taken else -1) for events in results[1:] for _ref, taken, at in events)
    lives, again = 0, float("inf")
    for at, change in alive:
        lives += change
        if at > killed and lives == SLOTS:
            again = at - killed
            break

    def share(start: float, end: float) -> float:
        inside = [(max(start, a), min(end, b), n) for (a, n), (b, _) in pairwise(levels)]
        return sum(max(0.0, b - a) * n for a, b, n in inside) / (end - start) / SLOTS

    lost = killed + LIFETIME + 1
    figures.row(
        title,
        f"{most} of {SLOTS}",
        f"{share(begun + 6, killed):.1%}",
        f"{again:.1f} s",
        f"{share(lost, begun + LEASES_FOR - 1):.1%}",
        f"{mean(len(events) for events in results[1:]) / 2:.0f}",
    )


def measure(seconds: float) -> None:
    """Print the figures."""
    with ExitStack() as stack:
        near = stack.enter_context(redis.serving())
        other = stack.enter_context(postgres.serving())

        async def run() -> None:
            await requests(seconds, near, other)
            figures.title(
                f"Slots: {PROCESSES} processes, {SLOTS} slots,"
                f" tasks of {TASK[0]:.0f}-{TASK[1]:.0f} s,"
                f" leases of {LIFETIME:.0f} s; one process killed after {KILLED_AT:.0f} s"
            )
            figures.row("", "most in use", "used before", "full again", "used after", "tasks each")
            await leases("Redis", near.url(1))
            await leases("PostgreSQL", other.url())

        asyncio.run(run())


def main() -> None:
    """Watch for a little more than a minute."""
    measure(SHORT)


def full() -> None:
    """Watch for two minutes and a half."""
    measure(FULL)


if __name__ == "__main__":
    if sys.argv[1:] in ([], ["--full"]):
        measure(FULL if sys.argv[1:] else SHORT)
    else:
        be(*sys.argv[1:])
