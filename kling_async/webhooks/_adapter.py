"""What the adapters share: opening the client, and reporting errors."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Final

from kling_async.client import KlingClient
from kling_async.errors import ConfigurationError, KlingError
from kling_async.webhooks.problem_details import ProblemResponse, to_response

if TYPE_CHECKING:
    from kling_async.webhooks.relay.relay import Relay

Client = KlingClient | Callable[[], KlingClient]
"""A client, or a function that creates one when the server starts."""

HEADERS: Final[Mapping[int, Mapping[str, str]]] = {405: {"Allow": "POST"}}
"""The headers of a response to a callback, by its status."""

_log = logging.getLogger("kling_async")


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
