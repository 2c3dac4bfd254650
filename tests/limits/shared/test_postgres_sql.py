"""The statements in PostgreSQL: tables, restarts, clocks and locks."""

from __future__ import annotations

import asyncio
import signal
import sys
from random import Random
from typing import TYPE_CHECKING

import psycopg
import pytest
from attrs import evolve
from psycopg import AsyncConnection, sql

from kling_async.errors import LimiterError
from kling_async.limits.base import Limits
from kling_async.limits.shared.backend import create_backend
from kling_async.limits.shared.schedule import RequestSchedule
from kling_async.limits.shared.window import Report
from tests.limits.conftest import change, granted, plain
from tests.processes import unmeasured

if TYPE_CHECKING:
    from kling_async.limits.shared.limiter import SharedLimiter
    from tests.limits.conftest import Share


FAST = Limits(60_000, 3)
NO_REST = RequestSchedule.for_limits(FAST, 0.0)


async def test_several_processes_begin_at_once(postgres_url: str) -> None:
    """The tables are created once, whichever process is first."""
    backends = [create_backend(postgres_url, f"n {number % 3}") for number in range(8)]
    await asyncio.gather(*(backend.reserve(1, plain(), NO_REST) for backend in backends))
    for backend in backends:
        await backend.close()
        await backend.close()  # does nothing
    async with await AsyncConnection.connect(postgres_url) as admin:
        counted = await admin.execute("SELECT count(*) FROM kling_async_limits")
        assert await counted.fetchone() == (3,)


async def test_tables_that_disappear(postgres_url: str) -> None:
    """Rows and tables that were dropped are created again."""
    backend = create_backend(postgres_url, "n")
    first = await backend.reserve(1, plain(), NO_REST)
    async with await AsyncConnection.connect(postgres_url, autocommit=True) as admin:
        await admin.execute("TRUNCATE kling_async_limits")
        again = await backend.reserve(1, plain(), NO_REST)
        assert again.epoch != first.epoch
        await admin.execute("DROP TABLE kling_async_limits")
    with pytest.raises(LimiterError):
        await backend.reserve(1, plain(), NO_REST)
    assert (await backend.reserve(1, plain(), NO_REST)).epoch != again.epoch
    await backend.close()


async def test_a_failover(postgres_url: str) -> None:
    """A server that was restarted may know less, and grants nothing at first."""
    backend = create_backend(postgres_url, "n")
    pace = RequestSchedule.for_limits(FAST, 0.5)
    first = await backend.reserve(1, plain(), pace)
    async with await AsyncConnection.connect(postgres_url) as admin:
        await admin.execute("UPDATE kling_async_limits SET run = 'another'")
    again = await backend.reserve(1, plain(), pace)
    assert again.epoch != first.epoch
    assert 0.499 <= again.delays[0] < 0.51
    assert (await backend.reserve(1, plain(), pace)).epoch == again.epoch
    await backend.close()


async def test_the_schema(postgres_url: str) -> None:
    """The tables lie in the schema that the address asks for."""
    async with await AsyncConnection.connect(postgres_url, autocommit=True) as admin:
        await admin.execute("CREATE SCHEMA studio")
        backend = create_backend(f"{postgres_url}?options=-csearch_path%3Dstudio", "n")
        await backend.reserve(1, plain(), NO_REST)
        await backend.close()
        await admin.execute("SELECT name FROM studio.kling_async_limits")
        with pytest.raises(psycopg.errors.UndefinedTable):
            await admin.execute("SELECT name FROM kling_async_limits")


WORKER = """
import asyncio, sys
from kling_async import Limits
from kling_async.limits.shared.limiter import SharedLimiter

async def main():
    limits = Limits(60_000, 3)
    async with SharedLimiter(sys.argv[1], limits=limits, name="n", settle=0) as limiter:
        async def one():
            while True:
                slot = await limiter.slot()
                (await limiter.request()).answered()
                slot.release()
        print("ready", flush=True)
        await asyncio.gather(*(one() for _ in range(20)))

asyncio.run(main())
"""


async def test_a_process_that_is_stopped_in_the_middle(postgres_url: str) -> None:
    """Whenever a process is suspended, the others continue, and the server waits for nothing."""
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WORKER, postgres_url),
        stdout=asyncio.subprocess.PIPE,
        env=unmeasured(),
    )
    assert worker.stdout is not None
    backend, dice = create_backend(postgres_url, "n"), Random(3)  # noqa: S311 - moments, not secrets
    try:
        await worker.stdout.readline()
        async with await AsyncConnection.connect(postgres_url, autocommit=True) as admin:
            for _ in range(25):
                await asyncio.sleep(dice.uniform(0.01, 0.1))
                worker.send_signal(signal.SIGSTOP)
                await backend.reserve(1, plain(), NO_REST)
                await backend.update_leases(change())
                await backend.peek()
                stuck = await admin.execute(
                    "SELECT state FROM pg_stat_activity WHERE datname = current_database()"
                    " AND pid <> pg_backend_pid() AND (xact_start IS NOT NULL"
                    " OR wait_event_type = 'Lock') AND query_start < now() - interval '5 s'"
                )
                assert await stuck.fetchall() == []
                worker.send_signal(signal.SIGCONT)
    finally:
        worker.kill()
        await worker.wait()
        await backend.close()


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_isolation_levels(postgres_url: str, share: Share, level: str) -> None:
    """No call fails, whatever the database's default; and no setting is left behind."""
    async with await AsyncConnection.connect(postgres_url, autocommit=True) as admin:
        name = sql.Identifier(postgres_url.rpartition("/")[2])
        setting = sql.SQL("ALTER DATABASE {} SET default_transaction_isolation = {}")
        await admin.execute(setting.format(name, sql.Literal(level)))
    limiters = [share(postgres_url, Limits(60_000, 200), when_gone="raise") for _ in range(4)]

    async def one(limiter: SharedLimiter) -> None:
        for _ in range(20):
            await granted(limiter)
            slot = await limiter.slot()
            await asyncio.sleep(0.005)
            slot.release()

    await asyncio.gather(*(one(limiter) for limiter in limiters for _ in range(3)))


async def test_a_lock_that_another_client_holds(postgres_url: str, share: Share) -> None:
    """It is waited for, but not for long: a call fails, and is made again."""
    limiter = share(postgres_url, FAST)
    await granted(limiter)
    await asyncio.sleep(0.5)  # grants at hand are lost
    async with await AsyncConnection.connect(postgres_url) as admin:
        await admin.execute("SELECT FROM kling_async_limits FOR UPDATE")
        waiting = asyncio.create_task(granted(limiter))
        await asyncio.sleep(3)
        assert not waiting.done()
        await admin.rollback()
        async with asyncio.timeout(20):
            await waiting


async def test_a_clock_that_was_set_back(postgres_url: str) -> None:
    """Processes report again what they have; leases last as long as they would have."""
    backend, pace = create_backend(postgres_url, "n"), evolve(NO_REST, settle=0.5)
    first = await backend.update_leases(change(acquire=("a", "m/1")))
    await backend.reserve(3, Report("a", 1), pace)
    await backend.pause(5.0, 0.0)
    async with await AsyncConnection.connect(postgres_url) as admin:
        await admin.execute(
            "UPDATE kling_async_limits SET seen = seen + 1000, next_at = next_at + 1000,"
            " resume_at = resume_at + 1000, paused_at = paused_at + 1000"
        )
        await admin.execute("UPDATE kling_async_leases SET ends_at = ends_at + 1000")
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
