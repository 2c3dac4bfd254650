"""What the edges share: reading a callback's body, opening the client, answering errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Final

from kling_async.client import KlingClient
from kling_async.errors import ConfigurationError, KlingError
from kling_async.webhooks import problem_details as errors

if TYPE_CHECKING:
    from kling_async.webhooks.inbox import Inbox
    from kling_async.webhooks.relay.relay import Relay

Client = KlingClient | Callable[[], KlingClient]
"""A client, or what makes one when the server starts."""

# Seconds for a callback's body. It is a few hundred bytes, and comes with its headers.
BODY_WITHIN: Final = 10.0

_BROKEN: Final = 400
_SLOW: Final = 408
_SERVER_ERROR: Final = 500

_log = logging.getLogger("kling_async")


async def receive(  # noqa: PLR0913, PLR0917 - a request has that many parts
    inbox: Inbox,
    method: str,
    path: str,
    query: str,
    length: int | None,
    read: Callable[[], Awaitable[bytes]],
) -> int:
    """Take one callback; return what to answer. The body is read only if it may be genuine.

    Args:
        inbox: What takes it.
        method: The request's method.
        path: Its path, as the server sees it.
        query: Its query.
        length: How many bytes its headers announce, if they do.
        read: Gives the next bytes of the body, none at its end; raises `ConnectionError` if it
            breaks off.
    """
    refusal = inbox.refuses(method, path, length)
    if refusal is not None:
        return refusal
    body = bytearray()
    most = inbox.max_body_bytes + 1  # one too many is what the inbox needs to see
    try:
        async with asyncio.timeout(BODY_WITHIN):
            while len(body) < most and (piece := await read()):
                body += piece[: most - len(body)]
    except TimeoutError:
        return _SLOW
    except ConnectionError:  # nobody hears this answer
        return _BROKEN
    return inbox.handle(method, path, query, bytes(body))


@asynccontextmanager
async def opened(client: Client, relay: Relay | None = None) -> AsyncIterator[KlingClient]:
    """Enter a client, made here if need be, and close it at the end; within it the relay's time."""
    async with relay or nullcontext(), client() if callable(client) else client as kling:
        yield kling


def missing(how: str) -> ConfigurationError:
    """Return the error of one who asks for a client where none is open."""
    return ConfigurationError(f"no client is open here: {how}")


def answered(error: KlingError) -> errors.Answer:
    """Return what to answer to an error; log what the answer keeps to itself."""
    answer = errors.answer(error)
    if answer.status >= _SERVER_ERROR:
        # Where the cause is our own, it takes the place in the code to find it.
        trace = error if answer.status == _SERVER_ERROR else None
        _log.error(
            "answered %d: %s: %s", answer.status, type(error).__name__, error, exc_info=trace
        )
    return answer
