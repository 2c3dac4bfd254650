"""The inbox as a plain ASGI application, for any framework and server that supports ASGI.

::

    kling = KlingClient(inbox=inbox)
    app = asgi.lifespan(kling, asgi.app(inbox))  # alone, as under uvicorn
    routes = [Mount("/kling", asgi.app(inbox)), ...]  # or mounted in an application
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager, suppress
from typing import TYPE_CHECKING, Final, cast

from attrs import frozen

from kling_async.errors import KlingError
from kling_async.webhooks import _adapter
from kling_async.webhooks.inbox import Inbox

if TYPE_CHECKING:
    from kling_async.client import KlingClient
    from kling_async.webhooks.relay.relay import Relay

Scope = MutableMapping[str, object]
Message = MutableMapping[str, object]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

STATE: Final = "kling_client"
"""The key of the client in ``scope["state"]``."""

_log = logging.getLogger("kling_async")


def app(inbox: Inbox) -> App:
    """Return the application that receives callbacks, at any path."""
    return _CallbackApp(inbox)


def lifespan(client: _adapter.Client, app: App, *, relay: Relay | None = None) -> App:
    """Wrap an application: open the client when the server starts, close it when it stops.

    The client is open before the application's own startup and until after its shutdown. The
    application need not support the lifespan protocol.

    ``client`` may be a function that creates one, called when the server starts. A ``relay`` is
    open as long as the client is.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            opening = _adapter.open_client(client, relay)
            await _run_lifespan(opening, app, scope, receive, send)
        else:
            await app(scope, receive, send)

    return wrapped


def client(scope: Mapping[str, object]) -> KlingClient:
    """Return the client that :func:`lifespan` has opened, else raise `ConfigurationError`."""
    return find_client(scope, "wrap the application in asgi.lifespan(kling, app)")


def find_client(scope: Mapping[str, object], remedy: str) -> KlingClient:
    """Return the open client, else raise `ConfigurationError` with the remedy and the cause."""
    state = scope.get("state")
    kling = state.get(STATE) if isinstance(state, Mapping) else None
    return _adapter.require_client(kling, remedy if kling else remedy + _lifespan_hint(scope))


def _lifespan_hint(scope: Mapping[str, object]) -> str:
    """Return why the lifespan may not have run, as far as a request shows it."""
    causes = []
    if "app_root_path" in scope:  # set by Starlette's Mount
        causes.append(
            "this application is mounted, where its own lifespan never runs: only that of the"
            " outermost application does"
        )
    peer = scope.get("client")
    if isinstance(peer, list | tuple) and peer and peer[0] == "testclient":
        causes.append("a TestClient runs the lifespan only in a `with` statement")
    elif "state" not in scope:
        causes.append("this server runs no lifespan (httpx.ASGITransport does not, either)")
    else:
        causes.append("a server with lifespan support must run it (not uvicorn --lifespan off)")
    return "".join(f"; {cause}" for cause in causes)


def answer_errors(app: App) -> App:
    """Wrap an application: respond to errors as ``webhooks.problem_details`` defines."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        started = scope["type"] != "http"

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await app(scope, receive, watched_send)
        except KlingError as error:
            if started:  # too late for another response
                raise
            response = _adapter.error_response(error)
            await _respond(send, response.status, response.headers, response.body)

    return wrapped


# An instance, since Starlette takes functions to be handlers of its own kind.
@frozen
class _CallbackApp:
    _inbox: Inbox

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _acknowledge(receive, send)
            return
        if scope["type"] != "http":  # a WebSocket: declined
            await send({"type": "websocket.close"})
            return
        request_headers = dict(cast("Iterable[tuple[bytes, bytes]]", scope["headers"]))
        announced = request_headers.get(b"content-length", b"")
        length = int(announced[:18]) if announced.isdigit() else None
        complete = False

        async def read() -> bytes:
            nonlocal complete
            while not complete:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ConnectionResetError("the client has disconnected")
                complete = not message.get("more_body")
                if chunk := message.get("body"):
                    return cast("bytes", chunk)
            return b""

        method, path = str(scope["method"]), str(scope["path"])
        status = await self._inbox.receive(method, path, length, read)
        headers = dict(_adapter.HEADERS.get(status, {}))
        unread = not complete and (length or b"transfer-encoding" in request_headers)
        # Otherwise servers continue to read the body. HTTP/2 and later have no such header.
        if unread and str(scope.get("http_version", "1.1")).startswith("1"):
            headers["Connection"] = "close"
        with suppress(OSError):  # raised by newer servers if the client has disconnected
            await _respond(send, status, headers)


async def _respond(send: Send, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
    raw = [(b"content-length", b"%d" % len(body))]
    for name, value in headers.items():
        raw.append((name.lower().encode(), value.encode()))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


async def _run_lifespan(
    opening: AbstractAsyncContextManager[KlingClient],
    app: App,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Run the lifespan of an application inside that of a client."""
    phase, last = "startup", cast("Message | None", None)
    supported = False

    async def watched_receive() -> Message:
        nonlocal supported
        supported = True
        return await receive()

    async def watched_send(message: Message) -> None:
        nonlocal phase, last, supported
        supported = True
        if message["type"] == "lifespan.startup.complete":
            phase = "shutdown"
            await send(message)
        else:
            last = message  # sent once the client is closed

    try:
        async with opening as kling:
            cast("MutableMapping[str, object]", scope.setdefault("state", {}))[STATE] = kling
            try:
                await app(scope, watched_receive, watched_send)
            except Exception:
                if supported:
                    raise
                # As the protocol defines: the application does not support lifespans.
                _log.debug("the application does not support the lifespan protocol", exc_info=True)
            if not supported:
                await _acknowledge(receive, watched_send)
    except Exception:
        if last is None or last["type"] == "lifespan.shutdown.complete":
            last = {"type": f"lifespan.{phase}.failed", "message": traceback.format_exc()}
        raise
    finally:
        if last is not None:
            await send(last)


async def _acknowledge(receive: Receive, send: Send) -> None:
    """Acknowledge a server's startup and shutdown."""
    kind = ""
    while kind != "lifespan.shutdown":
        kind = str((await receive())["type"])
        await send({"type": f"{kind}.complete"})
