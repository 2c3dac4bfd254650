"""PostgreSQL: what may happen to a real server, and on the way to it."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest
from psycopg import AsyncConnection

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
    """A role needs no right to create tables that exist; one without any right is refused."""
    backend = create_backend(postgres_url, "n")
    await backend.reserve(1, plain(), NO_REST)
    await backend.close()
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
    limiter = share(url, FAST, when_gone="raise")
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
    """A connection that was closed while it was idle is replaced without an error."""
    limiter = share(postgres_url, FAST, when_gone="raise")
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
    await asyncio.sleep(0.5)  # grants at hand are lost
    await limiter.request()


async def test_an_error_of_the_system(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system reports of the network is an error of ours."""
    backend = PostgresLimitsBackend(postgres_url, "n")

    async def connect(**_: object) -> None:
        raise ConnectionResetError("reset")

    monkeypatch.setattr(AsyncConnection, "connect", connect)  # no server does it on purpose
    with pytest.raises(LimiterError, match="ConnectionResetError: reset"):
        await backend.peek()
    await backend.close()


@pytest.mark.parametrize("connected", [True, False])
async def test_a_cut_network(
    postgres_url: str, postgres_server: Server, share: Share, *, connected: bool
) -> None:
    """When the network is cut, calls raise within two seconds, and later succeed by themselves."""
    async with Proxy(postgres_server.host, postgres_server.port) as proxy:
        url = postgres_url.replace(str(postgres_server.port), str(proxy.port))
        patient, other = share(url, FAST), share(url, FAST, when_gone="raise")
        if connected:
            await patient.request()
            await other.request()
        proxy.cut = True
        begun = asyncio.get_running_loop().time()
        await asyncio.sleep(0.5)  # grants at hand are used up
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


def test_connections_end_with_their_loop(postgres_url: str) -> None:
    """A limiter that is used in several loops, and never closed, leaves no connection open."""
    limiter = SharedLimiter(postgres_url, limits=FAST, name="n", settle=0)

    async def use() -> None:
        await granted(limiter)
        (await limiter.slot()).release()
        await asyncio.sleep(0.1)

    for _ in range(3):
        asyncio.run(use())
    gc.collect()  # which would warn


async def test_what_libpq_says(postgres_url: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A call that fails is reported by its error alone."""
    backend = create_backend(postgres_url, "n")
    await backend.peek()
    async with await AsyncConnection.connect(postgres_url, autocommit=True) as admin:
        await admin.execute("DROP TABLE kling_async_leases")
    with pytest.raises(LimiterError):
        await backend.update_leases(change())
    await backend.close()
    assert capfd.readouterr() == ("", "")
