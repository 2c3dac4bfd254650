"""What every engine of a relay does, and what each of them does in its own way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest
import redis as sync_redis
from aiohttp import web

from kling_async import ConfigurationError, KlingClient, MasterTextToVideo
from kling_async.protocol.callbacks import write_token
from kling_async.webhooks import aiohttp
from kling_async.webhooks.inbox import Counts, Inbox
from kling_async.webhooks.relay.backends import READ_LIMIT, READ_WAIT, RelayBackendError, connect
from kling_async.webhooks.relay.relay import Relay
from tests.engines import redis as redis_servers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from kling_async.protocol.callbacks import Callback
    from kling_async.webhooks.relay.backends import RelayBackend
    from tests.conftest import Emulate, ServeRaw
    from tests.engines.postgres import Server
    from tests.webhooks.conftest import Run, Site

MODEL = "kling-2-1"
SECRET = "a secret of the tests"
STREAM = "{kling_async:callbacks}:one"


@pytest.fixture(scope="module")
def database(postgres_server: Server) -> Iterator[str]:
    """Make one database for all tests here: to make one takes longer than most of them."""
    with postgres_server.database("relay") as url:
        yield url


@pytest.fixture
def postgres_url(database: str) -> Iterator[str]:
    """Give the address of a database with nothing in it."""
    yield database
    with psycopg.connect(database, autocommit=True) as db:
        db.execute("DROP TABLE IF EXISTS kling_async_callbacks")


@pytest.fixture(params=["redis", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    """Give the address of each engine in turn, with nothing in it."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@asynccontextmanager
async def engine(url: str, *names: str) -> AsyncIterator[RelayBackend]:
    """Connect, and close at the end."""
    made = connect(url, names or ("one",))
    try:
        yield made
    finally:
        await made.close()


async def lines(engine: RelayBackend, number: int) -> list[str]:
    """Read until there are so many lines."""
    read: list[str] = []
    async with asyncio.timeout(30):
        while len(read) < number:
            read += await engine.read()
    return read


def admin_redis(url: str) -> closing[sync_redis.Redis]:
    """Speak to a Redis as its operator does."""
    return closing(sync_redis.Redis.from_url(url))


@pytest.fixture
def db(postgres_url: str) -> Iterator[psycopg.Connection]:
    """Speak to the PostgreSQL as its operator does."""
    with psycopg.connect(postgres_url, autocommit=True) as db:
        yield db


async def disconnect_all(url: str) -> None:
    """Cut all connections of others to the server's database."""
    if url.startswith("redis"):
        with admin_redis(url) as db:
            db.client_kill_filter(_type="normal", skipme=True)
    else:
        with psycopg.connect(url, autocommit=True) as db:
            db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )


# ------------------------------------------------------------------------------------- both engines


async def test_all_readers_are_told(url: str) -> None:
    """What one publishes is read by all, once, in its order, by the one who has published, too."""
    async with engine(url) as one, engine(url) as other:
        await one.publish(["a", "b"])
        await other.publish(["c"])
        for reader in (one, other):
            assert await lines(reader, 3) == ["a", "b", "c"]
        await one.publish(["d"])
        assert await lines(other, 1) == ["d"]


async def test_who_waits_is_woken(url: str) -> None:
    """A reader who waits for something new has it long before the waiting would end."""
    async with engine(url) as one, engine(url) as other:
        await one.publish(["a"])
        assert await lines(other, 1) == ["a"]
        for line in ("b", "c"):
            reading = asyncio.create_task(other.read())
            await asyncio.sleep(0.1)
            assert not reading.done()
            await one.publish([line])
            async with asyncio.timeout(READ_WAIT - 1):
                assert await reading == [line]


async def test_names(url: str) -> None:
    """Each hears what is published under one of its names, and of nobody else."""
    async with (
        engine(url, "new", "old") as between,
        engine(url, "new") as new,
        engine(url, "old") as old,
        engine(url, "another") as another,
    ):
        await new.publish(["by new"])
        await old.publish(["by old"])
        await between.publish(["by both"])
        await another.publish(["by another"])
        assert set(await lines(between, 4)) == {"by new", "by old", "by both"}
        assert await lines(new, 2) == ["by new", "by both"]
        assert await lines(old, 2) == ["by old", "by both"]
        assert await lines(another, 1) == ["by another"]


async def test_many(url: str) -> None:
    """More than one read returns are returned by the next ones."""
    written = [f"{number}" for number in range(2 * READ_LIMIT + 1)]
    async with engine(url) as one, engine(url) as other:
        await one.publish(written)
        assert len(await other.read()) == READ_LIMIT
        assert await lines(other, READ_LIMIT + 1) == written[READ_LIMIT:]


async def test_nothing_comes(redis_url: str, postgres_url: str) -> None:
    """A read for which nothing comes ends after a while without."""
    async with engine(redis_url) as one, engine(postgres_url) as other:
        began = time.monotonic()
        read = await asyncio.gather(one.read(), other.read())
        assert [*read[0], *read[1]] == []
        assert time.monotonic() - began > READ_WAIT - 1


async def test_a_lost_connection(url: str) -> None:
    """After a connection was lost, what was published meanwhile is read."""
    async with engine(url) as one, engine(url) as other:
        await one.publish(["a"])
        assert await lines(other, 1) == ["a"]
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
    async with engine(url) as one, engine(url) as other:
        for wait in (0.2, *(0.0003 * number for number in range(20))):
            reading = asyncio.create_task(other.read())
            await asyncio.sleep(wait)
            reading.cancel()
            began = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert time.monotonic() - began < READ_WAIT - 1
        await one.publish(["a"])
        assert "a" in await lines(other, 1)


async def test_nobody_is_there() -> None:
    """An engine that cannot be reached raises at once, as long as it is used."""
    for url in ("redis://127.0.0.1:9", "postgresql://127.0.0.1:9/db"):
        async with engine(url) as one:
            for _ in range(2):
                with pytest.raises(RelayBackendError):
                    await one.publish(["a"])
                with pytest.raises(RelayBackendError):
                    await one.read()


async def test_a_wrong_password(url: str) -> None:
    """An engine that does not let us in raises, and shows no password."""
    wrong = url.replace(f":{redis_servers.PASSWORD}@", ":pa55word@")
    wrong = wrong.replace(":tr0ub4dor-and-3@", ":pa55word@")
    async with engine(wrong) as one:
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
    made = connect(f"{scheme}://{place}/0", ("one",))
    loop = asyncio.get_running_loop()
    for call in (made.publish(["a"]), made.read()):
        began = loop.time()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await call
        assert loop.time() - began < READ_WAIT - 0.5
    began = loop.time()
    await made.close()
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
    made = connect(url.replace(f":{server.port}/", f":{port}/"), ("one",))
    await made.publish(["a"])
    assert await lines(made, 1) == ["a"]
    alive = False
    for call in (made.publish(["b"]), made.read()):
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await call
        assert time.monotonic() - began < READ_WAIT - 0.5
    began = time.monotonic()
    await made.close()
    assert time.monotonic() - began < READ_WAIT - 0.5


# -------------------------------------------------------------------------------------------- Redis


async def test_redis_streams_are_bounded(redis_url: str) -> None:
    """A stream keeps about ten thousand lines, for an hour after the last."""
    async with engine(redis_url) as one:
        for _ in range(11):
            await one.publish(["x"] * 1_000)
    with admin_redis(redis_url) as db:
        assert 10_000 <= int(str(db.xlen(STREAM))) <= 10_200
        assert 3_590 <= int(str(db.ttl(STREAM))) <= 3_600


async def test_redis_looks_back(redis_url: str) -> None:
    """A reader begins with the last minute."""
    with admin_redis(redis_url) as db:
        seconds = int(str(db.time()[0]))
        for ago in (70, 50, 0):
            db.xadd(STREAM, {"line": f"{ago}"}, id=f"{(seconds - ago) * 1_000}-0")
    async with engine(redis_url) as one:
        assert await lines(one, 2) == ["50", "0"]


async def test_redis_streams_of_another_clock(redis_url: str) -> None:
    """Of a server that has taken over, with a clock that is behind, all is read."""
    async with engine(redis_url) as one:
        with admin_redis(redis_url) as db:
            seconds = int(str(db.time()[0]))
            db.xadd(STREAM, {"line": "ahead"}, id=f"{(seconds + 50) * 1_000}-0")
            assert await lines(one, 1) == ["ahead"]
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
        assert await lines(one, 1) == ["behind"]


async def test_redis_starts_again() -> None:
    """A server that has forgotten everything is used as before."""
    with redis_servers.serving() as server:
        async with engine(server.url()) as one, engine(server.url()) as other:
            await one.publish(["a"])
            assert await lines(other, 1) == ["a"]
            server.stop()
            with pytest.raises(RelayBackendError):
                await other.read()
            server.start()
            with suppress(RelayBackendError):
                await one.publish(["b"])
            await one.publish(["c"])
            assert "c" in await lines(other, 1)


async def test_redis_with_garbage(redis_url: str) -> None:
    """Entries that no relay has written are read as lines that mean nothing."""
    with admin_redis(redis_url) as db:
        for entry in ({"line": b"\xff\xfe"}, {"other": "x"}, {b"\xff": b"\x00"}, {"line": ""}):
            db.xadd(STREAM, entry)  # type: ignore[arg-type]
        db.xadd(STREAM, {"line": "genuine"})
    async with engine(redis_url) as one:
        assert await lines(one, 5) == ["\ufffd\ufffd", "", "", "", "genuine"]


# --------------------------------------------------------------------------------------- PostgreSQL


async def test_postgres_keeps_an_hour(postgres_url: str, db: psycopg.Connection) -> None:
    """Who writes deletes what is older than an hour, once a minute."""
    async with engine(postgres_url) as one:
        await one.publish(["a"])
        db.execute("UPDATE kling_async_callbacks SET at = at - interval '3601 seconds'")
        await one.publish(["b"])
        assert db.execute("SELECT count(*) FROM kling_async_callbacks").fetchone() == (2,)
    async with engine(postgres_url) as other:
        await other.publish(["c"])
        rows = db.execute(
            "SELECT convert_from(line, 'UTF8') FROM kling_async_callbacks ORDER BY id"
        )
        assert rows.fetchall() == [("b",), ("c",)]


async def test_postgres_looks_back(postgres_url: str, db: psycopg.Connection) -> None:
    """A reader begins with the last minute."""
    async with engine(postgres_url) as one:
        await one.publish(["70"])
        db.execute("UPDATE kling_async_callbacks SET at = at - interval '70 seconds'")
        async with engine(postgres_url) as other:
            reading = asyncio.create_task(other.read())
            await asyncio.sleep(0.3)
            await one.publish(["now"])
            assert await reading == ["now"]
        await one.publish(["50"])
        db.execute("UPDATE kling_async_callbacks SET at = at - interval '50 seconds' WHERE id > 1")
        async with engine(postgres_url) as other:
            assert await lines(other, 2) == ["now", "50"]


async def test_postgres_commits_in_order(postgres_url: str, db: psycopg.Connection) -> None:
    """Rows can be seen in the order of their ids, however long one writer takes."""
    async with engine(postgres_url) as one, engine(postgres_url) as other:
        await one.publish(["a"])
        assert await lines(other, 1) == ["a"]
        with db.transaction():
            db.execute("SELECT pg_advisory_xact_lock(hashtext('kling_async_callbacks'))")
            db.execute("INSERT INTO kling_async_callbacks (name, line) VALUES ('one', 'slow')")
            publishing = asyncio.create_task(one.publish(["quick"]))
            await asyncio.sleep(0.3)
            assert not publishing.done()
        await publishing
        assert await lines(other, 2) == ["slow", "quick"]


async def test_postgres_is_locked(postgres_url: str, db: psycopg.Connection) -> None:
    """Who waits for a lock is cancelled at once, and writes again when it is free."""
    async with engine(postgres_url) as one:
        await one.publish(["a"])
        with db.transaction():
            db.execute("SELECT pg_advisory_xact_lock(hashtext('kling_async_callbacks'))")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await one.publish(["b"])
        await one.publish(["c"])
        async with engine(postgres_url) as other:
            assert "c" in await lines(other, 2)


async def test_postgres_takes_over(postgres_url: str, db: psycopg.Connection) -> None:
    """Of a server that has taken over, and knows no rows, all is read."""
    async with engine(postgres_url) as one, engine(postgres_url) as other:
        await one.publish([f"{number}" for number in range(20)])
        await lines(other, 20)
        db.execute("TRUNCATE kling_async_callbacks RESTART IDENTITY")
        await other.close()
        await one.publish(["b"])
        assert await lines(other, 1) == ["b"]


async def test_postgres_after_a_long_time(postgres_url: str, db: psycopg.Connection) -> None:
    """What came while the connection was lost is read, even if that was more than a minute ago."""
    async with engine(postgres_url) as one, engine(postgres_url) as other:
        await one.publish(["a"])
        assert await lines(other, 1) == ["a"]
        await other.close()
        await one.publish(["b"])
        db.execute("UPDATE kling_async_callbacks SET at = at - interval '70 seconds'")
        async with asyncio.timeout(READ_WAIT - 1):
            assert await other.read() == ["b"]


async def test_postgres_with_garbage(postgres_url: str, db: psycopg.Connection) -> None:
    """Rows that no relay has written are read as lines that mean nothing; huge ones are not."""
    async with engine(postgres_url) as one, engine(postgres_url) as other:
        await one.publish(["a"])
        assert await lines(other, 1) == ["a"]
        for value in (b"\xff\x00", b"", b"x" * 65_537):
            db.execute("INSERT INTO kling_async_callbacks (name, line) VALUES ('one', %s)", [value])
        await one.publish(["y" * 65_536])
        assert await lines(other, 4) == ["\ufffd\x00", "", "", "y" * 65_536]


async def test_postgres_needs_no_right_to_make_tables(
    postgres_url: str, db: psycopg.Connection
) -> None:
    """Where the table is there already, nobody needs the right to make one."""
    async with engine(postgres_url) as one:
        await one.publish(["a"])
    db.execute(
        "CREATE ROLE little LOGIN PASSWORD 'little';"
        "GRANT SELECT, INSERT, DELETE ON kling_async_callbacks TO little"
    )
    try:
        little = postgres_url.replace("//postgres:tr0ub4dor-and-3@", "//little:little@")
        async with engine(little) as one:
            await one.publish(["b"])
            assert await lines(one, 2) == ["a", "b"]
    finally:
        db.execute("DROP OWNED BY little; DROP ROLE little")


# ----------------------------------------------------------------------------------- all of it


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
    """While a secret is changed, who has both hears of all; with a name, secrets do not matter."""
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
    """What comes while a server is away is told when it is back."""
    one, other = (Inbox("https://example.com/kling", secret=SECRET) for _ in range(2))
    told = asyncio.Event()

    class Ear:
        def handle(self, callback: Callback) -> bool:
            del callback
            told.set()
            return True

    ear = Ear()
    other.join(ear)
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
                await told.wait()
            assert relay.counts.received == 1
    assert redis_servers.PASSWORD not in caplog.text
    assert "callbacks are not read at redis://127.0.0.1:" in caplog.text


# ------------------------------------------------------------------- processes that are suspended


PUBLISHER = """
import asyncio, sys
from kling_async.webhooks.relay.backends import connect

async def main():
    engine = connect(sys.argv[1], ("one",))
    while True:
        await engine.publish(["x" * 50] * 20)
        print(end=".", flush=True)

asyncio.run(main())
"""


@pytest.mark.skipif(os.name == "nt", reason="nothing can be suspended there")
async def test_a_process_that_is_suspended_in_mid_call(url: str) -> None:
    """Whenever a process is suspended while it publishes, others publish at once."""
    publisher = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PUBLISHER, url, stdout=asyncio.subprocess.PIPE
    )
    assert publisher.stdout is not None
    try:
        async with engine(url) as one:
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


# ------------------------------------------------------------------------------- a Redis that moves


class Switch:
    """A name that leads to one server or another, for connections that are yet to be made."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect somebody with the server."""
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


async def test_a_redis_that_fails_over(serve_raw: ServeRaw) -> None:
    """When another server takes over, writers and readers that are connected go there by new ways.

    The old one lives on as a replica: it lets read, and refuses to be written (READONLY).
    """
    with redis_servers.serving() as old, redis_servers.serving() as new:
        switch = Switch(old.port)
        port = urlsplit(await serve_raw(switch.talk)).port
        url = old.url().replace(f":{old.port}/", f":{port}/")
        async with engine(url) as one, engine(url) as other:
            await one.publish(["a"])
            assert await lines(other, 1) == ["a"]
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
        async with engine(old.url().replace(f":{old.port}/", f":{port}/")) as one:
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
            assert "d" in await lines(one, 1)


@pytest.mark.parametrize("words", ["MOVED 42 127.0.0.1:7001", "ASK 42 127.0.0.1:7001"])
async def test_a_node_of_a_redis_cluster(serve_raw: ServeRaw, words: str) -> None:
    """A node that does not keep our keys is a mistake in the settings."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(10_000):
            for _ in range(data.count(b"*")):
                writer.write(f"-{words}\r\n".encode())

    place = (await serve_raw(talk)).partition("://")[2]
    async with engine(f"redis://{place}/0") as one:
        for call in (one.publish(["a"]), one.read()):
            with pytest.raises(ConfigurationError, match=r"a Redis cluster .*not in cluster"):
                await call
