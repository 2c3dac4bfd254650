"""Redis and Valkey: what may happen to a real server, and on the way to it."""

from __future__ import annotations

import asyncio
import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis as Plain
from redis.asyncio import Redis

from kling_async import KlingClient, MasterTextToVideo, Polling, TaskRef
from kling_async.errors import ConfigurationError, LimiterError
from kling_async.limits.base import Limits
from kling_async.limits.shared.backend import create_backend
from kling_async.limits.shared.limiter import SharedLimiter, name_of
from kling_async.limits.shared.schedule import RequestSchedule
from tests.engines.ports import held
from tests.engines.redis import PASSWORD, Server, serving
from tests.limits.conftest import Proxy, crowd, fullest, granted, plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Emulate
    from tests.limits.conftest import Share

REF = TaskRef("kling-2-1", "task_1")
FAST = Limits(60_000, 3)
NO_REST = RequestSchedule.for_limits(FAST, 0.0)


@contextmanager
def own_server() -> Iterator[Server]:
    """Run a server that a test may do anything to."""
    with serving() as server:
        yield server


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (PASSWORD, "wrong", "refuses access"),
        (f":{PASSWORD}@", "", "refuses access"),
        (f":{PASSWORD}@", "other:wrong@", "refuses access"),
    ],
)
async def test_wrong_passwords(
    redis_url: str, share: Share, old: str, new: str, words: str
) -> None:
    """A server that refuses us is a mistake in the settings, and is not waited for."""
    limiter = share(redis_url.replace(old, new), FAST)
    for call in (limiter.request, limiter.slot):
        with pytest.raises(ConfigurationError, match=words) as caught:
            await call()
        assert "wrong" not in str(caught.value).replace("WRONGPASS", "")


async def test_a_user_without_rights(redis_url: str, share: Share) -> None:
    """A user without the right to scripts, or to INFO, gets an error that says so."""
    async with Redis.from_url(redis_url) as admin:
        rights: dict[str, Any] = {"enabled": True, "passwords": ["+p"], "keys": ["*"]}
        for name, forbidden in (("poor", ["-evalsha", "-eval"]), ("meek", ["-info"])):
            await admin.acl_setuser(name, commands=["+@all", *forbidden], **rights)
    poor = share(redis_url.replace(f":{PASSWORD}@", "poor:p@"), FAST)
    with pytest.raises(ConfigurationError, match="refuses access"):
        await poor.request()
    meek = share(redis_url.replace(f":{PASSWORD}@", "meek:p@"), FAST)
    for call in (meek.request, meek.slot):
        with pytest.raises(ConfigurationError, match="the limits need the right to INFO"):
            await call()


async def test_no_server(share: Share) -> None:
    """Where no server listens, calls wait, or raise if they are to."""
    with held() as port:
        url = f"redis://:{PASSWORD}@127.0.0.1:{port}/0"
        limiter = share(url, FAST, when_gone="raise")
        with pytest.raises(LimiterError, match="ConnectionError") as caught:
            await limiter.request()
        assert PASSWORD not in str(caught.value)
        with pytest.raises(LimiterError):
            await limiter.slot()
        waiting = share(url, FAST)
        for call in (waiting.request, waiting.slot):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await call()


@pytest.mark.slow
async def test_a_restart(share: Share) -> None:
    """A restarted server without data grants nothing at first, and gets what is held."""
    with own_server() as server:
        one, other = (share(server.url(), Limits(60_000, 2), settle=1.2) for _ in range(2))
        backend = create_backend(server.url(), "n")
        begun = asyncio.get_running_loop().time()
        await one.request()
        assert asyncio.get_running_loop().time() - begun >= 1.2  # earlier grants may still be used
        (await one.slot()).confirm(REF)
        await other.slot()
        server.stop()
        moments: list[float] = []
        begun = asyncio.get_running_loop().time()
        asking = asyncio.create_task(crowd(one, 20, begun + 60, moments))
        waiting = asyncio.create_task(other.slot())
        await asyncio.sleep(0.3)
        server.start()
        async with asyncio.timeout(20):
            while len(moments) <= 300:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.01)
        asking.cancel()
        # Earlier grants may have been used; those of the new server came after the delay.
        assert not [at for at in moments if begun + 0.5 < at < begun + 0.3 + 1.2]
        assert len((await backend.peek()).leases) == 2
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(asking, waiting, return_exceptions=True)
        await backend.close()


@pytest.mark.slow
async def test_a_cut_network(share: Share) -> None:
    """When the network is cut, calls raise within two seconds, and later succeed by themselves."""
    with own_server() as server:
        async with Proxy("127.0.0.1", server.port) as proxy:
            url = server.url().replace(str(server.port), str(proxy.port))
            patient, other = share(url, FAST), share(url, FAST, when_gone="raise")
            slot = await patient.slot()
            await other.request()
            proxy.cut = True
            begun = asyncio.get_running_loop().time()
            waiting = asyncio.create_task(patient.request())
            slot.release()
            with pytest.raises(LimiterError):
                await other.request()
            assert asyncio.get_running_loop().time() - begun < 20
            with pytest.raises(LimiterError, match="cannot be read: no answer"):
                await patient.peek()
            assert asyncio.get_running_loop().time() - begun < 25
            assert not waiting.done()
            proxy.cut = False
            await waiting
            assert asyncio.get_running_loop().time() - begun < 30
            await other.request()
            backend = create_backend(server.url(), "n")
            async with asyncio.timeout(5):
                while (await backend.peek()).leases:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.1)
            await backend.close()


async def test_a_slow_way(redis_url: str, redis_server: Server) -> None:
    """A grant that comes too late is not used; `peek` may take longer, connecting included."""
    async with Proxy("127.0.0.1", redis_server.port) as proxy:
        proxy.delay = 0.22
        url = redis_url.replace(str(redis_server.port), str(proxy.port))
        one, other = create_backend(url, "n"), create_backend(url, "n")
        with pytest.raises(LimiterError, match="no answer within"):
            await one.reserve(1, plain(), NO_REST)
        assert not (await other.peek()).leases
        await one.close()
        await other.close()


async def test_a_far_server(redis_url: str, redis_server: Server, share: Share) -> None:
    """With a round trip of 30 ms the pace is kept, by few calls.

    That it costs no throughput is shown where the machine does not matter: in virtual time.
    """
    async with Proxy("127.0.0.1", redis_server.port) as proxy:
        proxy.delay = 0.015
        url = redis_url.replace(str(redis_server.port), str(proxy.port))
        limiter = share(url, Limits(10_000))
        await limiter.request()
        before, begun = proxy.seen, asyncio.get_running_loop().time()
        moments: list[float] = []
        await crowd(limiter, 40, begun + 1.5, moments)
        assert proxy.seen - before < 0.5 * len(moments)
        assert fullest(moments, 0.5) <= 20 + 0.5 * 162 + 0.4 * 162


@pytest.mark.slow
async def test_an_old_server_that_writes_no_more(share: Share) -> None:
    """After a failover old connections lead to a replica: new ones are made, to its successor."""
    with own_server() as old, own_server() as new:
        async with Proxy("127.0.0.1", old.port) as proxy, Redis.from_url(old.url()) as admin:
            url = old.url().replace(str(old.port), str(proxy.port))
            limiter = share(url, FAST)
            await limiter.slot()
            await granted(limiter)
            await admin.execute_command("REPLICAOF", "127.0.0.1", "1")  # type: ignore[no-untyped-call]
            proxy.there = ("127.0.0.1", new.port)
            async with asyncio.timeout(20):
                await asyncio.sleep(0.5)  # grants at hand are lost
                await granted(limiter)
                await limiter.slot()
            backend = create_backend(new.url(), "n")
            assert len((await backend.peek()).leases) == 2
            await backend.close()


@pytest.mark.parametrize(
    ("answer", "waits"),
    [
        ("MOVED 15891 127.0.0.1:7001", False),
        ("ASK 15891 127.0.0.1:7001", False),
        ("CROSSSLOT Keys in request don't hash to the same slot", False),
        ("CLUSTERDOWN Hash slot not served", False),
        ("CLUSTERDOWN The cluster is down", True),
        ("READONLY You can't write against a read only replica.", True),
        ("MASTERDOWN Link with MASTER is down", True),
        ("LOADING the dataset is in memory", True),
        ("NOREPLICAS Not enough good replicas to write.", True),
    ],
)
async def test_what_a_server_answers(share: Share, answer: str, *, waits: bool) -> None:
    """A node of a cluster is a wrong setting; a server that does not write now is waited for."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            writer.write(f"-{answer}\r\n".encode() * 4)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        limiter = share(f"redis://127.0.0.1:{port}", FAST, when_gone="raise")
        for call in (limiter.request, limiter.slot):
            with pytest.raises(LimiterError if waits else ConfigurationError) as caught:
                await call()
            assert ("not in cluster mode" in str(caught.value)) is not waits
        await limiter.close()


def test_connections_end_with_their_loop(redis_url: str) -> None:
    """A limiter that is used in several loops, and never closed, leaves no connection open."""
    limiter = SharedLimiter(redis_url, limits=FAST, name="n", settle=0)

    async def use() -> None:
        await granted(limiter)
        (await limiter.slot()).release()
        await asyncio.sleep(0.1)

    for _ in range(3):
        asyncio.run(use())
    with Plain.from_url(redis_url) as admin:
        assert len(admin.client_list()) == 1
    gc.collect()  # which would warn


@pytest.mark.slow
async def test_peek_after_a_restart(share: Share) -> None:
    """The first `peek` on a connection that has ended with its server makes another one."""
    with own_server() as server:
        limiter = share(server.url(), FAST)
        await limiter.peek()
        server.stop()
        server.start()
        assert (await limiter.peek()).requests == 0


async def test_a_client_with_an_address(redis_url: str, emulate: Emulate) -> None:
    """A client that is given an address shares the limits of its key, and closes what it made."""
    emulator = await emulate(speed=100.0)
    backend = create_backend(redis_url, name_of(emulator.key))
    await backend.reserve(0, plain(), NO_REST)
    async with KlingClient(
        emulator.key,
        base_url=emulator.base_url,
        limiter=redis_url,
        limits=Limits(60_000, 2),
        polling=Polling(first=0.2, shortest=0.1),
    ) as kling:
        async with asyncio.timeout(20):
            task = await kling.submit(MasterTextToVideo("a fox"))
            await asyncio.sleep(0.1)
            (lease,) = (await backend.peek()).leases
            assert lease.key == str(task.ref)
            await task
    usage = await backend.peek()
    assert not usage.leases
    assert usage.requests >= 2
    assert (usage.requests_per_minute, usage.concurrent_tasks) == (60_000, 2)
    await backend.close()
