"""The scripts in Redis: keys, evictions, restarts and clocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from attrs import evolve
from redis.asyncio import Redis

from kling_async import TaskRef
from kling_async.limits.base import Limits
from kling_async.limits.shared.backend import create_backend
from kling_async.limits.shared.schedule import RequestSchedule
from kling_async.limits.shared.window import Report
from tests.limits.conftest import change, plain

if TYPE_CHECKING:
    from tests.limits.conftest import Share


REF = TaskRef("kling-2-1", "task_1")
FAST = Limits(60_000, 3)
NO_REST = RequestSchedule.for_limits(FAST, 0.0)


async def test_the_keys(redis_url: str, share: Share) -> None:
    """The keys of one name hold it in braces, for clusters, and are forgotten in the end."""
    limiter = share(redis_url, FAST, name="the studio")
    await limiter.request()
    await limiter.slot()
    async with Redis.from_url(redis_url, decode_responses=True) as admin:
        keys = sorted(await admin.keys())
        assert keys == [
            "kling_async:{the studio}:ends",
            "kling_async:{the studio}:leases",
            "kling_async:{the studio}:pace",
            "kling_async:{the studio}:window",
        ]
        for key in keys:
            assert 86_400 < await admin.ttl(key) <= 31 * 86_400


@pytest.mark.parametrize("what", ["pace", "ends", "window"])
async def test_an_eviction(redis_url: str, what: str) -> None:
    """A server that has evicted a key counts as a new one, and gets what is held again."""
    backend = create_backend(redis_url, "n")
    first = await backend.update_leases(change(acquire=("a", "b"), limit=2))
    assert first.acquired == ("a", "b")
    assert (await backend.reserve(0, plain(), NO_REST)).epoch == first.epoch
    async with Redis.from_url(redis_url) as admin:
        await admin.delete(f"kling_async:{{n}}:{what}")
    again = await backend.update_leases(change(acquire=("c",), limit=2, settle=60.0))
    assert again.acquired == ()
    assert again.epoch != first.epoch
    assert (await backend.reserve(0, plain(), NO_REST)).epoch == again.epoch
    await backend.close()


async def test_an_eviction_of_holders(redis_url: str) -> None:
    """Leases whose holders were evicted are still listed."""
    backend = create_backend(redis_url, "n")
    await backend.update_leases(change(acquire=("a",)))
    async with Redis.from_url(redis_url) as admin:
        await admin.delete("kling_async:{n}:leases")
    (lease,) = (await backend.peek()).leases
    assert (lease.key, lease.holder) == ("a", "?")
    assert lease.ends_in > 90
    await backend.close()


async def test_a_failover(redis_url: str) -> None:
    """A server with another run_id may know less than was reserved, and grants nothing at first."""
    backend = create_backend(redis_url, "n")
    pace = evolve(NO_REST, settle=0.5)
    first = await backend.reserve(1, plain(), pace)
    async with Redis.from_url(redis_url) as admin:
        await admin.hset("kling_async:{n}:pace", "run", "another")
    again = await backend.reserve(1, plain(), pace)
    assert again.epoch != first.epoch
    assert 0.499 <= again.delays[0] < 0.6
    assert (await backend.reserve(1, plain(), pace)).epoch == again.epoch
    await backend.close()


async def test_a_clock_that_was_set_back(redis_url: str) -> None:
    """Processes report again what they have; leases last as long as they would have."""
    backend, pace = create_backend(redis_url, "n"), evolve(NO_REST, settle=0.5)
    first = await backend.update_leases(change(acquire=("a", "m/1")))
    await backend.reserve(3, Report("a", 1), pace)
    await backend.pause(5.0, 0.0)
    async with Redis.from_url(redis_url) as admin:
        key = "kling_async:{n}:pace"
        for field in ("seen", "next", "resume", "paused"):
            await admin.hincrbyfloat(key, field, 1_000)
        for lease in ("a", "m/1"):
            await admin.zincrby("kling_async:{n}:ends", 1_000, lease)
    got = await backend.reserve(3, Report("a", 2, 1, 3), pace)
    assert (got.acknowledged, got.delays) == (0, ())
    assert 900 < got.set_back <= 1_000
    assert got.epoch != first.epoch
    assert got.pause <= 6.0
    assert len((await backend.reserve(3, Report("a", 3, 0, 3), pace)).delays) == 3
    leased = await backend.update_leases(change())
    assert (leased.set_back, leased.held, leased.confirmed) == (0.0, 2, 1)
    assert all(80 < lease.ends_in <= 100 for lease in (await backend.peek()).leases)
    await backend.close()
