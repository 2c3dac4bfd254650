from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from kling_async import KlingClient
from kling_async.errors import ConfigurationError, InputError
from kling_async.webhooks import asgi

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.webhooks.conftest import Connect, Run, Site

pytestmark = pytest.mark.virtual_time


class Server:
    """What an application sees of a server: a few messages come, and what it sends is kept."""

    def __init__(self) -> None:
        self.messages: list[asgi.Message] = []
        self.sent: list[asgi.Message] = []
        self.state: dict[str, object] = {}

    async def receive(self) -> asgi.Message:
        return self.messages.pop(0)

    async def send(self, message: asgi.Message) -> None:
        self.sent.append(message)

    @property
    def sent_types(self) -> list[object]:
        return [message["type"] for message in self.sent]

    async def live(self, app: asgi.App) -> None:
        self.messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
        await app({"type": "lifespan", "state": self.state}, self.receive, self.send)

    async def ask(
        self, app: asgi.App, headers: Iterable[tuple[bytes, bytes]] = (), version: str = "1.1"
    ) -> dict[bytes, bytes]:
        scope: asgi.Scope = {
            "type": "http",
            "http_version": version,
            "method": "POST",
            "path": "/kling/forged",
            "headers": list(headers),
        }
        await app(scope, self.receive, self.send)
        return dict(self.sent[0]["headers"])  # type: ignore[call-overload,no-any-return] # as ASGI has it


def idle() -> KlingClient:
    """Return a client that sends nothing."""
    return KlingClient("key", base_url="http://127.0.0.1:9")


async def test_alone(site: Site, run: Run, connect: Connect) -> None:
    """The application runs by itself: at any path, without a client, too."""
    await run(asgi.app(site.inbox()))
    for path in (site.path, site.path.removeprefix("/kling"), f"/some/where{site.path}"):
        peer = await connect()
        await peer.post(path, b'{"data": {"taskId": "t", "state": "pending"}}')
        assert (await peer.answer()).status == 200


async def test_websockets_are_declined(site: Site) -> None:
    """A WebSocket is closed before it is opened."""
    server = Server()
    await asgi.app(site.inbox())({"type": "websocket"}, server.receive, server.send)
    assert server.sent == [{"type": "websocket.close"}]


async def test_later_versions_of_http(site: Site) -> None:
    """HTTP/2 has no header that closes a connection, and must not be given one."""
    unread = [(b"content-length", b"10")]
    app = asgi.app(site.inbox())
    assert (await Server().ask(app, unread))[b"connection"] == b"close"
    assert b"connection" not in await Server().ask(app, unread, "2")
    assert b"connection" not in await Server().ask(app)


async def test_lengths_that_are_none(site: Site) -> None:
    """A length that is no number, which some servers let through, is not believed."""
    app = asgi.app(site.inbox())
    for length in (b"ten", b"-1", b"\xb2", b""):
        assert b"connection" not in await Server().ask(app, [(b"content-length", length)])
    assert await Server().ask(app, [(b"content-length", b"9" * 5_000)])


async def test_answers_without_a_client(site: Site) -> None:
    """Servers that refuse to answer a client that has gone are not complained to."""

    async def send(message: asgi.Message) -> None:
        raise OSError(str(message["type"]))

    scope: asgi.Scope = {"type": "http", "method": "POST", "path": "/forged", "headers": []}
    await asgi.app(site.inbox())(scope, Server().receive, send)


async def test_the_client_outlives_the_application() -> None:
    """The client is open before the application starts and closed after it has ended."""
    story = []

    class Noisy(KlingClient):
        async def close(self) -> None:
            story.append("closed")
            await super().close()

    async def app(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        for _ in range(2):
            kind = str((await receive())["type"])
            story.append(f"{kind} with {type(asgi.client(scope)).__name__}")
            await send({"type": f"{kind}.complete"})

    server = Server()
    await server.live(asgi.lifespan(Noisy("key", base_url="http://127.0.0.1:9"), app))
    assert story == ["lifespan.startup with Noisy", "lifespan.shutdown with Noisy", "closed"]
    assert server.sent_types == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def _refuses(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
    raise NotImplementedError(scope["type"])


async def _returns(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
    pass


@pytest.mark.parametrize("app", [_refuses, _returns])
async def test_applications_without_a_lifespan(
    app: asgi.App, caplog: pytest.LogCaptureFixture
) -> None:
    """An application that knows no lifespan has a client all the same."""
    caplog.set_level(logging.WARNING)
    server = Server()
    await server.live(asgi.lifespan(idle(), app))
    assert server.sent_types == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert isinstance(asgi.client({"state": server.state}), KlingClient)
    assert not caplog.records


async def test_applications_that_leave_early() -> None:
    """For an application that ends before the server does, nothing more is said."""

    async def app(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        await send({"type": "lifespan.startup.complete"})

    server = Server()
    await server.live(asgi.lifespan(idle(), app))
    assert server.sent_types == ["lifespan.startup.complete"]


async def test_a_client_that_cannot_be_made() -> None:
    """The server does not start without the client, and says why."""

    def make() -> KlingClient:
        raise ConfigurationError("there is no key")

    server = Server()
    with pytest.raises(ConfigurationError):
        await server.live(asgi.lifespan(make, _returns))
    assert server.sent_types == ["lifespan.startup.failed"]
    assert str(server.sent[0]["message"]).endswith("ConfigurationError: there is no key\n")


async def test_an_application_that_does_not_start() -> None:
    """An application that fails at its start is not taken for one that knows no lifespan."""

    async def app(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        await receive()
        raise LookupError("no database")

    server = Server()
    with pytest.raises(LookupError):
        await server.live(asgi.lifespan(idle(), app))
    assert server.sent_types == ["lifespan.startup.failed"]
    assert "no database" in str(server.sent[0]["message"])


@pytest.mark.parametrize("phase", ["startup", "shutdown"])
async def test_failures_that_the_application_reports(phase: str) -> None:
    """The application's own report of its failure is sent to the server."""
    failed: asgi.Message = {"type": f"lifespan.{phase}.failed", "message": "its own words"}

    async def app(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        if phase == "shutdown":
            await send({"type": "lifespan.startup.complete"})
        await receive()
        await send(failed)
        raise LookupError

    server = Server()
    with pytest.raises(LookupError):
        await server.live(asgi.lifespan(idle(), app))
    assert server.sent[-1] == failed
    assert len(server.sent) == (2 if phase == "shutdown" else 1)


async def test_a_client_that_does_not_close() -> None:
    """If the client cannot be closed, the server gets a failure, not a completed shutdown."""

    class Stuck(KlingClient):
        async def close(self) -> None:
            raise OSError("cannot close")

    server = Server()
    with pytest.raises(OSError, match="cannot close"):
        await server.live(asgi.lifespan(Stuck("key", base_url="http://127.0.0.1:9"), _returns))
    assert server.sent_types == ["lifespan.startup.complete", "lifespan.shutdown.failed"]


@pytest.mark.parametrize("scope", [{}, {"state": {}}, {"state": None}])
async def test_no_client(scope: dict[str, object]) -> None:
    """Without the lifespan, the error says what to do."""
    with pytest.raises(ConfigurationError, match=r"asgi\.lifespan"):
        asgi.client(scope)


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_errors_that_come_too_late(kind: str) -> None:
    """After an answer has begun, and outside of HTTP, an error reaches the server."""

    async def app(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        if kind == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise InputError("too late")

    server = Server()
    with pytest.raises(InputError):
        await asgi.answer_errors(app)({"type": kind}, server.receive, server.send)
    assert len(server.sent) == (1 if kind == "http" else 0)
