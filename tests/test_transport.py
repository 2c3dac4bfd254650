from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING

import aiohttp
import pytest
import trustme
from aiohttp import web

from kling_async import MasterTextToVideo
from kling_async.errors import AnswerLostError, ConfigurationError, ConnectError, ContractError
from kling_async.protocol import requests
from kling_async.results import TaskRef
from kling_async.transport import AiohttpTransport, connector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kling_async.protocol.requests import Request
    from tests.conftest import Emulate, ServeApp, ServeRaw

pytestmark = pytest.mark.virtual_time

KEY = "sk-very-secret-key-0123456789"
SUBMIT = requests.build_submit(MasterTextToVideo("a fox"))
REF = TaskRef("kling-2-1", "a/b c".replace(" ", "%"))
STATUS = requests.build_status(REF)
OK = b'{"code":200,"message":"success","data":1}'


def now() -> float:
    """Give the loop's time."""
    return asyncio.get_running_loop().time()


def port_of(server: asyncio.Server) -> int:
    """Return the port that a server listens at."""
    port: int = server.sockets[0].getsockname()[1]
    return port


@contextlib.asynccontextmanager
async def transport(
    origin: str, *, session: aiohttp.ClientSession | None = None, key: str = KEY
) -> AsyncIterator[AiohttpTransport]:
    """Make a transport and close it."""
    made = AiohttpTransport(
        base_url=f"{origin}/api/v1", api_key=key, connections=10, session=session
    )
    try:
        yield made
    finally:
        await made.close()


async def test_what_is_sent(serve_app: ServeApp) -> None:
    """A request carries the key, says who asks, and keeps the path's quoting."""
    seen: list[web.BaseRequest] = []
    bodies: list[bytes] = []

    async def note(request: web.Request) -> web.Response:
        seen.append(request)
        bodies.append(await request.read())
        return web.Response(body=OK, headers={"X-Some-Header": "Value"})

    async with transport(await serve_app(note)) as door:
        response = await door.send(SUBMIT, 30.0)
        await door.send(STATUS, 30.0)
    submit, status = seen
    assert (submit.method, submit.raw_path) == ("POST", "/api/v1/generateTask/kling-2-1")
    assert (status.method, status.raw_path) == (
        "GET",
        "/api/v1/statusTask/kling-2-1?taskId=a%2Fb%25c",
    )
    assert bodies == [SUBMIT.body, b""]
    for request in seen:
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        assert request.headers["Accept"] == "application/json"
        assert request.headers["Accept-Encoding"] == "gzip, identity"
        assert re.fullmatch(r"kling-async/[\d.]+ aiohttp/[\d.]+", request.headers["User-Agent"])
    assert submit.headers["Content-Type"] == "application/json"
    assert "Content-Type" not in status.headers
    assert (response.status, response.body) == (200, OK)
    assert response.headers["x-some-header"] == "Value"
    assert KEY not in repr(response)


def test_a_session_of_another_type() -> None:
    """A session that is not aiohttp's raises ConfigurationError."""
    with pytest.raises(ConfigurationError, match="session must be an aiohttp"):
        AiohttpTransport(base_url="https://a/api/v1", api_key=KEY, connections=1, session=5)  # type: ignore[arg-type] # on purpose


async def test_compressed_answers(serve_app: ServeApp) -> None:
    """A compressed answer is unpacked."""

    async def packed(_: web.Request) -> web.Response:
        response = web.Response(body=OK * 50)
        response.enable_compression(web.ContentCoding.gzip)
        return response

    async with transport(await serve_app(packed)) as door:
        assert (await door.send(STATUS, 30.0)).body == OK * 50


async def test_compressed_answers_through_a_lent_session(serve_app: ServeApp) -> None:
    """A compressed answer is unpacked though a lent session would leave it packed."""

    async def packed(_: web.Request) -> web.Response:
        response = web.Response(body=OK * 50)
        response.enable_compression(web.ContentCoding.gzip)
        return response

    origin = await serve_app(packed)
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        transport(origin, session=session) as door,
    ):
        assert (await door.send(STATUS, 30.0)).body == OK * 50


@pytest.mark.parametrize("lent", [True, False])
async def test_large_headers(lent: bool, serve_raw: ServeRaw) -> None:  # noqa: FBT001
    """An answer with 100 kB of header fields, of which one is as large, is read."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        fields = b"".join(b"X-%d: %b\r\n" % (n, b"y" * 500) for n in range(200))
        writer.write(b"HTTP/1.1 200 OK\r\nX-Large: " + b"z" * 100_000 + b"\r\n" + fields)
        writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(OK), OK))
        await writer.drain()

    origin = await serve_raw(talk)
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession()) if lent else None
        door = await stack.enter_async_context(transport(origin, session=session))
        assert (await door.send(STATUS, 30.0)).body == OK


@pytest.mark.parametrize(("request_", "charged"), [(SUBMIT, True), (STATUS, False)])
async def test_an_answer_without_end(
    request_: Request,
    charged: bool,  # noqa: FBT001 - a column of the table
    serve_raw: ServeRaw,
) -> None:
    """An answer beyond a megabyte is not read on; its error quotes the beginning, not the key."""
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + KEY.encode())
        while True:
            writer.write(b"x" * 65536)
            sent += 65536
            await writer.drain()

    async with transport(await serve_raw(flood)) as door:
        with pytest.raises(ContractError, match=r"more than 1\.0 MB") as caught:
            await door.send(request_, 30.0)
    error = caught.value
    assert (error.status, error.may_have_charged, error.retryable) == (200, charged, not charged)
    assert error.body.startswith("[API key]xxx")
    assert len(error.body) == 200
    assert error.ref == request_.ref
    assert sent < 64 * 1024 * 1024


async def test_an_answer_of_a_megabyte(serve_app: ServeApp) -> None:
    """An answer of exactly a megabyte is still read."""

    async def large(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * 1024 * 1024)

    async with transport(await serve_app(large)) as door:
        assert len((await door.send(STATUS, 30.0)).body) == 1024 * 1024


@pytest.mark.parametrize("request_", [SUBMIT, STATUS])
async def test_a_total_deadline(request_: Request, serve_raw: ServeRaw) -> None:
    """A server that trickles is given up after the timeout, however lively it is."""

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            writer.write(b" ")
            await asyncio.sleep(1)

    async with transport(await serve_raw(trickle)) as door:
        with pytest.raises(AnswerLostError) as caught:
            await door.send(request_, 30.0)
    submitting = request_ is SUBMIT
    assert caught.value.may_have_charged is submitting
    assert caught.value.retryable is not submitting
    assert caught.value.ref == request_.ref
    assert ("charged" in str(caught.value)) is submitting
    assert now() == pytest.approx(30, abs=1.1)


@pytest.mark.parametrize("timeout", [4.0, 10.0, 30.0])
async def test_a_server_that_never_greets(timeout: float, serve_raw: ServeRaw) -> None:
    """A connection that does not stand after 10 s, or the timeout, proves that nothing was sent."""

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    origin = (await serve_raw(silent)).replace("http:", "https:")
    async with transport(origin) as door:
        with pytest.raises(ConnectError, match="nothing was sent") as caught:
            await door.send(SUBMIT, timeout)
    assert caught.value.retryable
    assert not caught.value.may_have_charged
    assert now() <= min(timeout, 10.0) + 1.1


async def test_a_refused_connection() -> None:
    """A refused connection proves that nothing was sent; the error names the task."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening
        async with transport(f"http://127.0.0.1:{taken.getsockname()[1]}") as door:
            with pytest.raises(ConnectError) as caught:
                await door.send(STATUS, 30.0)
    assert caught.value.ref == REF
    assert caught.value.__cause__ is None


def hanging(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let calls of the running loop take for ever."""

    async def hang(*_: object, **__: object) -> object:
        return await asyncio.Event().wait()

    for name in names:
        monkeypatch.setattr(asyncio.get_running_loop(), name, hang)


@pytest.mark.parametrize("lent", [True, False])
@pytest.mark.parametrize("hangs", ["getaddrinfo", "sock_connect"])
async def test_a_connection_that_never_comes(
    hangs: str,
    lent: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If the name's resolution or its dead addresses take all the time, nothing was sent.

    It does not matter which timer ends it: that of the connection, or that of the request.
    """
    hanging(monkeypatch, hangs)
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession()) if lent else None
        door = await stack.enter_async_context(transport("https://localhost", session=session))
        with pytest.raises(ConnectError, match="nothing was sent") as caught:
            await door.send(SUBMIT, 30.0)
    assert caught.value.retryable
    assert not caught.value.may_have_charged
    assert caught.value.verdict == "not sent"
    assert now() <= 31


async def test_a_lent_session_without_a_free_connection(serve_app: ServeApp) -> None:
    """A submit that has waited in vain for a connection of a lent session was not sent."""

    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(1000)
        return web.Response()

    origin = await serve_app(slow)
    only_one = aiohttp.TCPConnector(limit=1)
    async with (
        aiohttp.ClientSession(connector=only_one) as session,
        transport(origin, session=session) as door,
    ):
        first = asyncio.create_task(door.send(SUBMIT, 60.0))
        await asyncio.sleep(1)
        with pytest.raises(ConnectError):
            await door.send(SUBMIT, 30.0)
        with pytest.raises(AnswerLostError):
            await first


async def test_a_proxy_that_refuses(serve_raw: ServeRaw) -> None:
    """A proxy that makes no connection proves that nothing was sent."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
        await writer.drain()

    async with (
        aiohttp.ClientSession(proxy=await serve_raw(refuse)) as session,
        transport("https://example.com", session=session) as door,
    ):
        for request in (SUBMIT, STATUS):
            with pytest.raises(ConnectError, match="502") as caught:
                await door.send(request, 30.0)
            assert caught.value.retryable


async def test_a_certificate_that_cannot_be_verified() -> None:
    """A certificate of an unknown authority is not retryable, and the error says what to do."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    server = await asyncio.start_server(lambda *_: None, "localhost", 0, ssl=context)
    async with server, transport(f"https://localhost:{port_of(server)}") as door:
        for request in (SUBMIT, STATUS):
            with pytest.raises(ConnectError, match="SSL_CERT_FILE") as caught:
                await door.send(request, 30.0)
            assert not caught.value.retryable
            assert not caught.value.may_have_charged


async def test_no_tls_there(serve_raw: ServeRaw) -> None:
    """A server that does not use TLS proves that nothing was sent, and that https is wrong."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with transport((await serve_raw(plain)).replace("http:", "https:")) as door:
        with pytest.raises(ConnectError, match=r"is the base URL's scheme http\?") as caught:
            await door.send(SUBMIT, 30.0)
    assert not caught.value.retryable


@pytest.mark.parametrize("host", ["a..b", "x" * 64])
async def test_a_host_that_cannot_be_one(host: str) -> None:
    """A host name that cannot be looked up is a mistake in the settings."""
    async with transport(f"https://{host}") as door:
        with pytest.raises(ConfigurationError, match="base URL"):
            await door.send(SUBMIT, 30.0)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
        b"\x00\xff\xfe nonsense \r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 999999 ?\r\n\r\n",
    ],
)
async def test_answers_that_do_not_arrive_whole(answer: bytes, serve_raw: ServeRaw) -> None:
    """An answer that is cut or not HTTP is lost, and for a submit that may cost money."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async with transport(await serve_raw(cut)) as door:
        with pytest.raises(AnswerLostError) as caught:
            await door.send(SUBMIT, 30.0)
        assert caught.value.may_have_charged
        assert not caught.value.retryable
        with pytest.raises(AnswerLostError) as caught:
            await door.send(STATUS, 30.0)
        assert not caught.value.may_have_charged
        assert caught.value.retryable


async def test_errors_do_not_quote_the_key(serve_raw: ServeRaw) -> None:
    """Where the library's error quotes what the server sent, the key is taken out."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"Bearer {KEY}\r\n\r\n".encode())

    async with transport(await serve_raw(echo)) as door:
        with pytest.raises(AnswerLostError) as caught:
            await door.send(SUBMIT, 30.0)
    assert "[API key]" in str(caught.value)
    assert KEY not in str(caught.value)


async def test_no_redirect_is_followed(serve_app: ServeApp) -> None:
    """A redirect is an answer like any other, and asked for once."""
    paths: list[str] = []

    async def redirect(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    async with transport(await serve_app(redirect)) as door:
        assert (await door.send(SUBMIT, 30.0)).status == 307
        assert (await door.send(STATUS, 30.0)).status == 307
    assert "/elsewhere" not in paths


async def test_cookies_are_not_kept(serve_app: ServeApp) -> None:
    """The own session sends no cookies back."""
    seen: list[str | None] = []

    async def cookies(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Cookie"))
        response = web.Response(body=OK)
        response.set_cookie("a", "b")
        return response

    async with transport((await serve_app(cookies)).replace("127.0.0.1", "localhost")) as door:
        await door.send(STATUS, 30.0)
        await door.send(STATUS, 30.0)
    assert seen == [None, None]


# ------------------------------------------------------------------------------ a lent session


async def test_a_lent_session(serve_app: ServeApp) -> None:
    """A lent session is used with its own headers, but for our key, and never closed."""
    seen: list[web.BaseRequest] = []

    async def note(request: web.Request) -> web.Response:
        seen.append(request)
        return web.Response(status=500 if len(seen) == 2 else 200, body=OK)

    origin = await serve_app(note)
    headers = {"X-Mine": "1", "Authorization": "Bearer mine"}
    async with aiohttp.ClientSession(headers=headers, raise_for_status=True) as session:
        async with transport(origin, session=session) as door:
            await door.send(STATUS, 30.0)
            assert (await door.send(SUBMIT, 30.0)).status == 500
        assert not session.closed
        await door.send(STATUS, 30.0)
    assert {request.headers["X-Mine"] for request in seen} == {"1"}
    assert {request.headers["Authorization"] for request in seen} == {f"Bearer {KEY}"}


async def test_a_lent_session_with_credentials(emulate: Emulate) -> None:
    """A lent session that brings credentials of its own is refused, and nothing is sent."""
    emulator = await emulate()
    with pytest.warns(DeprecationWarning, match="auth"):
        session = aiohttp.ClientSession(auth=aiohttp.BasicAuth("me", "secret"))
    async with session, transport(emulator.origin, session=session) as door:
        with pytest.raises(ConfigurationError, match="session"):
            await door.send(SUBMIT, 30.0)
    assert not emulator.requests


async def test_a_lent_session_that_is_closed() -> None:
    """A lent session that is closed is an error that says so."""
    session = aiohttp.ClientSession()
    await session.close()
    async with transport("http://127.0.0.1:1", session=session) as door:
        with pytest.raises(ConfigurationError, match="lent"):
            await door.send(SUBMIT, 30.0)


def test_a_lent_session_of_another_loop() -> None:
    """A lent session that was made on another loop is an error that says so; nothing is sent."""

    async def lend() -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    async def use(session: aiohttp.ClientSession) -> None:
        async with transport("http://127.0.0.1:1", session=session) as door:
            for request in (SUBMIT, STATUS):
                with pytest.raises(ConfigurationError, match="another event loop"):
                    await door.send(request, 30.0)

    with asyncio.Runner() as one:
        session = one.run(lend())
        asyncio.run(use(session))
        one.run(session.close())


# ------------------------------------------------------------------------------- a blocked loop


def test_an_answer_that_came_while_the_loop_was_blocked() -> None:
    """An answer that lies in the socket when a blocked loop passes the deadline is read."""
    answered = threading.Event()

    async def block(door: AiohttpTransport) -> bytes:
        # The service is in a thread, and answers while the loop is blocked.
        sending = asyncio.create_task(door.send(SUBMIT, 0.4))
        while not received.is_set():  # noqa: ASYNC110 - it is set by a thread
            await asyncio.sleep(0)
        answered.set()
        time.sleep(0.8)
        return (await sending).body

    async def main() -> bytes:
        async with transport(f"http://127.0.0.1:{server.getsockname()[1]}") as door:
            return await block(door)

    received = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                data = b""
                while (SUBMIT.body or b"") not in data:
                    data += peer.recv(65536)
                received.set()
                answered.wait(30)
                peer.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + OK)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            assert asyncio.run(main()) == OK
        finally:
            answered.set()
            thread.join()


# ------------------------------------------------------------------------------------- loops


async def test_closing_and_sending_again(emulate: Emulate) -> None:
    """After a close the next request opens a new session; closing nothing is no error."""
    emulator = await emulate()
    async with transport(emulator.origin) as door:
        await door.close()
        await door.send(requests.build_balance(), 30.0)
        await door.close()
        await door.send(requests.build_balance(), 30.0)


@pytest.mark.slow
def test_a_loop_that_was_never_wound_up() -> None:
    """A loop that ends without shutting down its generators leaves no open session."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(3):
                peer, _ = server.accept()
                with peer:
                    while b"\r\n\r\n" not in peer.recv(4096):
                        pass
                    peer.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + OK)

        thread = threading.Thread(target=serve)
        thread.start()
        origin = f"http://127.0.0.1:{server.getsockname()[1]}"
        door = AiohttpTransport(base_url=origin, api_key=KEY, connections=4)
        for _ in range(3):
            loop = asyncio.new_event_loop()
            assert loop.run_until_complete(door.send(STATUS, 30.0)).body == OK
            loop.close()
        asyncio.run(door.close())
        thread.join()
    del door
    gc.collect()


async def test_many_first_requests_share_a_session(emulate: Emulate) -> None:
    """Requests that are the first on a loop, all at once, open one session between them."""
    emulator = await emulate()
    async with transport(emulator.origin) as door:
        await asyncio.gather(*(door.send(requests.build_balance(), 30.0) for _ in range(20)))
    # A second session would be left open, which fails the test at its end.
    assert len(emulator.requests) == 20


# ------------------------------------------------------------------- stale connections, submits


class Deaf:
    """A server that no longer reads from the connections that were open at a moment.

    Like one that closes idle connections, while the closing is still on its way: what is sent
    on them is lost.
    """

    def __init__(self) -> None:
        self.connections = 0
        self.answered = 0
        self.deaf_up_to = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            if number <= self.deaf_up_to:
                return
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(OK), OK))
            await writer.drain()
            self.answered += 1


# aiohttp counts the age of idle connections by the machine's clock, whatever the loop's says: what
# follows really waits, for as long as submits trust an idle connection and a little longer.
async def idle() -> None:
    """Let connections idle for longer than submits trust them."""
    await asyncio.to_thread(time.sleep, 0.105)


async def test_submits_keep_away_from_stale_connections(serve_raw: ServeRaw) -> None:
    """A submit does not use a connection that has idled for a tenth of a second."""
    server = Deaf()
    async with transport(await serve_raw(server)) as door:
        await door.send(SUBMIT, 30.0)
        await idle()
        server.deaf_up_to = server.connections
        await door.send(SUBMIT, 30.0)
    assert server.answered == server.connections == 2


async def test_a_plain_session_loses_submits(serve_raw: ServeRaw) -> None:
    """The same server does lose what a plain session posts: the test above can fail."""
    server = Deaf()
    origin = await serve_raw(server)
    async with aiohttp.ClientSession() as session, transport(origin, session=session) as door:
        await door.send(SUBMIT, 30.0)
        await idle()
        server.deaf_up_to = server.connections
        with pytest.raises(AnswerLostError):
            await door.send(SUBMIT, 30.0)


async def test_a_lent_session_with_our_connector(serve_raw: ServeRaw) -> None:
    """A lent session that has our connector keeps away from stale connections too."""
    server = Deaf()
    origin = await serve_raw(server)
    async with (
        aiohttp.ClientSession(connector=connector(5)) as session,
        transport(origin, session=session) as door,
    ):
        await door.send(SUBMIT, 30.0)
        await idle()
        server.deaf_up_to = server.connections
        await door.send(SUBMIT, 30.0)
    assert server.answered == 2


async def test_submits_do_not_use_the_connections_of_reads(serve_raw: ServeRaw) -> None:
    """A submit does not use a connection that reads have kept open."""
    server = Deaf()
    async with transport(await serve_raw(server)) as door:
        await door.send(STATUS, 30.0)
        server.deaf_up_to = server.connections
        await door.send(SUBMIT, 30.0)
    assert server.answered == 2


async def test_submits_in_a_row_share_connections(serve_raw: ServeRaw) -> None:
    """Submits that follow closely on each other do not open a connection each."""
    server = Deaf()
    async with transport(await serve_raw(server)) as door:
        for _ in range(20):
            await door.send(SUBMIT, 30.0)
    assert server.answered == 20
    assert server.connections < 20


async def test_reads_keep_their_connection(serve_raw: ServeRaw) -> None:
    """Reads use a connection that has idled."""
    server = Deaf()
    async with transport(await serve_raw(server)) as door:
        await door.send(STATUS, 30.0)
        await idle()
        await door.send(STATUS, 30.0)
    assert (server.connections, server.answered) == (1, 2)


async def test_a_read_is_sent_once(serve_raw: ServeRaw) -> None:
    """A read whose connection ends is lost, and not sent again behind the limiter's back."""
    server = Deaf()
    async with transport(await serve_raw(server)) as door:
        await door.send(STATUS, 30.0)
        server.deaf_up_to = 1
        with pytest.raises(AnswerLostError) as caught:
            await door.send(STATUS, 30.0)
    assert caught.value.retryable
    assert (server.connections, server.answered) == (1, 1)


async def test_connections_are_limited(serve_app: ServeApp) -> None:
    """No more connections are open at one time than was said."""
    under_way = most = 0

    async def slow(_: web.Request) -> web.Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(1)
        under_way -= 1
        return web.Response(body=OK)

    async with transport(await serve_app(slow)) as door:
        await asyncio.gather(*(door.send(SUBMIT, 30.0) for _ in range(30)))
        assert most == 10
        await asyncio.gather(*(door.send(STATUS, 30.0) for _ in range(30)))
    assert most == 10
