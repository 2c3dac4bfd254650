from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import pytest
import uvicorn
from aiohttp import web
from attrs import field, frozen
from fastapi import Depends, FastAPI
from fastapi.responses import PlainTextResponse

from kling_async import KlingClient
from kling_async.protocol.callbacks import write_token
from kling_async.webhooks import aiohttp, asgi, fastapi
from kling_async.webhooks.inbox import Inbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from kling_async.webhooks._adapter import Client

SECRET = "a secret of the tests"


def _listen() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


@frozen
class Site:
    """A port of this machine, and an inbox whose callbacks come to ``/kling`` there."""

    sock: socket.socket = field(factory=_listen)
    path: str = f"/kling/{write_token('kling-2-1', 'n' * 16, SECRET.encode())}"
    """One at which the inbox takes callbacks."""

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.sock.getsockname()[1]}"

    def inbox(self, max_body_bytes: int = 65_536) -> Inbox:
        return Inbox(f"{self.origin}/kling", secret=SECRET, max_body_bytes=max_body_bytes)


@frozen
class Answer:
    """What a server sent back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Peer:
    """A client that speaks bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def post(
        self, path: str, body: bytes = b"", *, length: int | None = None, header: str | None = None
    ) -> None:
        """Send a POST, or the beginning of one: ``length`` may announce more than there is."""
        header = header or f"Content-Length: {len(body) if length is None else length}"
        await self.send(f"POST {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n".encode() + body)

    async def get(self, path: str) -> Answer:
        await self.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return await self.answer()

    async def answer(self) -> Answer:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(first.split()[1]), headers, body)

    async def rest(self) -> bytes:
        """Read until the server closes the connection."""
        try:
            return await self._reader.read()
        except ConnectionError:
            return b""

    async def leave(self) -> None:
        """Close the connection at once, whatever is under way."""
        self._writer.transport.abort()
        await asyncio.sleep(0.1)


class Connect(Protocol):
    async def __call__(self) -> Peer: ...


class Run(Protocol):
    async def __call__(
        self, app: object, lifespan: Literal["on", "off"] = "on"
    ) -> Callable[[], Awaitable[object]]: ...


class Serve(Protocol):
    async def __call__(
        self,
        inbox: Inbox,
        client: Client | None = None,
        act: Callable[[KlingClient], Awaitable[str]] | None = None,
    ) -> Callable[[], Awaitable[object]]: ...


@pytest.fixture
def site() -> Iterator[Site]:
    """Take a free port for the test's server."""
    site = Site()
    yield site
    site.sock.close()


@pytest.fixture
async def connect(site: Site) -> AsyncIterator[Connect]:
    """Connect to the site; connections are closed at the end."""
    writers: list[asyncio.StreamWriter] = []

    async def connect() -> Peer:
        reader, writer = await asyncio.open_connection(*site.sock.getsockname())
        writers.append(writer)
        return Peer(reader, writer)

    yield connect
    for writer in writers:
        writer.close()
    await asyncio.sleep(0)


class _Uvicorn(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.ready.set()


@pytest.fixture
async def run(site: Site) -> AsyncIterator[Run]:
    """Run an application under the server that suits it; return what ends it."""
    async with AsyncExitStack() as stack:

        async def run(
            app: object, lifespan: Literal["on", "off"] = "on"
        ) -> Callable[[], Awaitable[object]]:
            if isinstance(app, web.Application):
                end = await _run_aiohttp(app, site.sock)
            else:
                end = await _run_asgi(app, site.sock, lifespan)
            stack.push_async_callback(end)
            return end

        yield run


async def _run_asgi(
    app: object, sock: socket.socket, lifespan: Literal["on", "off"]
) -> Callable[[], Awaitable[object]]:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type] # whatever the test gives
        http="h11",
        ws="none",
        lifespan=lifespan,
        log_config=None,
        access_log=False,
    )
    server = _Uvicorn(config)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    ready = asyncio.create_task(server.ready.wait())
    await asyncio.wait((serving, ready), return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()

    async def end() -> None:
        server.should_exit = True
        await serving

    return end


async def _run_aiohttp(
    app: web.Application, sock: socket.socket
) -> Callable[[], Awaitable[object]]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.SockSite(runner, sock).start()
    return runner.cleanup


@pytest.fixture(params=["asgi", "fastapi", "aiohttp"])
def serve(run: Run, request: pytest.FixtureRequest) -> Serve:
    """Serve an inbox by each of the edges, and at ``GET /act`` what a test does with the client."""
    build = {"asgi": _by_asgi, "fastapi": _by_fastapi, "aiohttp": _by_aiohttp}[request.param]

    async def serve(
        inbox: Inbox,
        client: Client | None = None,
        act: Callable[[KlingClient], Awaitable[str]] | None = None,
    ) -> Callable[[], Awaitable[object]]:
        async def nothing(kling: KlingClient) -> str:
            return repr(kling)

        # A client that sends nothing: its service is a closed port.
        idle = KlingClient("key", base_url="http://127.0.0.1:9", inbox=inbox)
        return await run(build(inbox, client or idle, act or nothing))

    return serve


def _by_asgi(
    inbox: Inbox, client: Client, act: Callable[[KlingClient], Awaitable[str]]
) -> asgi.App:
    callbacks = asgi.app(inbox)

    async def app(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        if scope.get("path") != "/act":
            await callbacks(scope, receive, send)
            return
        body = (await act(asgi.client(scope))).encode()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return asgi.lifespan(client, asgi.answer_errors(app))


def _by_fastapi(
    inbox: Inbox, client: Client, act: Callable[[KlingClient], Awaitable[str]]
) -> FastAPI:
    app = FastAPI(lifespan=fastapi.lifespan(client))
    app.include_router(fastapi.router(inbox), prefix="/kling")
    fastapi.answer_errors(app)

    @app.get("/act", response_class=PlainTextResponse)
    async def do(kling: Annotated[KlingClient, Depends(fastapi.client)]) -> str:
        return await act(kling)

    return app


def _by_aiohttp(
    inbox: Inbox, client: Client, act: Callable[[KlingClient], Awaitable[str]]
) -> web.Application:
    async def do(request: web.Request) -> web.Response:
        return web.Response(text=await act(aiohttp.client(request)))

    app = web.Application(middlewares=[aiohttp.answer_errors])
    app.cleanup_ctx.append(aiohttp.lifespan(client))
    app.add_routes([*aiohttp.routes(inbox, prefix="/kling"), web.get("/act", do)])
    return app
