from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from kling_async import ConfigurationError
from kling_async.webhooks.relay.backends import (
    RelayBackendError,
)
from tests.engines import redis as redis_servers
from tests.engines.relay import STREAM, admin_redis, disconnect_all, opened, read_lines

if TYPE_CHECKING:
    from tests.conftest import ServeRaw


async def test_streams_are_bounded(redis_url: str) -> None:
    """A stream keeps about ten thousand lines, for an hour after the last."""
    async with opened(redis_url) as one:
        for _ in range(11):
            await one.publish(["x"] * 1_000)
    with admin_redis(redis_url) as db:
        assert 10_000 <= int(str(db.xlen(STREAM))) <= 10_200
        assert 3_590 <= int(str(db.ttl(STREAM))) <= 3_600


async def test_looks_back(redis_url: str) -> None:
    """A reader begins with the last minute."""
    with admin_redis(redis_url) as db:
        seconds = int(str(db.time()[0]))
        for ago in (70, 50, 0):
            db.xadd(STREAM, {"line": f"{ago}"}, id=f"{(seconds - ago) * 1_000}-0")
    async with opened(redis_url) as one:
        assert await read_lines(one, 2) == ["50", "0"]


async def test_streams_of_another_clock(redis_url: str) -> None:
    """Of a server that has taken over, with a clock that is behind, all is read."""
    async with opened(redis_url) as one:
        with admin_redis(redis_url) as db:
            seconds = int(str(db.time()[0]))
            db.xadd(STREAM, {"line": "ahead"}, id=f"{(seconds + 50) * 1_000}-0")
            assert await read_lines(one, 1) == ["ahead"]
            db.delete(STREAM)
        await disconnect_all(redis_url)
        with suppress(RelayBackendError):
            async with asyncio.timeout(0.5):
                await one.read()
        with admin_redis(redis_url) as db:
            db.set(STREAM, "for a moment, no stream")
            with pytest.raises(RelayBackendError):
                await one.read()
            db.delete(STREAM)
        await one.publish(["behind"])
        assert await read_lines(one, 1) == ["behind"]


async def test_starts_again() -> None:
    """A server that has forgotten everything is used as before."""
    with redis_servers.serving() as server:
        async with opened(server.url()) as one, opened(server.url()) as other:
            await one.publish(["a"])
            assert await read_lines(other, 1) == ["a"]
            server.stop()
            with pytest.raises(RelayBackendError):
                await other.read()
            server.start()
            with suppress(RelayBackendError):
                await one.publish(["b"])
            await one.publish(["c"])
            assert "c" in await read_lines(other, 1)


async def test_with_garbage(redis_url: str) -> None:
    """Entries that no relay has written are read as lines that mean nothing."""
    with admin_redis(redis_url) as db:
        for entry in ({"line": b"\xff\xfe"}, {"other": "x"}, {b"\xff": b"\x00"}, {"line": ""}):
            db.xadd(STREAM, entry)  # type: ignore[arg-type]
        db.xadd(STREAM, {"line": "genuine"})
    async with opened(redis_url) as one:
        assert await read_lines(one, 5) == ["\ufffd\ufffd", "", "", "", "genuine"]


# ------------------------------------------------------------------------------------ a failover


class Switch:
    """A name that leads to one server or another, for connections that are yet to be backend."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect a client with the server."""
        there = await asyncio.open_connection("127.0.0.1", self.port)

        async def forward(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(10_000):
                target.write(data)
            target.close()

        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(forward(reader, there[1]))
                both.create_task(forward(there[0], writer))
        finally:
            there[1].close()


@pytest.mark.slow
async def test_a_redis_that_fails_over(serve_raw: ServeRaw) -> None:
    """When another server takes over, writers and readers that are connected go there by new ways.

    The old one lives on as a replica: it lets read, and refuses to be written (READONLY).
    """
    with redis_servers.serving() as old, redis_servers.serving() as new:
        switch = Switch(old.port)
        port = urlsplit(await serve_raw(switch.talk)).port
        url = old.url().replace(f":{old.port}/", f":{port}/")
        async with opened(url) as one, opened(url) as other:
            await one.publish(["a"])
            assert await read_lines(other, 1) == ["a"]
            switch.port = new.port
            with admin_redis(old.url()) as db:
                db.config_set("masterauth", "wrong")  # it learns nothing from the new one
                db.replicaof("127.0.0.1", new.port)
            with pytest.raises(RelayBackendError, match="ReadOnly"):
                await one.publish(["b"])
            await one.publish(["b"])
            read: Sequence[str] = ()
            async with asyncio.timeout(20):
                while not read:
                    with suppress(RelayBackendError):
                        read = await other.read()
            assert read == ["b"]


async def test_a_replica_that_has_lost_its_master(serve_raw: ServeRaw) -> None:
    """A server that answers MASTERDOWN is left for the one that has taken over."""
    with redis_servers.serving() as old, redis_servers.serving() as new:
        switch = Switch(old.port)
        port = urlsplit(await serve_raw(switch.talk)).port
        async with opened(old.url().replace(f":{old.port}/", f":{port}/")) as one:
            await one.publish(["a"])
            with admin_redis(old.url()) as db:
                db.config_set("replica-serve-stale-data", "no")
                db.replicaof("127.0.0.1", 9)
            for call in (one.publish(["b"]), one.read()):
                with pytest.raises(RelayBackendError, match=r"MasterDown|ReadOnly"):
                    await call
            switch.port = new.port
            with suppress(RelayBackendError):
                await one.publish(["c"])
            await one.publish(["d"])
            assert "d" in await read_lines(one, 1)


@pytest.mark.parametrize("words", ["MOVED 42 127.0.0.1:7001", "ASK 42 127.0.0.1:7001"])
async def test_a_node_of_a_redis_cluster(serve_raw: ServeRaw, words: str) -> None:
    """A node that does not keep our keys is a mistake in the settings."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(10_000):
            for _ in range(data.count(b"*")):
                writer.write(f"-{words}\r\n".encode())

    place = (await serve_raw(talk)).partition("://")[2]
    async with opened(f"redis://{place}/0") as one:
        for call in (one.publish(["a"]), one.read()):
            with pytest.raises(ConfigurationError, match=r"a Redis cluster .*not in cluster"):
                await call
