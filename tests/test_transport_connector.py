from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from kling_async import KlingClient, MasterTextToVideo
from kling_async.errors import ConfigurationError, ConnectError
from kling_async.transport import connector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import Emulate, ServeApp

pytestmark = pytest.mark.virtual_time

KEY = "sk-very-secret-key-0123456789"
FOX = MasterTextToVideo("a fox")


class Resolver(AbstractResolver):
    """Knows one address for every name, and notes the names."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.closed = False

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.names.append(host)
        return [
            ResolveResult(
                hostname=host, host="127.0.0.1", port=port, family=family, proto=0, flags=0
            )
        ]

    async def close(self) -> None:
        self.closed = True


async def answer(request: web.Request) -> web.Response:
    """Answer a submit, or a balance call."""
    data = {"taskId": "t1"} if request.method == "POST" else 1
    return web.json_response({"code": 200, "data": data})


async def use(base_url: str, **options: Any) -> None:  # noqa: ANN401 - those of the connector
    """Submit and read through a lent session with our connector."""
    async with (
        aiohttp.ClientSession(connector=connector(**options)) as session,
        KlingClient(KEY, base_url=base_url, session=session) as kling,
    ):
        await kling.submit(FOX)
        await kling.balance()


@pytest.fixture
async def secure() -> AsyncIterator[tuple[int, ssl.SSLContext]]:
    """Start a server that demands a client certificate; give its port and what it trusts."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(server)
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context()
    authority.configure_trust(client)
    authority.issue_cert("client@company.example").configure_cert(client)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server).start()
    yield runner.addresses[0][1], client
    await runner.cleanup()


async def test_ssl(secure: tuple[int, ssl.SSLContext]) -> None:
    """An own authority and a client certificate serve submits and reads."""
    port, context = secure
    await use(f"https://localhost:{port}", ssl=context)
    with pytest.raises(ConnectError, match="certificate cannot be verified"):
        await use(f"https://localhost:{port}")


async def test_a_resolver(secure: tuple[int, ssl.SSLContext]) -> None:
    """A resolver finds the addresses for both pools, and is closed by its owner alone."""
    port, context = secure
    context.check_hostname = False
    resolver = Resolver()
    await use(f"https://api.invalid:{port}", resolver=resolver, ssl=context)
    assert resolver.names == ["api.invalid"] * 2
    assert not resolver.closed


async def test_a_local_address(serve_app: ServeApp) -> None:
    """Connections of both pools start from the local address that was given."""
    peers: list[str | None] = []

    async def note(request: web.Request) -> web.Response:
        peers.append(request.remote)
        return await answer(request)

    await use(await serve_app(note), local_addr=("127.0.0.2", 0))
    assert peers == ["127.0.0.2"] * 2


async def test_a_family(serve_app: ServeApp) -> None:
    """Only addresses of the family that was given are used."""
    origin = (await serve_app(answer)).replace("127.0.0.1", "localhost")
    await use(origin, family=socket.AF_INET)
    with pytest.raises(ConnectError):
        await use(origin, family=socket.AF_INET6)


async def test_a_limit(serve_app: ServeApp) -> None:
    """Each pool has as many connections as the limit says."""
    under_way = most = 0

    async def slow(request: web.Request) -> web.Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(1)
        under_way -= 1
        return await answer(request)

    async with (
        aiohttp.ClientSession(connector=connector(2)) as session,
        KlingClient(KEY, base_url=await serve_app(slow), session=session) as kling,
    ):
        await asyncio.gather(*(kling.submit(FOX) for _ in range(6)))
        assert most == 2
        await asyncio.gather(*(kling.balance() for _ in range(6)))
        assert most == 2


@pytest.mark.parametrize("options", [{"keepalive_timeout": 60.0}, {"force_close": True}, {}])
async def test_submits_keep_their_own_keepalive(
    options: dict[str, Any], serve_app: ServeApp
) -> None:
    """Whatever is kept for reads, a submit does not use a connection that has idled."""
    ports: list[int] = []

    async def note(request: web.Request) -> web.Response:
        assert request.transport is not None
        ports.append(request.transport.get_extra_info("peername")[1])
        return await answer(request)

    async with (
        aiohttp.ClientSession(connector=connector(**options)) as session,
        KlingClient(KEY, base_url=await serve_app(note), session=session) as kling,
    ):
        for _ in range(2):
            await kling.submit(FOX)
            await kling.balance()
            # aiohttp counts the age of idle connections by the machine's clock.
            await asyncio.to_thread(time.sleep, 0.105)
    first, read, second, again = ports
    assert second != first
    assert (read == again) is ("force_close" not in options)


@pytest.mark.parametrize(
    "options",
    [
        {"ssl": "ca.pem"},
        {"force_close": True, "keepalive_timeout": 1.0},
        {"limt": 3},
        {"local_addr": ""},
    ],
)
async def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    """What aiohttp refuses, and options that it does not have, are mistakes in the settings."""
    with pytest.raises(ConfigurationError, match="no connector can be made"):
        connector(**options)


def test_no_event_loop() -> None:
    """A connector belongs to an event loop, and is made on it."""
    with pytest.raises(ConfigurationError, match="no running event loop"):
        connector()


async def test_a_plain_connector_is_warned_of(
    emulate: Emulate, caplog: pytest.LogCaptureFixture
) -> None:
    """A lent session that may lose the answers to submits causes one warning, which says so."""
    emulator = await emulate()
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with KlingClient(
                emulator.key, base_url=emulator.base_url, session=session
            ) as kling:
                await kling.balance()
                await kling.balance()
    warnings = [one for one in caplog.records if one.levelno == logging.WARNING]
    (warning,) = warnings
    assert warning.name == "kling_async"
    assert "answers to submits may be lost" in warning.getMessage()
    assert "transport.connector()" in warning.getMessage()


async def test_what_needs_no_warning(emulate: Emulate, caplog: pytest.LogCaptureFixture) -> None:
    """Our connector, and one that keeps no connection, cause none; nor does a closed session."""
    emulator = await emulate()
    for made in (connector(), aiohttp.TCPConnector(force_close=True)):
        async with (
            aiohttp.ClientSession(connector=made) as session,
            KlingClient(emulator.key, base_url=emulator.base_url, session=session) as kling,
        ):
            await kling.balance()
    closed = aiohttp.ClientSession()
    await closed.close()
    KlingClient(emulator.key, base_url=emulator.base_url, session=closed)
    assert caplog.records == []
