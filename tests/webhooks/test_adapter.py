from __future__ import annotations

import asyncio
import json
import logging
import random
import tracemalloc
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import pytest
from aiohttp.http_exceptions import HttpProcessingError

from kling_async import KlingClient, MasterTextToVideo
from kling_async.errors import AuthenticationError, RateLimitError
from kling_async.webhooks.inbox import Counts

if TYPE_CHECKING:
    from types import TracebackType

    from tests.conftest import Emulate
    from tests.webhooks.conftest import Answer, Connect, Peer, Serve, Site

# Whatever the framework, each test here is of all edges.
pytestmark = pytest.mark.virtual_time

CHUNKED = "Transfer-Encoding: chunked"
SUCCESS = {"taskId": "task_1", "state": "success", "resultJson": '{"resultUrls": ["https://x/a"]}'}
CALLBACK = json.dumps({"code": 200, "message": "success", "data": SUCCESS}).encode()


def is_empty(answer: Answer) -> bool:
    """Say whether an answer has no body, and says so."""
    return answer.body == b"" and answer.headers["content-length"] == "0"


async def test_a_callback_wakes_a_task(
    serve: Serve, site: Site, emulate: Emulate, connect: Connect
) -> None:
    """A task ends by one callback and the one status call that confirms it."""
    emulator = await emulate()
    inbox = site.inbox()
    kling = KlingClient(emulator.key, base_url=emulator.base_url, inbox=inbox)

    async def act(client: KlingClient) -> str:
        return (await client.generate(MasterTextToVideo("a fox"))).result_urls[0]

    await serve(inbox, kling, act)
    answer = await (await connect()).get("/act")
    assert (answer.status, answer.body[-4:]) == (200, b".mp4")
    assert inbox.counts == Counts(delivered=1)
    assert [delivery.status for delivery in emulator.deliveries] == [200]
    assert [arrival.kind for arrival in emulator.requests].count("status") == 1


async def test_answers(serve: Serve, site: Site, connect: Connect) -> None:
    """Each request is answered with what the inbox says, and an empty body."""
    await serve(site.inbox(max_body_bytes=1_000))
    for path, body, status in (
        (site.path, CALLBACK, 200),
        (f"{site.path}?from=a-gateway", CALLBACK, 200),
        (site.path.replace("~", "%7E"), CALLBACK, 200),
        (site.path, b"", 400),
        (site.path, b"\xff{", 400),
        (f"{site.path}x", CALLBACK, 404),
        ("/kling/something", CALLBACK, 404),
        (site.path, b" " * 1_000, 400),
        (site.path, b" " * 1_001, 413),
    ):
        peer = await connect()
        await peer.post(path, body)
        answer = await peer.answer()
        assert (answer.status, is_empty(answer)) == (status, True), (path, body)


async def test_other_methods(serve: Serve, site: Site, connect: Connect) -> None:
    """A request to a valid URL that is not a POST is answered with 405 and Allow."""
    await serve(site.inbox())
    for method in ("GET", "PUT", "DELETE", "OPTIONS", "PATCH"):
        peer = await connect()
        await peer.send(f"{method} {site.path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = await peer.answer()
        assert (answer.status, answer.headers["allow"], is_empty(answer)) == (405, "POST", True)


async def test_a_connection_may_be_used_again(serve: Serve, site: Site, connect: Connect) -> None:
    """Callbacks may come one after another on one connection."""
    await serve(site.inbox())
    peer = await connect()
    for path, status in ((site.path, 200), (site.path, 200), ("/kling/no-token", 404)):
        await peer.post(path, CALLBACK if status == 200 else b"")
        answer = await peer.answer()
        assert (answer.status, answer.headers.get("connection")) == (status, None)


@pytest.mark.parametrize("length", ["Content-Length: 60000", CHUNKED])
async def test_a_forged_callback_is_refused_before_its_body(
    serve: Serve, site: Site, connect: Connect, length: str
) -> None:
    """Without a token of ours the body is not waited for, and the connection ends."""
    await serve(site.inbox())
    peer = await connect()
    began = asyncio.get_running_loop().time()
    await peer.post(f"{site.path}x", header=length)
    answer = await peer.answer()
    assert asyncio.get_running_loop().time() - began < 1
    assert (answer.status, answer.headers["connection"]) == (404, "close")
    assert await peer.rest() == b""


async def test_an_announced_flood_is_refused_before_its_body(
    serve: Serve, site: Site, connect: Connect
) -> None:
    """A body that is said to be too large is not read, and the connection ends."""
    await serve(site.inbox())
    peer = await connect()
    began = asyncio.get_running_loop().time()
    await peer.post(site.path, b" " * 100, length=65_537)
    answer = await peer.answer()
    assert asyncio.get_running_loop().time() - began < 1
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert await peer.rest() == b""


async def test_bodies_come_in_pieces(serve: Serve, site: Site, connect: Connect) -> None:
    """A body that takes nine seconds, and says its length only by its end, is taken."""
    await serve(site.inbox())
    peer = await connect()
    await peer.post(site.path, header=CHUNKED)
    size = len(CALLBACK) // 9 + 1
    for start in range(0, len(CALLBACK), size):
        piece = CALLBACK[start : start + size]
        await peer.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        await asyncio.sleep(1)
    await peer.send(b"0\r\n\r\n")
    assert (await peer.answer()).status == 200


@pytest.mark.parametrize("every", [0.0, 1.0])
async def test_slow_bodies_are_cut(
    serve: Serve, site: Site, connect: Connect, every: float
) -> None:
    """After ten seconds a body that is not there yet is given up, even if it trickles in."""
    inbox = site.inbox()
    await serve(inbox)
    peer = await connect()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await peer.post(site.path, b"{", length=1_000)
    answering = asyncio.create_task(peer.answer())
    while every and not answering.done():
        await peer.send(b" ")
        await asyncio.sleep(every)
    answer = await answering
    assert loop.time() - began == pytest.approx(10, abs=1.1)
    assert (answer.status, answer.headers["connection"]) == (408, "close")
    assert is_empty(answer)
    assert await peer.rest() == b""
    assert loop.time() - began < 12
    assert inbox.counts == Counts()


async def flood(peer: Peer, piece: bytes, pieces: int) -> int:
    """Send for as long as the server lets us; return the most memory that was in use meanwhile."""
    tracemalloc.start()
    try:
        with suppress(ConnectionError):
            for _ in range(pieces):
                await peer.send(piece)
                await asyncio.sleep(0)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


async def test_endless_bodies_take_no_memory(serve: Serve, site: Site, connect: Connect) -> None:
    """Of a body without an end no more is kept than the largest that is read."""
    inbox = site.inbox()
    await serve(inbox)
    peer = await connect()
    await peer.post(site.path, header=CHUNKED)
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    assert await flood(peer, piece, 400) < 3_000_000
    assert inbox.counts == Counts(too_large=1)


@pytest.mark.parametrize("line", [b"x" * 0x1000, b"x: " + b"y" * 0x1000 + b"\r\n"])
async def test_endless_headers_take_no_memory(
    serve: Serve, site: Site, connect: Connect, line: bytes
) -> None:
    """Servers keep no more of a request's head than a few headers need."""
    await serve(site.inbox())
    peer = await connect()
    await peer.send(b"POST /kling/x HTTP/1.1\r\nHost: x\r\n")
    assert await flood(peer, line, 5_000) < 3_000_000


@pytest.mark.parametrize("body", [b"", b'{"code": 200'])
async def test_clients_may_go(
    serve: Serve, site: Site, connect: Connect, caplog: pytest.LogCaptureFixture, body: bytes
) -> None:
    """A client that disconnects in the middle of a body leaves nothing behind, and no log."""
    caplog.set_level(logging.INFO)
    inbox = site.inbox()
    await serve(inbox)
    caplog.clear()
    for header in ("Content-Length: 1000", CHUNKED):
        peer = await connect()
        await peer.post(site.path, b"%x\r\n%s" % (100, body), header=header)
        await asyncio.sleep(0.1)
        await peer.leave()
    assert not caplog.records
    assert inbox.counts == Counts()
    peer = await connect()
    await peer.post(site.path, CALLBACK)
    assert (await peer.answer()).status == 200


async def test_garbage(
    serve: Serve, site: Site, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever bytes come, none of them is a server error, and the server continues."""
    await serve(site.inbox())
    dice = random.Random(4)  # noqa: S311 - garbage, not secrets
    start = f"POST {site.path} HTTP/1.1\r\nHost: x\r\n".encode()
    broken = [
        start + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        start + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}}}}}\r\n0\r\n\r\n",
        start + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\xff\xff\xff\xff",
        start + b"Content-Encoding: deflate\r\nContent-Length: 2\r\n\r\n{}",
        start + b"Content-Length: \xb2\r\n\r\n{}",
        start + b"Content-Length: -5\r\n\r\n{}",
        start + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}{}{}",
        start + b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n{}",
        start + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\n{}",
        start + b"Content-Length: 2\r\n\r\n" + dice.randbytes(2),
    ]
    for _ in range(60):
        path = dice.randbytes(dice.randrange(1, 200)).hex()
        quoted = "".join(f"%{byte:02x}" for byte in dice.randbytes(20))
        body = dice.randbytes(dice.randrange(300))
        head = f"POST /kling/{dice.choice([path, quoted])} HTTP/1.1\r\nHost: x\r\n"
        broken += [
            head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body,
            start + b"Content-Length: %d\r\n\r\n" % len(body) + body,
            dice.randbytes(dice.randrange(1, 300)) + b"\r\n\r\n",
        ]
    for data in broken:
        peer = await connect()
        await peer.send(data)
        rest = asyncio.create_task(peer.rest())
        await asyncio.wait([rest], timeout=1)
        if rest.done():
            assert not rest.result().startswith(b"HTTP/1.1 5"), data
        else:
            rest.cancel()
            await peer.leave()
    # Of broken HTTP servers write what they like, of errors in applications they have a trace.
    traces = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert not [error for error in traces if not isinstance(error, HttpProcessingError)]
    peer = await connect()
    await peer.post(site.path, CALLBACK)
    assert (await peer.answer()).status == 200


async def test_tokens_are_not_logged(
    serve: Serve, site: Site, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing that this package logs of a callback has its path in it."""
    caplog.set_level(logging.DEBUG, "kling_async")
    await serve(site.inbox(max_body_bytes=1_000))
    token = site.path.rpartition("/")[2]
    for path, body in ((site.path, CALLBACK), (f"{site.path}x", b""), (site.path, b"x" * 2_000)):
        peer = await connect()
        await peer.post(path, body)
        await peer.answer()
    ours = [record for record in caplog.records if record.name == "kling_async"]
    assert ours
    assert not [record for record in ours if token[-16:] in record.getMessage()]


class Noted(KlingClient):
    """A client that notes when it is opened and closed."""

    made = 0
    open = False

    async def __aenter__(self) -> Self:
        type(self).made += 1
        self.open = True
        return await super().__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.open = False
        await super().__aexit__(kind, error, traceback)


async def test_the_client_lives_as_long_as_the_server(serve: Serve, site: Site) -> None:
    """The client is entered when the server starts, and closed when it ends."""
    kling = Noted("key", base_url="http://127.0.0.1:9")
    end = await serve(site.inbox(), kling)
    assert kling.open
    await end()
    assert not kling.open


async def test_the_client_may_be_made_at_the_start(
    serve: Serve, site: Site, connect: Connect
) -> None:
    """A function instead of a client is called when the server starts; handlers have its client."""
    seen = set()

    async def act(kling: KlingClient) -> str:
        assert isinstance(kling, Noted)
        seen.add(kling)
        return str(kling.open)

    def make() -> KlingClient:
        return Noted("key", base_url="http://127.0.0.1:9")

    before = Noted.made
    end = await serve(site.inbox(), make, act)
    for _ in range(2):
        assert (await (await connect()).get("/act")).body == b"True"
    assert (Noted.made - before, len(seen)) == (1, 1)
    await end()
    assert not seen.pop().open


async def test_errors_are_answered(
    serve: Serve, site: Site, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of this package becomes problem+json; its words go to the log only."""

    async def act(kling: KlingClient) -> str:
        raise RateLimitError(f"too many at {kling!r}", retry_after=7.2, retryable=True)

    await serve(site.inbox(), None, act)
    answer = await (await connect()).get("/act")
    assert (answer.status, answer.headers["retry-after"]) == (503, "8")
    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.body) == {
        "type": "urn:kling-async:busy",
        "title": "Busy",
        "status": 503,
        "detail": "Too many videos are being made.",
        "may_have_charged": False,
        "retryable": True,
    }
    (record,) = [record for record in caplog.records if record.name == "kling_async"]
    assert record.getMessage().startswith("answered 503: RateLimitError: too many at <KlingClient")
    assert record.exc_info is None


async def test_our_own_faults_are_logged_with_their_place(
    serve: Serve, site: Site, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """What is wrong with the server itself is a 500 without details, and a traceback in the log."""

    async def act(kling: KlingClient) -> str:
        raise AuthenticationError(f"the key of {kling!r} is wrong", status=401)

    await serve(site.inbox(), None, act)
    answer = await (await connect()).get("/act")
    assert (answer.status, b"key" in answer.body) == (500, False)
    (record,) = [record for record in caplog.records if record.name == "kling_async"]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], AuthenticationError)


async def test_the_callers_faults_are_not_logged(
    serve: Serve, site: Site, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong input is the caller's, and no affair of the server's log."""

    async def act(kling: KlingClient) -> str:
        del kling
        return str(MasterTextToVideo(""))

    await serve(site.inbox(), None, act)
    answer = await (await connect()).get("/act")
    problem = json.loads(answer.body)
    assert (answer.status, problem["problems"][0]["field"]) == (422, "prompt")
    assert not [record for record in caplog.records if record.name == "kling_async"]


async def test_other_errors_are_the_frameworks(serve: Serve, site: Site, connect: Connect) -> None:
    """What this package has not raised is answered as it always was."""

    async def act(kling: KlingClient) -> str:
        raise LookupError(repr(kling))

    await serve(site.inbox(), None, act)
    answer = await (await connect()).get("/act")
    assert (answer.status, answer.headers["content-type"]) == (
        500,
        "text/plain; charset=utf-8",
    )
