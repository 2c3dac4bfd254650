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
from kling_async.webhooks import _adapter

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from kling_async.webhooks.inbox import Inbox
    from kling_async.webhooks.relay.relay import Relay

CLIENT: Final = web.AppKey("kling_client", KlingClient)
"""The key of the client in the application."""


def routes(inbox: Inbox, *, prefix: str = "") -> list[web.RouteDef]:
    """Return the routes that receive callbacks below a prefix such as ``/kling``."""

    async def receive(request: web.Request) -> web.Response:
        async def read() -> bytes:
            try:
                return await request.content.readany()
            except (web.RequestPayloadError, HttpProcessingError) as error:
                raise ConnectionResetError("the body is incomplete") from error

        status = await inbox.receive(request.method, request.path, request.content_length, read)
        response = web.Response(status=status, headers=_adapter.HEADERS.get(status))
        if not request.content.is_eof():
            response.force_close()
            with suppress(ConnectionError):  # the client may have disconnected
                await response.prepare(request)
                await response.write_eof()
            # Otherwise aiohttp continues to read the body for ten seconds.
            request.protocol.force_close()
        return response

    return [web.route("*", f"{prefix}/{{token:[^/]+}}", receive)]


def lifespan(
    client: _adapter.Client, *, relay: Relay | None = None
) -> Callable[[web.Application], AsyncIterator[None]]:
    """Return a generator for ``app.cleanup_ctx`` that opens and closes the client.

    ``client`` may be a function that creates one, called when the server starts. A ``relay`` is
    open as long as the client is.
    """

    async def client_context(app: web.Application) -> AsyncIterator[None]:
        async with _adapter.open_client(client, relay) as kling:
            app[CLIENT] = kling
            yield

    return client_context


def client(request: web.Request) -> KlingClient:
    """Return the client that :func:`lifespan` has opened, else raise `ConfigurationError`.

    It is found within sub-applications, too.
    """
    kling = request.config_dict.get(CLIENT)
    return _adapter.require_client(kling, "append aiohttp.lifespan(kling) to app.cleanup_ctx")


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Respond to errors as ``webhooks.problem_details`` defines: a middleware."""
    try:
        return await handler(request)
    except KlingError as error:
        if request.writer.output_size:  # too late for another response
            raise
        response = _adapter.error_response(error)
        return web.Response(status=response.status, headers=response.headers, body=response.body)
