"""A company's HTTP proxy on loopback: tunnels (CONNECT), forwards, notes what it reads."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from aiohttp import encode_basic_auth

if TYPE_CHECKING:
    import ssl


class HttpProxy:
    """A proxy that is the only way to hosts which do not resolve.

    Args:
        hosts: Where the proxy connects to for ``host:port``; else to this machine.
        credentials: The user and password that it demands.
        answer: What it answers instead of connecting; an empty one keeps silent for ever.
        tls: Its own certificate, for a proxy with an https URL.
    """

    def __init__(
        self,
        hosts: dict[str, int] | None = None,
        *,
        credentials: tuple[str, str] | None = None,
        answer: bytes | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.heads: list[str] = []
        self._hosts = hosts or {}
        self._expected = credentials and encode_basic_auth(*credentials)
        self._answer = answer
        self._tls = tls
        self._talks: set[asyncio.Task[None]] = set()

    @property
    def lines(self) -> list[str]:
        """The request lines that came, without HTTP's version."""
        return [head.partition("\r\n")[0].removesuffix(" HTTP/1.1") for head in self.heads]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._start, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        scheme = "http" if self._tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks)
        await asyncio.sleep(0)

    def with_credentials(self, text: str) -> str:
        """Return the URL with a user and password."""
        return self.url.replace("://", f"://{text}@")

    def _start(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._talks.add(task)
        task.add_done_callback(self._talks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._relay(reader, writer)
        finally:
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        fields = dict(line.split(": ", 1) for line in head.splitlines()[1:-1])
        if self._answer is not None:
            writer.write(self._answer)
            await writer.drain()
            await asyncio.sleep(0 if self._answer else 1e9)
            return
        if self._expected not in (None, fields.get("Proxy-Authorization")):
            writer.write(
                b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                b'Proxy-Authenticate: Basic realm="company"\r\nContent-Length: 0\r\n\r\n'
            )
            await writer.drain()
            return
        method, target, _ = head.split(" ", 2)
        if method == "CONNECT":
            place, first = target, b""
        else:  # one request for each connection
            parts = urlsplit(target)
            place = f"{parts.hostname}:{parts.port or 80}"
            path = target.removeprefix(f"{parts.scheme}://{parts.netloc}")
            rest = head.split("\r\n", 1)[1]
            first = f"{method} {path} HTTP/1.1\r\nConnection: close\r\n{rest}".encode()
        port = self._hosts.get(place) or int(place.rpartition(":")[2])
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            far_writer.write(first)
            async with asyncio.TaskGroup() as group:
                up = group.create_task(_pump(reader, far_writer))
                await _pump(far_reader, writer)
                up.cancel()
        finally:
            far_writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
