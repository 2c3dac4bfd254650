"""PostgreSQL: what may happen to a real server, and on the way to it."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from random import Random
from typing import TYPE_CHECKING

import pytest
from psycopg import AsyncConnection, sql

from kling_async.errors import ConfigurationError, LimiterError
from kling_async.limits.base import Limits
from kling_async.limits.shared.backend import create_backend
from kling_async.limits.shared.limiter import SharedLimiter
from kling_async.limits.shared.postgres import PostgresLimitsBackend
from kling_async.limits.shared.schedule import RequestSchedule
from tests.engines.postgres import PASSWORD, Server
from tests.limits.conftest import Proxy, change, crowd, fullest, granted, plain

if TYPE_CHECKING:
    from tests.limits.conftest import Share

FAST = Limits(60_000, 3)
NO_REST = RequestSchedule.for_limits(FAST, 0.0)


async def test_a_user_without_rights(postgres_url: str, share: Share) -> None:
    """If the tables exist, no right to create them is needed; without any right it is an error."""
    engine = create_backend(postgres_url, "n")
    await engine.reserve(1, plain(), NO_REST)
    await engine.close()
    async with await AsyncConnection.connect(postgres_url, autocommit=True) as admin:
        try:
            await admin.execute("CREATE ROLE poor LOGIN PASSWORD 'p'")
            poor = share(postgres_url.replace(f"postgres:{PASSWORD}", "poor:p"), FAST)
            with pytest.raises(ConfigurationError, match="refuses access"):
                await poor.request()
            await admin.execute(
                "GRANT SELECT, INSERT, UPDATE, DELETE"
                " ON kling_async_limits, kling_async_limits_holders, kling_async_limits_window,"
                " kling_async_leases TO poor"
            )
            await poor.request()
            await poor.slot()
            await poor.close()
        finally:
            await admin.execute("DROP OWNED BY poor; DROP ROLE poor")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (PASSWORD, "wrong", "authentication failed"),
        (f":{PASSWORD}@", "@", "no password supplied"),
        ("/test_", "/nothing_", "does not exist"),
    ],
)
async def test_wrong_addresses(
    postgres_url: str, share: Share, old: str, new: str, words: str
) -> None:
    """A server that refuses access is an error in the settings, and is not waited for."""
    limiter = share(postgres_url.replace(old, new), FAST)
    for call in (limiter.request, limiter.slot):
        with pytest.raises(ConfigurationError, match=words) as caught:
            await call()
        assert PASSWORD not in str(caught.value)
        assert "wrong" not in str(caught.value)


async def test_no_server(share: Share) -> None:
    """Where no server listens, calls raise if they are to."""
    async with Proxy("127.0.0.1", 1) as proxy:
        url = f"postgresql://u:{PASSWORD}@127.0.0.1:{proxy.port}/db"
    limiter = share(url, FAST, on_unavailable="raise")
    for call in (limiter.request, limiter.slot):
        with pytest.raises(LimiterError, match="OperationalError") as caught:
            await call()
        assert PASSWORD not in str(caught.value)


async def test_a_lost_connection(postgres_url: str, share: Share) -> None:
    """When the server ends the connection, another one is made."""
    limiter = share(postgres_url, FAST)
    slot = await limiter.slot()
    async with await AsyncConnection.connect(postgres_url, autocommit=True) as admin:
        for _ in range(3):
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await limiter.request()
    slot.release()
    await limiter.slot()


async def test_a_connection_that_ends_while_it_is_idle(postgres_url: str, share: Share) -> None:
    """A connection that the server closed while it was idle is replaced without an error."""
    limiter = share(postgres_url, FAST, on_unavailable="raise")
    await limiter.request()
    async with await AsyncConnection.connect(postgres_url, autocommit=True) as admin:
        others = "FROM pg_stat_activity WHERE datname = current_database()"
        await admin.execute(
            f"SELECT pg_terminate_backend(pid) {others} AND pid <> pg_backend_pid()"
        )
        async with asyncio.timeout(20):
            count = f"SELECT count(*) {others}"
            while await (await admin.execute(count)).fetchone() != (1,):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)  # turns at hand are lost
    await limiter.request()


async def test_an_error_of_the_system(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system reports of the network is an error of ours."""
    engine = PostgresLimitsBackend(postgres_url, "n")

    async def connect(**_: object) -> None:
        raise ConnectionResetError("gone")

    monkeypatch.setattr(AsyncConnection, "connect", connect)  # no server does it on purpose
    with pytest.raises(LimiterError, match="ConnectionResetError: gone"):
        await engine.peek()
    await engine.close()


@pytest.mark.parametrize("connected", [True, False])
async def test_a_cut_network(
    postgres_url: str, postgres_server: Server, share: Share, *, connected: bool
) -> None:
    """If the network is dead, calls fail within two seconds, and later ones work again."""
    async with Proxy(postgres_server.host, postgres_server.port) as proxy:
        url = postgres_url.replace(str(postgres_server.port), str(proxy.port))
        patient, other = share(url, FAST), share(url, FAST, on_unavailable="raise")
        if connected:
            await patient.request()
            await other.request()
        proxy.cut = True
        begun = asyncio.get_running_loop().time()
        await asyncio.sleep(0.5)  # turns at hand are used up
        waiting = asyncio.create_task(patient.slot())
        with pytest.raises(LimiterError, match=r"no answer within 1\.5 s"):
            await other.request()
        assert asyncio.get_running_loop().time() - begun < 20
        assert not waiting.done()
        proxy.cut = False
        await waiting
        assert asyncio.get_running_loop().time() - begun < 30
        await other.request()


async def test_closing_in_the_middle(
    postgres_url: str, postgres_server: Server, share: Share
) -> None:
    """Closing does not wait for a network that is dead, whatever is under way."""
    async with Proxy(postgres_server.host, postgres_server.port) as proxy:
        url = postgres_url.replace(str(postgres_server.port), str(proxy.port))
        limiter = share(url, FAST)
        await limiter.request()
        proxy.cut = True
        begun = asyncio.get_running_loop().time()
        waiting = asyncio.create_task(limiter.slot())
        await asyncio.sleep(0.05)
        await limiter.close()
        assert asyncio.get_running_loop().time() - begun < 20
        with pytest.raises(LimiterError, match="closed"):
            await waiting


async def test_a_far_server(postgres_url: str, postgres_server: Server, share: Share) -> None:
    """With a round trip of 30 ms the pace is kept; see the same test of Redis."""
    async with Proxy(postgres_server.host, postgres_server.port) as proxy:
        proxy.delay = 0.015
        url = postgres_url.replace(str(postgres_server.port), str(proxy.port))
        limiter = share(url, Limits(10_000))
        await limiter.request()
        moments: list[float] = []
        await crowd(limiter, 40, asyncio.get_running_loop().time() + 1.5, moments)
        assert len(moments) >= 40
        assert fullest(moments, 0.5) <= 20 + 0.5 * 162 + 0.4 * 162


WORKER = """
import asyncio, sys
from kling_async import Limits
from kling_async.limits.shared.limiter import SharedLimiter

async def main():
    limits = Limits(60_000, 3)
    async with SharedLimiter(sys.argv[1], limits=limits, name="n", recovery_delay=0) as limiter:
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
    """Whenever a process is suspended, others are not blocked, and the server waits for nothing."""
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WORKER, postgres_url), stdout=asyncio.subprocess.PIPE
    )
    assert worker.stdout is not None
    engine, dice = create_backend(postgres_url, "n"), Random(3)  # noqa: S311 - moments, not secrets
    try:
        await worker.stdout.readline()
        async with await AsyncConnection.connect(postgres_url, autocommit=True) as admin:
            for _ in range(25):
                await asyncio.sleep(dice.uniform(0.01, 0.1))
                worker.send_signal(signal.SIGSTOP)
                await engine.reserve(1, plain(), NO_REST)
                await engine.update_leases(change())
                await engine.peek()
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
        await engine.close()


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_isolation_levels(postgres_url: str, share: Share, level: str) -> None:
    """No call fails, whatever the database's default; and no setting is left behind."""
    async with await AsyncConnection.connect(postgres_url, autocommit=True) as admin:
        name = sql.Identifier(postgres_url.rpartition("/")[2])
        setting = sql.SQL("ALTER DATABASE {} SET default_transaction_isolation = {}")
        await admin.execute(setting.format(name, sql.Literal(level)))
    limiters = [share(postgres_url, Limits(60_000, 200), on_unavailable="raise") for _ in range(4)]

    async def one(limiter: SharedLimiter) -> None:
        for _ in range(20):
            await granted(limiter)
            slot = await limiter.slot()
            await asyncio.sleep(0.005)
            slot.release()

    await asyncio.gather(*(one(limiter) for limiter in limiters for _ in range(3)))


async def test_a_lock_that_somebody_holds(postgres_url: str, share: Share) -> None:
    """It is waited for, but not for long: a call fails, and is made again."""
    limiter = share(postgres_url, FAST)
    await granted(limiter)
    await asyncio.sleep(0.5)  # turns at hand are lost
    async with await AsyncConnection.connect(postgres_url) as admin:
        await admin.execute("SELECT FROM kling_async_limits FOR UPDATE")
        waiting = asyncio.create_task(granted(limiter))
        await asyncio.sleep(3)
        assert not waiting.done()
        await admin.rollback()
        async with asyncio.timeout(20):
            await waiting


def test_connections_end_with_their_loop(postgres_url: str) -> None:
    """A limiter that is used in several loops, and never closed, leaves no connection open."""
    limiter = SharedLimiter(postgres_url, limits=FAST, name="n", recovery_delay=0)

    async def use() -> None:
        await granted(limiter)
        (await limiter.slot()).release()
        await asyncio.sleep(0.1)

    for _ in range(3):
        asyncio.run(use())
    gc.collect()  # which would warn


async def test_what_libpq_says(postgres_url: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A call that fails is reported by its error alone."""
    engine = create_backend(postgres_url, "n")
    await engine.peek()
    async with await AsyncConnection.connect(postgres_url, autocommit=True) as admin:
        await admin.execute("DROP TABLE kling_async_leases")
    with pytest.raises(LimiterError):
        await engine.update_leases(change())
    await engine.close()
    assert capfd.readouterr() == ("", "")
