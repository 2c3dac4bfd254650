from __future__ import annotations

import asyncio
from bisect import bisect_right
from contextlib import AsyncExitStack
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import pytest

from kling_async import TaskRef
from kling_async.limits.base import Limits
from kling_async.limits.shared.backend import LeaseUpdate
from kling_async.limits.shared.limiter import SharedLimiter
from kling_async.limits.shared.memory import MemoryLimitsBackend
from kling_async.limits.shared.schedule import RequestSchedule
from kling_async.limits.shared.window import Report
from kling_async.testing.clock import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Sequence

    from kling_async.limits.base import Limiter
    from kling_async.limits.shared.backend import LeaseStatus, Reservation


class Share(Protocol):
    def __call__(self, backend: Any, limits: Limits, **options: Any) -> SharedLimiter: ...  # noqa: ANN401


@pytest.fixture
async def share() -> AsyncIterator[Share]:
    """Make a limiter as one more process would have it; it is closed at the end."""
    async with AsyncExitStack() as stack:

        def share(backend: Any, limits: Limits, **options: Any) -> SharedLimiter:  # noqa: ANN401
            limiter = SharedLimiter(backend, limits=limits, **{"name": "n", "settle": 0, **options})
            stack.push_async_callback(limiter.close)
            return limiter

        yield share


def fullest(moments: Sequence[float], window: float = 60.0) -> int:
    """Count the moments in the fullest closed window of so many seconds."""
    # A window that begins at a moment is as full as any. The slack is the clock's rounding.
    moments = sorted(moments)
    return max(
        (bisect_right(moments, at + window + 1e-6) - i for i, at in enumerate(moments)), default=0
    )


async def granted(limiter: Limiter) -> float:
    """Wait until a request is granted, which is answered at once; return the moment."""
    permit = await limiter.request()
    permit.answered()
    return permit.granted_at


async def crowd(limiter: Limiter, waiters: int, until: float, moments: list[float]) -> None:
    """Let so many ask without end until a moment; note when each was admitted."""
    clock = asyncio.get_running_loop().time

    async def one() -> None:
        while clock() < until:
            permit = await limiter.request()
            moments.append(permit.granted_at)
            permit.answered()

    async with asyncio.TaskGroup() as group:
        for _ in range(waiters):
            group.create_task(one())


# A thousand grants a second, of which ten may lie back; no settling.
PACE = RequestSchedule(60_000, 0.001, 0.01, 100, 0.0)


_sequences = count(1)


def plain(holder: str = "me", since: int = 0) -> Report:
    """Make the report of a process that has nothing to say; each is another process's first."""
    number = next(_sequences)
    return Report(f"{holder} {number}", number, since)


def change(**changes: object) -> LeaseUpdate:
    """Describe a change of leases."""
    values: dict[str, object] = {"renew": (), "acquire": (), "release": (), "limit": 3}
    values |= {
        "cap": changes.get("limit", 3),
        "lifetime": 100.0,
        "holder": "me",
        "settle": 0.0,
        "schedule": PACE,
    }
    return LeaseUpdate(**{**values, **changes})  # type: ignore[arg-type]  # each has its own


class Proxy:
    """Stands between a client and a server: delays what passes, or lets nothing pass."""

    def __init__(self, host: str, port: int) -> None:
        self.there = (host, port)  # of connections that are yet to be made
        self.delay = 0.0  # each way
        self.cut = False
        self.seen = 0  # pieces that came from the client
        self._pipes: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)
        for writer in self._writers:
            writer.close()
        await asyncio.sleep(0)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self.there)
        self._writers |= {writer, back}
        for pipe in (self._pipe(reader, back, 1), self._pipe(there, writer, 0)):
            task = asyncio.create_task(pipe)
            self._pipes.add(task)
            task.add_done_callback(self._pipes.discard)

    async def _pipe(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: int
    ) -> None:
        loop = asyncio.get_running_loop()

        def pass_on(data: bytes) -> None:
            if not self.cut and not writer.is_closing():
                writer.write(data)

        try:
            while data := await reader.read(65_536):
                self.seen += count
                loop.call_later(self.delay, pass_on, data)
        except ConnectionError:
            pass
        loop.call_later(self.delay, writer.close)


_T = TypeVar("_T")


REF = TaskRef("kling-2-1", "task_1")


FULL = Limits()


FAST = Limits(60_000, 1_000)  # a thousand a second


def run(main: Coroutine[object, object, _T]) -> _T:
    """Run on a virtual loop of its own."""
    with asyncio.Runner(debug=False, loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


async def crowds(
    backends: list[MemoryLimitsBackend],
    limits: Limits,
    seconds: float,
    waiters: int = 60,
    **options: Any,  # noqa: ANN401 - the limiter's
) -> list[list[float]]:
    """Let one process for each backend ask without end; give the moments of each."""
    moments: list[list[float]] = [[] for _ in backends]
    limiters = [
        SharedLimiter(backend, limits=limits, **{"settle": 0, **options}) for backend in backends
    ]
    async with asyncio.TaskGroup() as group:
        for limiter, mine in zip(limiters, moments, strict=True):
            group.create_task(crowd(limiter, waiters, now() + seconds, mine))
    for limiter in limiters:
        await limiter.close()
    return moments


class Canceller(MemoryLimitsBackend):
    """Cancels a task with the answer, or between what that gives it and its waking."""

    victim: asyncio.Task[Any] | None = None
    at_once = False

    async def reserve(self, number: int, report: Report, pace: RequestSchedule) -> Reservation:
        try:
            return await super().reserve(number, report, pace)
        finally:
            self._last()

    async def update_leases(self, change: LeaseUpdate) -> LeaseStatus:
        try:
            return await super().update_leases(change)
        finally:
            self._last()

    def _last(self) -> None:
        if self.victim is not None and self.at_once:
            self.victim.cancel()
        elif self.victim is not None:
            asyncio.get_running_loop().call_soon(self.victim.cancel)
        self.victim = None


class Breaking:
    """Makes a backend unreachable for a while, again and again."""

    def __init__(self, backend: MemoryLimitsBackend, *waits: float) -> None:
        self._backend = backend
        self._waits = waits

    async def run(self) -> None:
        for wait in self._waits:
            await asyncio.sleep(wait)
            self._backend.unreachable = not self._backend.unreachable
