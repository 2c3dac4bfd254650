"""A middleware: the bodies of requests are small, and arrive soon."""

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BYTES = 65_536  # a prompt has at most 5,000 characters
SECONDS = 10.0


class SmallBodies:
    """Limits what FastAPI reads into memory before it calls a route, and for how long.

    A larger body is a 413, a slower one a 408.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        size, complete = 0, False
        deadline = asyncio.get_running_loop().time() + SECONDS

        async def limited() -> Message:
            nonlocal size, complete
            if complete:  # what follows is the end of the connection, hours later for a stream
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, headers={"Connection": "close"}) from None
            size += len(message.get("body", b""))
            complete = not message.get("more_body")
            if size > MAX_BYTES:
                raise HTTPException(413, headers={"Connection": "close"})
            return message

        await self._app(scope, limited, send)
