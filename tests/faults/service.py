"""A service on a real socket that meets each request of one kind with one fault.

It speaks bytes, since most faults are below HTTP or beside it. It counts for itself what the client
is judged by: the complete requests of each kind that arrived, and the tasks that were started.
Where a fault leaves open whether the service has done its work, it has: the worst case.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from math import inf
from typing import ClassVar

import pytest
import trustme
from attrs import define, field, frozen

__all__ = ["Exchange", "Fault", "Service", "serve"]

TASK_ID = "task_1"
VIDEO = b"\0\0\0\x18ftypmp42" + b"v" * 20_000

FOREVER = 1e6

# Closing sends a reset instead of the orderly end.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@define
class Exchange:
    """One request that has arrived whole, and the connection that waits for its answer."""

    kind: str
    writer: asyncio.StreamWriter
    good: bytes
    """The body of the right answer."""

    async def answer(self, status: int, body: bytes, headers: Mapping[str, str] = {}) -> None:
        """Answer in good order."""
        await self.send(self.head(status, len(body), headers) + body)

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)
        await self.writer.drain()

    def head(self, status: int, length: int, headers: Mapping[str, str] = {}) -> bytes:
        """Return the head of an answer."""
        kind = "video/mp4" if self.kind == "file" else "application/json"
        fields = {"Content-Type": kind, "Content-Length": str(length), **headers}
        lines = [f"HTTP/1.1 {status} Some Words", *(f"{k}: {v}" for k, v in fields.items())]
        return "\r\n".join([*lines, "", ""]).encode()

    def reset(self) -> None:
        """Reset the connection."""
        _reset(self.writer)


Act = Callable[[Exchange], Awaitable[None]]


@frozen(eq=False)
class Fault:
    """What goes wrong.

    Attributes:
        act: What is done in place of the answer.
        works: A submit starts its task before that.
        tls: ``strange``: a certificate of an unknown authority; ``none``: a port without TLS.
        name: What the resolution of the host's name does: ``fails`` or ``hangs``.
        closed: Nothing listens at the port.
        greets: False: connections are reset before a request is read.
        passes: Whether it can pass: a certificate does not get better.
        least_wait: Seconds before which the request must not come again.
    """

    act: Act | None = None
    works: bool = True
    tls: str = ""
    name: str = ""
    closed: bool = False
    greets: bool = True
    passes: bool = True
    least_wait: float = 0.0


def envelope(code: int, data: object = None) -> bytes:
    """Return what the service itself would say."""
    words = {200: "success", 402: "Insufficient credits"}.get(code, "Some words")
    return json.dumps({"code": code, "message": words, "data": data}).encode()


def page(status: int, *, works: bool = False, **headers: str) -> Fault:
    """Answer with a page, as a gateway does."""
    body = f"<html><head><title>{status}</title></head></html>".encode()
    fields = {"Content-Type": "text/html", **{k.replace("_", "-"): v for k, v in headers.items()}}

    async def act(exchange: Exchange) -> None:
        await exchange.answer(status, body, fields)

    return Fault(act, works=works)


def said(
    status: int, code: int | None = None, *, works: bool = False, data: object = None
) -> Fault:
    """Answer in the service's own envelope."""
    body = envelope(status if code is None else code, data)

    async def act(exchange: Exchange) -> None:
        await exchange.answer(status, body)

    return Fault(act, works=works)


def busy(wait: float, *, own: bool, date: bool = False) -> Fault:
    """Answer 429 with a Retry-After, in seconds or as a date."""

    async def act(exchange: Exchange) -> None:
        when = format_datetime(datetime.now(UTC) + timedelta(seconds=wait), usegmt=True)
        headers = {"Retry-After": when if date else f"{wait:.0f}"}
        body = envelope(429) if own else b"<html>slow down</html>"
        await exchange.answer(429, body, headers)

    # A date counts whole seconds, and real time passes while virtual time does not.
    return Fault(act, works=False, least_wait=wait - 3 if date else wait)


async def hang(exchange: Exchange) -> None:
    """Answer nothing."""
    del exchange
    await asyncio.Event().wait()


async def drip(exchange: Exchange) -> None:
    """Answer one byte every ten seconds, without end."""
    for byte in exchange.head(200, 10**9) + b" " * 10**5:
        await exchange.send(bytes((byte,)))
        await asyncio.sleep(10)


async def drop(exchange: Exchange) -> None:
    """Reset the connection in place of an answer."""
    exchange.reset()


async def cut(exchange: Exchange) -> None:
    """Reset the connection inside the answer."""
    body = exchange.good
    await exchange.send(exchange.head(200, len(body)) + body[: len(body) // 2])
    await asyncio.sleep(0.05)  # a reset overtakes what has not been read
    exchange.reset()


async def truncated(exchange: Exchange) -> None:
    """Send half of the answer, and say that this is all."""
    body = exchange.good
    await exchange.answer(200, body[: len(body) // 2])


async def oversized(exchange: Exchange) -> None:
    """Send more than any answer has."""
    if exchange.kind == "file":
        await exchange.send(exchange.head(200, 10**13) + exchange.good)
    else:
        await exchange.answer(200, exchange.good + b" " * 2_000_000)


async def zipped(exchange: Exchange) -> None:
    """Send the answer compressed in a way that was asked for."""
    await exchange.answer(200, gzip.compress(exchange.good), {"Content-Encoding": "gzip"})


async def brotli(exchange: Exchange) -> None:
    """Send the answer in an encoding that was not asked for."""
    # No Brotli either, so that it does not matter whether some package for that is installed.
    await exchange.answer(200, b"\xff" * 100, {"Content-Encoding": "br"})


async def large_headers(exchange: Exchange) -> None:
    """Send the answer with 100 kB of header fields."""
    fields = {f"X-Field-{number}": "x" * 1000 for number in range(50)}
    await exchange.answer(200, exchange.good, {**fields, "X-Large": "x" * 50_000})


async def redirect(exchange: Exchange) -> None:
    """Lead to a page for logging in."""
    await exchange.answer(302, b"", {"Location": "/login"})


@define(eq=False)
class Service:
    """The service; it serves one client of the running loop.

    Attributes:
        kind: Which requests meet the fault.
        fault: What they meet.
        times: How many of them do.
        arrived: When the complete requests of each kind came, in the loop's time.
        started: The tasks that were started and paid for.
    """

    kind: str
    fault: Fault
    times: float
    arrived: dict[str, list[float]] = field(factory=dict)
    started: int = 0
    port: int = 0
    listens: asyncio.Event = field(factory=asyncio.Event)

    PATHS: ClassVar = {
        "/api/v1/generateTask/": "submit",
        "/api/v1/statusTask/": "status",
        "/api/v1/apikeys/": "balance",
        "/files/": "file",
    }

    @property
    def host(self) -> str:
        """The host and port."""
        return f"localhost:{self.port}"

    @property
    def scheme(self) -> str:
        """The scheme that the client is set up with."""
        return "https" if self.fault.tls else "http"

    @property
    def url(self) -> str:
        """Where the result is."""
        return f"{self.scheme}://{self.host}/files/{TASK_ID}.mp4"

    def takes_fault(self) -> bool:
        """Whether what comes next meets the fault."""
        self.times -= 1
        return self.times >= 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        if not self.fault.greets and self.takes_fault():
            _reset(writer)
            return
        if self.fault.tls == "none":
            await reader.read(10)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            return
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            lengths = [
                int(line.partition(":")[2])
                for line in head.lower().split("\r\n")
                if line.startswith("content-length:")
            ]
            await reader.readexactly(sum(lengths))
            path = head.split(" ")[1]
            kind = next((kind for begin, kind in self.PATHS.items() if path.startswith(begin)), "")
            self.arrived.setdefault(kind, []).append(asyncio.get_running_loop().time())
            exchange = Exchange(kind, writer, self.good(kind))
            act = self.fault.act
            faulty = act is not None and kind == self.kind and self.takes_fault()
            if kind == "submit" and (self.fault.works or not faulty):
                self.started += 1
            if faulty and act is not None:
                await act(exchange)
            elif kind:
                await exchange.answer(200, exchange.good)
            else:
                await exchange.answer(200, b"<html>log in</html>", {"Content-Type": "text/html"})

    def good(self, kind: str) -> bytes:
        """Return the body of the right answer."""
        ended = {
            "taskId": TASK_ID,
            "state": "success",
            "resultJson": json.dumps({"resultUrls": [self.url]}),
        }
        answers: dict[str, object] = {"submit": {"taskId": TASK_ID}, "status": ended, "balance": 5}
        return VIDEO if kind == "file" else envelope(200, answers.get(kind))


@asynccontextmanager
async def serve(kind: str, fault: Fault, times: float) -> AsyncIterator[Service]:
    """Run the service; what it does to names happens to this event loop."""
    service = Service(kind, fault, times)
    with socket.socket() as sock, _names(service):
        sock.bind(("127.0.0.1", 0))
        service.port = sock.getsockname()[1]
        listening = asyncio.create_task(_listen(service, sock))
        if not fault.closed:
            await service.listens.wait()
        try:
            yield service
        finally:
            listening.cancel()
            await asyncio.wait((listening,))


async def _listen(service: Service, sock: socket.socket) -> None:
    """Serve until cancelled; a port that is closed opens after a moment if the fault passes."""
    talks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await service.talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the test has
        finally:
            writer.close()

    def start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(run(reader, writer))
        talks.add(task)
        task.add_done_callback(talks.discard)

    if service.fault.closed:
        await asyncio.sleep(0.01 if service.times < inf else FOREVER)
    context = None
    if service.fault.tls == "strange":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        trustme.CA().issue_cert("localhost").configure_cert(context)
    sock.listen()
    server = await asyncio.start_server(start, sock=sock, ssl=context)
    service.listens.set()
    try:
        await asyncio.sleep(FOREVER)
    finally:
        server.close()
        for task in talks:
            task.cancel()
        if talks:
            await asyncio.wait(talks)
        await asyncio.sleep(0)


@contextmanager
def _names(service: Service) -> Iterator[None]:
    """Let all names be this machine on the running loop, unless their resolution fails."""

    async def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        name = service.fault.name
        if name and service.takes_fault():
            if name == "fails":
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
            await asyncio.sleep(40 if service.times < inf else FOREVER)
        address = ("127.0.0.1", service.port)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
        yield


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
