"""The inbox as a plain ASGI application, for any framework and server that speaks ASGI.

::

    kling = KlingClient(inbox=inbox)
    app = asgi.lifespan(kling, asgi.app(inbox))  # alone, as under uvicorn
    routes = [Mount("/kling", asgi.app(inbox)), ...]  # or anywhere in an application
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager, suppress
from typing import TYPE_CHECKING, Final, cast

from attrs import frozen

from kling_async.errors import KlingError
from kling_async.webhooks import _adapter as _edge
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
"""Where the client is in ``scope["state"]``."""

_METHOD_NOT_ALLOWED: Final = 405

_log = logging.getLogger("kling_async")


def app(inbox: Inbox) -> App:
    """Return the application that takes callbacks, at any path it is given."""
    return _Callbacks(inbox)


def lifespan(client: _edge.Client, app: App, *, relay: Relay | None = None) -> App:
    """Wrap an application: the client is opened when the server starts, and closed when it ends.

    The application's own start comes after it, and its own end before. One that knows nothing
    of the lifespan protocol is left alone.

    Args:
        client: A client, or a function that makes one, to be called when the server starts.
        app: The application.
        relay: What shares the inbox's callbacks with other processes meanwhile.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(_edge.opened(client, relay), app, scope, receive, send)
        else:
            await app(scope, receive, send)

    return wrapped


def client(scope: Mapping[str, object]) -> KlingClient:
    """Return the client that :func:`lifespan` has opened, by the scope of a request.

    Raises:
        ConfigurationError: There is none.
    """
    state = scope.get("state")
    kling = state.get(STATE) if isinstance(state, Mapping) else None
    if kling is None:
        raise _edge.missing("wrap the application in asgi.lifespan(kling, app), and run it so")
    return cast("KlingClient", kling)


def answer_errors(app: App) -> App:
    """Wrap an application: errors of this package become answers, as ``webhooks.errors`` says."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        started = scope["type"] != "http"

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await app(scope, receive, watched)
        except KlingError as error:
            if started:  # too late for another answer
                raise
            answer = _edge.answered(error)
            await _answer(send, answer.status, answer.headers.items(), answer.body)

    return wrapped


# An instance of a class: Starlette takes functions to be handlers of its own kind.
@frozen
class _Callbacks:
    _inbox: Inbox

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._take(scope, receive, send)
            case "lifespan":
                await _idle(receive, send)
            case _:  # a WebSocket: declined
                await send({"type": "websocket.close"})

    async def _take(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(cast("Iterable[tuple[bytes, bytes]]", scope["headers"]))
        announced = headers.get(b"content-length", b"")
        length = int(announced[:18]) if announced.isdigit() else None
        body = _Body(receive)
        status = await _edge.receive(
            self._inbox,
            str(scope["method"]),
            str(scope["path"]),
            cast("bytes", scope.get("query_string", b"")).decode("latin-1"),
            length,
            body.read,
        )
        answer = {"Allow": "POST"} if status == _METHOD_NOT_ALLOWED else {}
        unread = not body.ended and (length or b"transfer-encoding" in headers)
        # Else servers go on reading what nobody wants. Later versions of HTTP have no such header.
        if unread and str(scope.get("http_version", "1.1")).startswith("1"):
            answer["Connection"] = "close"
        with suppress(OSError):  # what newer servers raise if the client has gone
            await _answer(send, status, answer.items())


class _Body:
    """The body of a request, piece by piece."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False

    async def read(self) -> bytes:
        while not self.ended:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError("the client has gone")
            self.ended = not message.get("more_body")
            if piece := message.get("body"):
                return cast("bytes", piece)
        return b""


async def _answer(
    send: Send, status: int, headers: Iterable[tuple[str, str]], body: bytes = b""
) -> None:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers]
    raw.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


async def _live(
    opening: AbstractAsyncContextManager[KlingClient],
    app: App,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Live through a server's lifespan with a client open, and an application inside of it."""
    phase, last = "startup", cast("Message | None", None)
    takes_part = False

    async def heard() -> Message:
        nonlocal takes_part
        takes_part = True
        return await receive()

    async def told(message: Message) -> None:
        nonlocal phase, last, takes_part
        takes_part = True
        if message["type"] == "lifespan.startup.complete":
            phase = "shutdown"
            await send(message)
        else:
            last = message  # and is passed on when the client is closed, too

    try:
        async with opening as kling:
            cast("MutableMapping[str, object]", scope.setdefault("state", {}))[STATE] = kling
            try:
                await app(scope, heard, told)
            except Exception:
                if takes_part:
                    raise
                # By the protocol, that is how an application says that it knows no lifespan.
                _log.debug("the application takes no part in the lifespan", exc_info=True)
            if not takes_part:
                await _idle(receive, told)
    except Exception:
        if last is None or last["type"] == "lifespan.shutdown.complete":
            last = {"type": f"lifespan.{phase}.failed", "message": traceback.format_exc()}
        raise
    finally:
        if last is not None:
            await send(last)


async def _idle(receive: Receive, send: Send) -> None:
    """Start and end as the server says, with nothing to do."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
