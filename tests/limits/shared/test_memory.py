"""The backend in memory: what is different from the others."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from kling_async.limits.shared.memory import MemoryLimitsBackend
from tests.limits.conftest import FULL, PACE, change, crowds, plain, run


@pytest.mark.virtual_time
async def test_the_backend_in_memory_becomes_unreachable() -> None:
    """The backend in memory can be unreachable for a call, or for its answer."""
    backend = MemoryLimitsBackend(round_trip=1.0)
    for call in (
        partial(backend.reserve, 1, plain(), PACE),
        partial(backend.pause, 1.0, 0.0),
        partial(backend.update_leases, change()),
        backend.peek,
    ):
        task: asyncio.Future[object] = asyncio.ensure_future(call())
        await asyncio.sleep(0.7)
        backend.unreachable = True
        with pytest.raises(Exception, match="before its answer"):
            await task
        with pytest.raises(Exception, match="is unreachable"):
            await call()
        backend.unreachable = False
    assert backend.calls == 4
    await backend.close()


@pytest.mark.parametrize("skew", [-1.5, 1.5, 1e9])
def test_the_backends_clock_alone_counts(skew: float) -> None:
    """It does not matter by how much a process's clock differs from the backend's."""

    async def main() -> list[list[float]]:
        zero = asyncio.get_running_loop().time()
        loop = asyncio.get_running_loop()
        backend = MemoryLimitsBackend(lambda: loop.time() - zero + skew)
        return await crowds([backend] * 2, FULL, 30)

    shares = run(main())
    assert sum(map(len, shares)) >= 0.97 * 5_000
    assert abs(len(shares[0]) - len(shares[1])) < 0.1 * len(shares[0])
