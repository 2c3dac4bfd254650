from __future__ import annotations

import gzip
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from kling_async import KlingClient
from kling_async.errors import ConfigurationError, InputError
from kling_async.webhooks import aiohttp
from kling_async.webhooks.inbox import Counts

if TYPE_CHECKING:
    from tests.webhooks.conftest import Connect, Run, Site

pytestmark = pytest.mark.virtual_time


def idle() -> KlingClient:
    """Return a client that sends nothing."""
    return KlingClient("key", base_url="http://127.0.0.1:9")


async def test_sub_applications(site: Site, run: Run, connect: Connect) -> None:
    """Callbacks may come to a sub-application, and its handlers have the client, too."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=type(aiohttp.client(request)).__name__)

    inner, app = web.Application(), web.Application()
    inner.add_routes([*aiohttp.routes(site.inbox(), prefix="/in"), web.get("/who", handler)])
    app.cleanup_ctx.append(aiohttp.lifespan(idle()))
    app.add_subapp("/kling", inner)
    await run(app)
    peer = await connect()
    assert (await peer.get("/kling/who")).body == b"KlingClient"
    await peer.post(site.path.replace("/kling/", "/kling/in/"), b"no JSON")
    assert (await peer.answer()).status == 400


async def test_no_client(
    site: Site, run: Run, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the lifespan, the error says what to do."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=repr(aiohttp.client(request)))

    app = web.Application(middlewares=[aiohttp.answer_errors])
    app.add_routes([web.get("/who", handler)])
    await run(app)
    assert (await (await connect()).get("/who")).status == 500
    assert "append aiohttp.lifespan(kling) to app.cleanup_ctx" in caplog.text


async def test_a_client_that_cannot_be_made(run: Run) -> None:
    """The server does not start without the client, and says why."""

    def make() -> KlingClient:
        raise ConfigurationError("there is no key")

    app = web.Application()
    app.cleanup_ctx.append(aiohttp.lifespan(make))
    with pytest.raises(ConfigurationError, match="there is no key"):
        await run(app)


async def test_errors_that_come_too_late(
    site: Site, run: Run, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """After an answer has begun, an error reaches the server, which closes the connection."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"so far so good")
        raise InputError("too late")

    app = web.Application(middlewares=[aiohttp.answer_errors])
    app.add_routes([web.get("/begin", handler)])
    await run(app)
    peer = await connect()
    assert (await peer.get("/begin")).status == 200
    assert b"problem+json" not in await peer.rest()
    assert "too late" in caplog.text


async def test_bodies_that_swell(site: Site, run: Run, connect: Connect) -> None:
    """Of a compressed body that is huge when unpacked, no more is unpacked than is read."""
    inbox = site.inbox()
    app = web.Application()
    app.add_routes(aiohttp.routes(inbox, prefix="/kling"))
    await run(app)
    bomb = gzip.compress(b" " * 50_000_000)
    assert len(bomb) < inbox.max_body_bytes
    peer = await connect()
    tracemalloc.start()
    try:
        header = f"Content-Encoding: gzip\r\nContent-Length: {len(bomb)}"
        await peer.post(site.path, bomb, header=header)
        assert (await peer.answer()).status == 413
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()
    assert inbox.counts == Counts(too_large=1)
