"""A transport that answers from a script: the real client without a network."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING

from kling_async.protocol.requests import Request, Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Request", "Response", "ScriptedTransport", "answer"]


class ScriptedTransport:
    """Passes every request to a function and returns its response.

    The function may be a coroutine function, and may raise an error of the package, such as
    :class:`~kling_async.errors.AnswerLostError`. :attr:`requests` holds the requests.

    >>> import asyncio
    >>> from kling_async import KlingClient
    >>> transport = ScriptedTransport(lambda request: answer(74.87))
    >>> asyncio.run(KlingClient("a-key", transport=transport).balance())
    74.87
    """

    def __init__(self, script: Callable[[Request], Response | Awaitable[Response]]) -> None:
        self._script = script
        self.requests: list[Request] = []

    async def send(self, request: Request, timeout: float) -> Response:
        """Record the request and return the script's response; ``timeout`` is ignored."""
        del timeout
        self.requests.append(request)
        answered = self._script(request)
        return await answered if inspect.isawaitable(answered) else answered

    async def close(self) -> None:
        """Do nothing: nothing was opened."""


def answer(data: object, *, status: int = 200, message: str = "success") -> Response:
    """Wrap ``data`` in the contract's envelope, with ``code`` the same as the HTTP status."""
    body = json.dumps({"code": status, "message": message, "data": data})
    return Response(status, body.encode())
