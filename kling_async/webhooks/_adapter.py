"""What the adapters share: reading a callback's body, opening the client, reporting errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Final

from kling_async.client import KlingClient
from kling_async.errors import ConfigurationError, KlingError
from kling_async.webhooks.problem_details import ProblemResponse, to_response

if TYPE_CHECKING:
    from kling_async.webhooks.inbox import Inbox
    from kling_async.webhooks.relay.relay import Relay

Client = KlingClient | Callable[[], KlingClient]
"""A client, or a function that creates one when the server starts."""

HEADERS: Final[Mapping[int, Mapping[str, str]]] = {405: {"Allow": "POST"}}
"""The headers of a response to a callback, by its status."""

# Seconds. A callback is a few hundred bytes, and arrives together with its headers.
_BODY_TIMEOUT: Final = 10.0

_log = logging.getLogger("kling_async")


async def receive_callback(
    inbox: Inbox, method: str, path: str, length: int | None, read: Callable[[], Awaitable[bytes]]
) -> int:
    """Pass a request to an inbox; return the HTTP status of the response.

    The body is read only if the token is valid, and not beyond the inbox's limit. ``read`` returns
    the next bytes of the body, and ``b""`` at its end; it raises `ConnectionError` if the body is
    incomplete. ``length`` is the announced size, if any.
    """
    token = inbox.verify(method, path, length)
    if isinstance(token, int):
        return token
    body = bytearray()
    limit = inbox.max_body_bytes + 1  # from one byte too many the inbox sees that it is too large
    try:
        async with asyncio.timeout(_BODY_TIMEOUT):
            while len(body) < limit and (chunk := await read()):
                body += chunk[: limit - len(body)]
    except TimeoutError:
        return 408
    except ConnectionError:  # the client will not receive this response
        return 400
    return inbox.deliver(token, bytes(body))


@asynccontextmanager
async def open_client(client: Client, relay: Relay | None = None) -> AsyncIterator[KlingClient]:
    """Open a client, and the relay around it; close both at the end."""
    async with relay or nullcontext(), client() if callable(client) else client as kling:
        yield kling


def require_client(kling: object, remedy: str) -> KlingClient:
    """Return the open client; raise an error with the remedy if no client is open."""
    if not isinstance(kling, KlingClient):
        raise ConfigurationError(f"no client is open here: {remedy}")
    return kling


def error_response(error: KlingError) -> ProblemResponse:
    """Return the response to an error; log server errors, whose details it does not contain."""
    response = to_response(error)
    if response.status >= 500:  # noqa: PLR2004 - server errors
        # A 500 is a fault of this application: the traceback shows where.
        trace = error if response.status == 500 else None  # noqa: PLR2004
        name = type(error).__name__
        _log.error("answered %d: %s: %s", response.status, name, error, exc_info=trace)
    return response
