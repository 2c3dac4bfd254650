from __future__ import annotations

import asyncio
from bisect import bisect_right
from contextlib import AsyncExitStack
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, Self

import pytest

from kling_async.limits.shared.backend import LeaseUpdate
from kling_async.limits.shared.limiter import SharedLimiter
from kling_async.limits.shared.schedule import RequestSchedule
from kling_async.limits.shared.window import Report

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from kling_async.limits.base import Limiter, Limits


class Share(Protocol):
    def __call__(self, engine: Any, limits: Limits, **options: Any) -> SharedLimiter: ...  # noqa: ANN401


@pytest.fixture
async def share() -> AsyncIterator[Share]:
    """Make a limiter as one more process would have it; it is closed at the end."""
    async with AsyncExitStack() as stack:

        def share(engine: Any, limits: Limits, **options: Any) -> SharedLimiter:  # noqa: ANN401
            limiter = SharedLimiter(
                engine, limits=limits, **{"name": "n", "recovery_delay": 0, **options}
            )
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


# A thousand turns a second, of which ten may lie back; no settling.
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
        "recovery_delay": 0.0,
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
