"""A proxy in front of PostgreSQL that loses connections."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class LossyProxy:
    """A proxy whose connections can be cut.

    Attributes:
        cut_before: A request that contains this is not forwarded: the connection is cut instead.
        cut_after: A request that contains this is forwarded, while its answer is not.
        closed: New connections are refused.
        cuts: How often a connection was cut.
        refused: How many connections were refused.
        trips: How many requests were sent, each after an answer.
        was_cut: A connection was cut after an answer, which was not forwarded.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._server = parts.hostname, parts.port
        self._url = url
        self.cut_before = self.cut_after = b""
        self.closed = False
        self.cuts = self.refused = self.trips = 0
        self._answered = False
        self.was_cut = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Accept clients, and return the URL for them."""
        listener = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        async with listener:
            yield self._url.replace(f":{self._server[1]}/", f":{port}/")
            self.cut()
        await asyncio.sleep(0.01)

    def cut(self) -> None:
        """Cut all connections."""
        for writer in self._writers:
            writer.close()

    async def _forward(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        if self.closed:
            self.refused += 1
            answer.close()
            return
        server, ask = await asyncio.open_connection(*self._server)
        self._writers |= {answer, ask}
        back = asyncio.create_task(self._forward_answers(server, answer))
        while data := await client.read(65536):
            if self.cut_before and self.cut_before in data:
                self.cut_before = b""
                self.cuts += 1
                break
            if self.cut_after and self.cut_after in data:
                self.cut_after = b""
                self.cuts += 1
                back.cancel()
                await asyncio.wait((back,))
                ask.write(data)
                await server.read(65536)
                self.was_cut.set()
                break
            self.trips += self._answered
            self._answered = False
            ask.write(data)
        for writer in (answer, ask):
            writer.close()
            self._writers.discard(writer)
        await asyncio.wait((back,))

    async def _forward_answers(
        self, server: asyncio.StreamReader, answer: asyncio.StreamWriter
    ) -> None:
        while data := await server.read(65536):
            self._answered = True
            answer.write(data)
        answer.close()
