"""What both backends do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from kling_async import KlingClient, MasterTextToVideo
from kling_async.protocol.callbacks import write_token
from kling_async.webhooks import aiohttp
from kling_async.webhooks.inbox import Counts, Inbox
from kling_async.webhooks.relay.backends import (
    READ_LIMIT,
    READ_WAIT,
    RelayBackendError,
    open_backend,
)
from kling_async.webhooks.relay.relay import Relay
from tests.engines import redis as redis_servers
from tests.engines.relay import disconnect_all, opened, read_lines
from tests.processes import unmeasured

if TYPE_CHECKING:
    from kling_async.protocol.callbacks import Callback
    from tests.conftest import Emulate, ServeRaw
    from tests.webhooks.conftest import Run, Site

MODEL = "kling-2-1"
SECRET = "a secret of the tests"


async def test_every_reader_gets_every_line(url: str) -> None:
    """What one publishes is read by all, once, in its order, by the one who has published, too."""
    async with opened(url) as one, opened(url) as other:
        await one.publish(["a", "b"])
        await other.publish(["c"])
        for reader in (one, other):
            assert await read_lines(reader, 3) == ["a", "b", "c"]
        await one.publish(["d"])
        assert await read_lines(other, 1) == ["d"]


async def test_who_waits_is_woken(url: str) -> None:
    """A reader who waits for something new has it long before the waiting would end."""
    async with opened(url) as one, opened(url) as other:
        await one.publish(["a"])
        assert await read_lines(other, 1) == ["a"]
        for line in ("b", "c"):
            reading = asyncio.create_task(other.read())
            await asyncio.sleep(0.1)
            assert not reading.done()
            await one.publish([line])
            async with asyncio.timeout(READ_WAIT - 1):
                assert await reading == [line]


async def test_names(url: str) -> None:
    """A reader gets the lines that are published under one of its names, and no others."""
    async with (
        opened(url, "new", "old") as between,
        opened(url, "new") as new,
        opened(url, "old") as old,
        opened(url, "another") as another,
    ):
        await new.publish(["by new"])
        await old.publish(["by old"])
        await between.publish(["by both"])
        await another.publish(["by another"])
        assert set(await read_lines(between, 4)) == {"by new", "by old", "by both"}
        assert await read_lines(new, 2) == ["by new", "by both"]
        assert await read_lines(old, 2) == ["by old", "by both"]
        assert await read_lines(another, 1) == ["by another"]


async def test_many(url: str) -> None:
    """More than one read returns are returned by the next ones."""
    written = [f"{number}" for number in range(2 * READ_LIMIT + 1)]
    async with opened(url) as one, opened(url) as other:
        await one.publish(written)
        assert len(await other.read()) == READ_LIMIT
        assert await read_lines(other, READ_LIMIT + 1) == written[READ_LIMIT:]


async def test_nothing_comes(redis_url: str, postgres_url: str) -> None:
    """A read for which nothing comes ends after a while without."""
    async with opened(redis_url) as one, opened(postgres_url) as other:
        began = time.monotonic()
        read = await asyncio.gather(one.read(), other.read())
        assert [*read[0], *read[1]] == []
        assert time.monotonic() - began > READ_WAIT - 1


async def test_a_lost_connection(url: str) -> None:
    """After a connection was lost, what was published meanwhile is read."""
    async with opened(url) as one, opened(url) as other:
        await one.publish(["a"])
        assert await read_lines(other, 1) == ["a"]
        reading = asyncio.create_task(other.read())
        await asyncio.sleep(0.1)
        await disconnect_all(url)
        with pytest.raises(RelayBackendError):
            await reading
        with suppress(RelayBackendError):  # one driver notices at once, the other when it writes
            await one.publish(["b"])
        await one.publish(["c"])
        async with asyncio.timeout(30):
            read: Sequence[str] = ()
            while "c" not in read:
                read = [*read, *await other.read()]


async def test_reading_is_cancelled(url: str) -> None:
    """A read may be cancelled at any time, and nothing is missed by it."""
    async with opened(url) as one, opened(url) as other:
        for wait in (0.2, *(0.0003 * number for number in range(20))):
            reading = asyncio.create_task(other.read())
            await asyncio.sleep(wait)
            reading.cancel()
            began = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert time.monotonic() - began < READ_WAIT - 1
        await one.publish(["a"])
        assert "a" in await read_lines(other, 1)


async def test_no_server() -> None:
    """An engine that cannot be reached raises at once, as long as it is used."""
    for url in ("redis://127.0.0.1:9", "postgresql://127.0.0.1:9/db"):
        async with opened(url) as one:
            for _ in range(2):
                with pytest.raises(RelayBackendError):
                    await one.publish(["a"])
                with pytest.raises(RelayBackendError):
                    await one.read()


async def test_a_wrong_password(url: str) -> None:
    """An engine that does not let us in raises, and shows no password."""
    wrong = url.replace(f":{redis_servers.PASSWORD}@", ":pa55word@")
    wrong = wrong.replace(":tr0ub4dor-and-3@", ":pa55word@")
    async with opened(wrong) as one:
        with pytest.raises(RelayBackendError) as caught:
            await one.publish(["a"])
    assert "pa55word" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["redis", "postgresql"])
async def test_a_server_that_is_silent(scheme: str, serve_raw: ServeRaw) -> None:
    """Who hangs in a network that is dead is cancelled at once, and closed at once."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1_000):
            pass

    place = (await serve_raw(silent)).partition("://")[2]
    backend = open_backend(f"{scheme}://{place}/0", ("one",))
    loop = asyncio.get_running_loop()
    for call in (backend.publish(["a"]), backend.read()):
        began = loop.time()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await call
        assert loop.time() - began < READ_WAIT - 0.5
    began = loop.time()
    await backend.close()
    assert loop.time() - began < READ_WAIT - 0.5


async def test_a_network_that_dies(url: str, serve_raw: ServeRaw) -> None:
    """Who hangs since the network has died in the middle is cancelled, and closed, at once."""
    server, alive = urlsplit(url), True

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(10_000):
            if alive:
                writer.write(data)
        writer.close()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(server.hostname, server.port)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(forward(reader, there[1]))
                both.create_task(forward(there[0], writer))
        finally:
            there[1].close()

    port = urlsplit(await serve_raw(talk)).port
    backend = open_backend(url.replace(f":{server.port}/", f":{port}/"), ("one",))
    await backend.publish(["a"])
    assert await read_lines(backend, 1) == ["a"]
    alive = False
    for call in (backend.publish(["b"]), backend.read()):
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await call
        assert time.monotonic() - began < READ_WAIT - 0.5
    began = time.monotonic()
    await backend.close()
    assert time.monotonic() - began < READ_WAIT - 0.5


PUBLISHER = """
import asyncio, sys
from kling_async.webhooks.relay.backends import open_backend

async def main():
    backend = open_backend(sys.argv[1], ("one",))
    while True:
        await backend.publish(["x" * 50] * 20)
        print(end=".", flush=True)

asyncio.run(main())
"""


@pytest.mark.skipif(os.name == "nt", reason="nothing can be suspended there")
async def test_a_process_that_is_suspended_in_mid_call(url: str) -> None:
    """Whenever a process is suspended while it publishes, others publish at once."""
    publisher = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PUBLISHER, url),
        stdout=asyncio.subprocess.PIPE,
        env=unmeasured(),
    )
    assert publisher.stdout is not None
    try:
        async with opened(url) as one:
            await one.publish(["a"])
            for number in range(40):
                await publisher.stdout.readexactly(1)  # it publishes again now
                await asyncio.sleep(0.0003 * number)
                publisher.send_signal(signal.SIGSTOP)
                async with asyncio.timeout(5):
                    await one.publish(["b"])
                publisher.send_signal(signal.SIGCONT)
    finally:
        publisher.kill()
        await publisher.communicate()


# ------------------------------------------------------------------------------------- with relays


async def test_two_processes(url: str, site: Site, run: Run, emulate: Emulate) -> None:
    """A task submitted in one process is woken by the callback that the service sent to another."""
    emulator = await emulate(duration=(0.3, 0.3))
    here, there = site.inbox(), site.inbox()
    app = web.Application()
    app.cleanup_ctx.append(
        aiohttp.lifespan(
            KlingClient(emulator.key, base_url=emulator.base_url, inbox=there),
            relay=Relay(there, url),
        )
    )
    app.add_routes(aiohttp.routes(there, prefix="/kling"))
    await run(app)
    async with (
        Relay(here, url),
        KlingClient(emulator.key, base_url=emulator.base_url, inbox=here) as kling,
        asyncio.timeout(30),  # the safety net comes after 99 s
    ):
        result = await kling.generate(MasterTextToVideo("a fox"))
    assert result.result_urls
    assert here.counts == Counts(relayed=1)
    assert there.counts == Counts(unknown=1)
    assert [arrival.kind for arrival in emulator.requests].count("status") == 1


@pytest.mark.parametrize("name", [None, "a name of their own"])
async def test_secrets_that_change(url: str, name: str | None) -> None:
    """An inbox with both secrets exchanges callbacks with both others; a name overrides that."""
    old, new = "an old secret of the tests", "a new secret of the tests"
    boxes = [Inbox("https://example.com", secret=secret) for secret in ([old], [new, old], [new])]
    async with AsyncExitStack() as stack:
        relays = [await stack.enter_async_context(Relay(box, url, name=name)) for box in boxes]
        for number, (box, secret) in enumerate(zip(boxes, (old, new, new), strict=True)):
            path = write_token(MODEL, f"{number:016}", secret.encode())
            body = json.dumps({"data": {"taskId": f"task_{number}", "state": "failed"}})
            assert box.handle("POST", path, "", body.encode()) == 200
        expected = [2, 2, 2] if name else [1, 2, 1]
        async with asyncio.timeout(30):
            while [relay.counts.received for relay in relays] != expected:  # noqa: ASYNC110 - no hook
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert [relay.counts.received for relay in relays] == expected


async def test_a_relay_outlives_its_engine(caplog: pytest.LogCaptureFixture) -> None:
    """Callbacks that arrive while a server is stopped are relayed once it runs again."""
    one, other = (Inbox("https://example.com/kling", secret=SECRET) for _ in range(2))
    delivered = asyncio.Event()

    class Listener:
        def handle(self, callback: Callback) -> bool:
            del callback
            delivered.set()
            return True

    listener = Listener()
    other.join(listener)
    said = {"taskId": "task_1", "state": "failed"}
    path = write_token(MODEL, "n" * 16, SECRET.encode())
    with redis_servers.serving() as server:
        async with Relay(one, server.url()), Relay(other, server.url()) as relay:
            await asyncio.sleep(0.2)
            server.stop()
            one.handle("POST", path, "", json.dumps({"data": said}).encode())
            await asyncio.sleep(0.3)
            server.start()
            async with asyncio.timeout(30):
                await delivered.wait()
            assert relay.counts.received == 1
    assert redis_servers.PASSWORD not in caplog.text
    assert "callbacks are not read at redis://127.0.0.1:" in caplog.text
