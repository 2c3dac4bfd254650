"""The server behind `kling-async listen`, against clients that speak bytes."""

from __future__ import annotations

import asyncio
import json
import struct
from contextlib import AsyncExitStack
from socket import SO_LINGER, SOL_SOCKET
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from attrs import define

from kling_async.cli import listen
from kling_async.cli.listen import MAX_BYTES, MAX_CONNECTIONS, CallbackServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kling_async.cli.callback_log import LogEntry

SAID = {"taskId": "task_1", "state": "success", "resultJson": '{"resultUrls": ["https://a.b/c"]}'}
BODY = json.dumps({"code": 200, "message": "success", "data": SAID}).encode()
HEAD = b"POST /kling?a=b HTTP/1.1\r\nHost: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK = b"1000\r\n" + bytes(0x1000) + b"\r\n"


def post(body: bytes, *, head: bytes = HEAD) -> bytes:
    """Write a request."""
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


@define
class Line:
    """A server, and connections to it."""

    server: CallbackServer
    port: int
    stack: AsyncExitStack

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.stack.callback(writer.close)
        return reader, writer

    async def send(self, sent: bytes) -> tuple[LogEntry, bytes]:
        """Send bytes; give what was noted, and the whole answer up to the end of the connection."""
        reader, writer = await self.connect()
        writer.write(sent)
        return await self.noted(), await reader.read()

    async def noted(self) -> LogEntry:
        """Wait for what is noted next."""
        async with asyncio.timeout(100):
            return await self.server.entries.get()


@pytest.fixture
async def line(request: pytest.FixtureRequest) -> AsyncIterator[Line]:
    """Start a server that answers 200, or what the test asks for."""
    server = CallbackServer(getattr(request, "param", 200))
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with AsyncExitStack() as stack:
        yield Line(server, runner.addresses[0][1], stack)
    await runner.cleanup()


@pytest.mark.parametrize("line", [200, 503], indirect=True)
async def test_callbacks_are_answered_with_the_status(line: Line) -> None:
    """A callback is noted, and answered with the status that was asked for and an empty body."""
    entry, answer = await line.send(post(BODY))
    assert entry.snapshot is not None
    assert (entry.snapshot.ref.task_id, entry.problem) == ("task_1", "")
    assert (entry.method, entry.path, entry.size_bytes) == ("POST", "/kling?…", len(BODY))
    status = line.server._status  # noqa: SLF001
    assert entry.status == status
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.endswith(b"\r\n\r\n")
    again, _ = await line.send(CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY))
    assert (again.times, again.size_bytes) == (2, len(BODY))


@pytest.mark.parametrize(
    ("sent", "status", "problem"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 405, "not a POST"),
        (post(BODY, head=b"PUT / HTTP/1.1\r\nHost: x\r\n"), 405, "not a POST"),
        (post(b"{"), 400, "the body is not JSON"),
        (post(b""), 400, "the body is empty"),
        (post(bytes(MAX_BYTES + 1)), 413, "too large"),
        (CHUNKED + 17 * CHUNK, 413, "too large"),
        (CHUNKED + 16 * CHUNK + b"0\r\n\r\n", 400, "the body is not JSON"),
        (HEAD + b"Content-Length: 9999999999\r\n\r\n", 413, "too large"),
        (post(BODY, head=HEAD + b"Content-Encoding: g\x1bz\r\n"), 400, "not HTTP: "),
        (post(BODY, head=HEAD + b"Content-Encoding: gzip\r\n"), 415, "is encoded (gzip)"),
        (CHUNKED + b"zz\r\n", 400, "HTTP"),
        (b"hello\r\n\r\n", 400, "not HTTP: "),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "not HTTP, but TLS"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 400, "more than 8190 bytes"),
        (HEAD + b"X: " + b"a" * 9000 + b"\r\n\r\n", 400, "more than 8190 bytes"),
    ],
)
async def test_what_is_no_callback(line: Line, sent: bytes, status: int, problem: str) -> None:
    """What is no callback is noted with what is wrong, answered so, and its connection ended."""
    entry, answer = await line.send(sent)
    assert entry.snapshot is None
    assert (entry.status, problem in entry.problem) == (status, True), entry
    assert b" %d " % status in answer.partition(b"\r\n")[0]
    assert b"kling-async listen: " in answer
    assert (b"Allow: POST" in answer) == (status == 405)


@pytest.mark.parametrize("reset", [False, True])
async def test_a_connection_that_breaks_off(line: Line, *, reset: bool) -> None:
    """A client that closes within its body is logged; there is no response."""
    _, writer = await line.connect()
    writer.write(HEAD + b"Content-Length: 10\r\n\r\nabc")
    await asyncio.sleep(1)
    if reset:
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, linger)
    writer.close()
    entry = await line.noted()
    assert (entry.status, entry.size_bytes) == (None, 10)
    assert entry.problem == "the connection was closed after 3 bytes of the body"


async def test_a_slow_body(line: Line) -> None:
    """A body that is not whole after 10 s is given up, though bytes keep coming."""
    reader, writer = await line.connect()
    writer.write(HEAD + b"Content-Length: 100\r\n\r\n")
    began = asyncio.get_running_loop().time()
    for _ in range(12):
        writer.write(b"a")
        await asyncio.sleep(1)
    entry = line.server.entries.get_nowait()
    assert (entry.status, entry.problem.partition(":")[0]) == (408, "too slow")
    assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
    assert asyncio.get_running_loop().time() - began < 25  # what comes late is let run dry


async def test_a_slow_head(line: Line) -> None:
    """A request whose head is not whole after 10 s is noted, and its connection ended."""
    reader, writer = await line.connect()
    began = asyncio.get_running_loop().time()
    for byte in HEAD[:9]:
        writer.write(bytes([byte]))
        await asyncio.sleep(1)
    assert await reader.read() == b""
    assert asyncio.get_running_loop().time() - began == pytest.approx(10, abs=0.5)
    entry = await line.noted()
    assert (entry.status, entry.problem) == (
        None,
        "too slow: no complete headers in 10 s",
    )


async def test_a_connection_that_says_nothing(line: Line) -> None:
    """A connection on which nothing comes is ended after 10 s, and is not worth a word."""
    reader, _ = await line.connect()
    began = asyncio.get_running_loop().time()
    assert await reader.read() == b""
    assert asyncio.get_running_loop().time() - began == pytest.approx(10, abs=0.5)
    assert line.server.entries.empty()


async def test_one_request_for_each_connection(line: Line) -> None:
    """What follows a request on its connection is not looked at."""
    entry, answer = await line.send(post(BODY) + post(BODY))
    assert entry.snapshot is not None
    assert answer.count(b"HTTP/1.1") == 1
    await asyncio.sleep(20)
    assert line.server.entries.empty()


async def test_a_crowd(line: Line) -> None:
    """One connection too many is noted and closed; when another ends, there is room again."""
    held = [await line.connect() for _ in range(MAX_CONNECTIONS)]
    reader, _ = await line.connect()
    assert await reader.read() == b""
    assert (await line.noted()).problem == "more than 256 connections at one time"
    held[0][1].close()
    await asyncio.sleep(0.1)
    entry, _ = await line.send(post(BODY))
    assert entry.snapshot is not None


async def test_a_flood_is_not_kept(line: Line) -> None:
    """Of a body of sixteen megabytes no more than the limit is kept; the rest goes nowhere."""
    reader, writer = await line.connect()
    writer.write(CHUNKED)
    async with asyncio.timeout(10_000):
        for _ in range(4096):
            writer.write(CHUNK)
            await writer.drain()
    entry = await line.noted()
    assert entry.status == 413
    assert entry.size_bytes < 4 * MAX_BYTES
    assert (await reader.read()).startswith(b"HTTP/1.1 413 ")


async def test_old_tasks_are_forgotten(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callbacks are counted by task; the task without a callback for the longest is forgotten."""
    monkeypatch.setattr(listen, "MAX_TASKS", 2)
    times = []
    for name in "ababacb":
        entry, _ = await line.send(post(BODY.replace(b"task_1", name.encode())))
        times.append(entry.times)
    assert times == [1, 1, 2, 2, 3, 1, 1]
