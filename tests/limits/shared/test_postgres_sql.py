"""What the statements of the limits in PostgreSQL do when the database has changed."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from attrs import evolve
from psycopg import AsyncConnection

from kling_async.errors import LimiterError
from kling_async.limits.base import Limits
from kling_async.limits.shared.backend import create_backend
from kling_async.limits.shared.schedule import RequestSchedule
from kling_async.limits.shared.window import Report
from tests.limits.conftest import change, plain

FAST = Limits(60_000, 3)
NO_REST = RequestSchedule.for_limits(FAST, 0.0)


async def test_several_processes_begin_at_once(postgres_url: str) -> None:
    """The tables are created once, by whichever process comes first."""
    engines = [create_backend(postgres_url, f"n {number % 3}") for number in range(8)]
    await asyncio.gather(*(engine.reserve(1, plain(), NO_REST) for engine in engines))
    for engine in engines:
        await engine.close()
        await engine.close()  # does nothing
    async with await AsyncConnection.connect(postgres_url) as admin:
        counted = await admin.execute("SELECT count(*) FROM kling_async_limits")
        assert await counted.fetchone() == (3,)


async def test_tables_that_disappear(postgres_url: str) -> None:
    """Rows and tables that are taken away are made again."""
    engine = create_backend(postgres_url, "n")
    first = await engine.reserve(1, plain(), NO_REST)
    async with await AsyncConnection.connect(postgres_url, autocommit=True) as admin:
        await admin.execute("TRUNCATE kling_async_limits")
        again = await engine.reserve(1, plain(), NO_REST)
        assert again.epoch != first.epoch
        await admin.execute("DROP TABLE kling_async_limits")
    with pytest.raises(LimiterError):
        await engine.reserve(1, plain(), NO_REST)
    assert (await engine.reserve(1, plain(), NO_REST)).epoch != again.epoch
    await engine.close()


async def test_a_failover(postgres_url: str) -> None:
    """A server that was started at another moment may know less, and begins with a rest."""
    engine = create_backend(postgres_url, "n")
    pace = RequestSchedule.for_limits(FAST, 0.5)
    first = await engine.reserve(1, plain(), pace)
    async with await AsyncConnection.connect(postgres_url) as admin:
        await admin.execute("UPDATE kling_async_limits SET run = 'another'")
    again = await engine.reserve(1, plain(), pace)
    assert again.epoch != first.epoch
    assert 0.499 <= again.delays[0] < 0.51
    assert (await engine.reserve(1, plain(), pace)).epoch == again.epoch
    await engine.close()


async def test_the_schema(postgres_url: str) -> None:
    """The tables lie in the schema that the address asks for."""
    async with await AsyncConnection.connect(postgres_url, autocommit=True) as admin:
        await admin.execute("CREATE SCHEMA studio")
        engine = create_backend(f"{postgres_url}?options=-csearch_path%3Dstudio", "n")
        await engine.reserve(1, plain(), NO_REST)
        await engine.close()
        await admin.execute("SELECT name FROM studio.kling_async_limits")
        with pytest.raises(psycopg.errors.UndefinedTable):
            await admin.execute("SELECT name FROM kling_async_limits")


async def test_a_clock_that_was_set_back(postgres_url: str) -> None:
    """Processes report what they hold again; leases expire when they would have."""
    engine, pace = create_backend(postgres_url, "n"), evolve(NO_REST, recovery_delay=0.5)
    first = await engine.update_leases(change(acquire=("a", "m/1")))
    await engine.reserve(3, Report("a", 1), pace)
    await engine.pause(5.0, 0.0)
    async with await AsyncConnection.connect(postgres_url) as admin:
        await admin.execute(
            "UPDATE kling_async_limits SET seen = seen + 1000, next_at = next_at + 1000,"
            " resume_at = resume_at + 1000, paused_at = paused_at + 1000"
        )
        await admin.execute("UPDATE kling_async_leases SET ends_at = ends_at + 1000")
    got = await engine.reserve(3, Report("a", 2, 1, 3), pace)
    assert (got.acknowledged, got.delays) == (0, ())
    assert 900 < got.set_back <= 1_000
    assert got.epoch != first.epoch
    assert got.pause <= 6.0
    assert len((await engine.reserve(3, Report("a", 3, 0, 3), pace)).delays) == 3
    leased = await engine.update_leases(change())
    assert (leased.set_back, leased.held, leased.confirmed) == (0.0, 2, 1)
    assert all(80 < lease.ends_in <= 100 for lease in (await engine.peek()).leases)
    await engine.close()
