"""The inbox in an aiohttp application.

::

    kling = KlingClient(inbox=inbox)
    app = web.Application(middlewares=[aiohttp.answer_errors])
    app.cleanup_ctx.append(aiohttp.lifespan(kling))
    app.add_routes(aiohttp.routes(inbox, prefix="/kling"))

    kling = aiohttp.client(request)  # in a handler
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from kling_async.client import KlingClient
from kling_async.errors import KlingError
from kling_async.webhooks import _adapter as _edge

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from kling_async.webhooks.inbox import Inbox
    from kling_async.webhooks.relay.relay import Relay

CLIENT: Final = web.AppKey("kling_client", KlingClient)
"""Where the client is in the application."""

_METHOD_NOT_ALLOWED: Final = 405


def routes(inbox: Inbox, *, prefix: str = "") -> list[web.RouteDef]:
    """Return the routes that take callbacks, for ``add_routes``.

    Args:
        inbox: What takes them.
        prefix: The path before the token, such as ``/kling``.
    """

    async def take(request: web.Request) -> web.Response:
        async def read() -> bytes:
            try:
                return await request.content.readany()
            except (web.RequestPayloadError, HttpProcessingError) as error:
                raise ConnectionResetError("the body broke off") from error

        status = await _edge.receive(
            inbox,
            request.method,
            request.path,
            request.query_string,
            request.content_length,
            read,
        )
        allow = {"Allow": "POST"} if status == _METHOD_NOT_ALLOWED else {}
        response = web.Response(status=status, headers=allow)
        if not request.content.is_eof():
            response.force_close()
            with suppress(ConnectionError):  # the client may have gone
                await response.prepare(request)
                await response.write_eof()
            # Else aiohttp goes on reading for ten seconds what nobody wants.
            request.protocol.force_close()
        return response

    return [web.route("*", f"{prefix}/{{token:[^/]+}}", take)]


def lifespan(
    client: _edge.Client, *, relay: Relay | None = None
) -> Callable[[web.Application], AsyncIterator[None]]:
    """Return what opens and closes the client, for ``app.cleanup_ctx``.

    Args:
        client: A client, or a function that makes one, to be called when the server starts.
        relay: What shares the inbox's callbacks with other processes meanwhile.
    """

    async def live(app: web.Application) -> AsyncIterator[None]:
        async with _edge.opened(client, relay) as kling:
            app[CLIENT] = kling
            yield

    return live


def client(request: web.Request) -> KlingClient:
    """Return the client that :func:`lifespan` has opened, also within sub-applications.

    Raises:
        ConfigurationError: There is none.
    """
    kling = request.config_dict.get(CLIENT)
    if kling is None:
        raise _edge.missing("append aiohttp.lifespan(kling) to app.cleanup_ctx")
    return kling


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let errors of this package become answers, as ``webhooks.errors`` says: a middleware."""
    try:
        return await handler(request)
    except KlingError as error:
        if request.writer.output_size:  # too late for another answer
            raise
        answer = _edge.answered(error)
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)
