"""The connections of downloads: a session of their own on each event loop, and so many places.

What a lent session says about the way to a host applies to downloads, too: its connections, its
proxy and the sizes of headers. What it says about who asks does not go to a file's host: headers,
cookies and credentials.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from socket import AF_INET, AddressFamily
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import hdrs
from aiohttp.abc import AbstractResolver, ResolveResult

from kling_async._network.proxies import Proxies, route
from kling_async._utils.threads import in_thread
from kling_async.download.addresses import InternalHostError, follow, is_internal
from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import SimpleNamespace

    from yarl import URL

    from kling_async.download.addresses import Guard

# Downloads at one time. Each has a socket and two files open, of the 256 that some systems allow.
PLACES = 16

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 10

# Seconds for the name and the connection, once there is a place for it among those of a session.
_CONNECT = 30.0

# Seconds for one address, and without a single byte. To wait for a connection of a lent session
# takes as long as it takes.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=15.0, sock_read=60.0)

# Signed URLs are long, and redirects to them come as one header.
_HEADER_BYTES = 64 * 1024

# Whether the request that is being made may connect to internal addresses.
_INTERNAL: ContextVar[bool] = ContextVar("kling_async_internal", default=False)


class Connections:
    """The connections of one event loop.

    Attributes:
        places: To be entered for as long as a download has a connection or a file open.
    """

    def __init__(self, lent: aiohttp.ClientSession | None, proxies: Proxies) -> None:
        self.places: asyncio.Semaphore = asyncio.Semaphore(PLACES)
        self._lent = lent is not None
        self._proxies = proxies
        self._resolver = None if lent is not None else _Resolver()
        # aiohttp has no public names for the sizes.
        line, field = (
            (lent._max_line_size, lent._max_field_size)  # noqa: SLF001
            if lent is not None
            else (_HEADER_BYTES, _HEADER_BYTES)
        )
        self._session = aiohttp.ClientSession(
            connector=lent.connector
            if lent is not None
            # No addresses are kept: whether they may be used depends on who asks.
            else aiohttp.TCPConnector(limit=PLACES, resolver=self._resolver, use_dns_cache=False),
            connector_owner=lent is None,
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[_watch()],
            max_line_size=line,
            max_field_size=field,
        )

    @asynccontextmanager
    async def get(
        self, url: URL, headers: Mapping[str, str], guard: Guard, pace: Pace
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask for a URL, and follow where it leads.

        Raises:
            ValueError: A URL cannot be asked for, or leads to an internal host.
            aiohttp.ClientError: There is no usable answer.
        """
        redirects = 0
        while True:
            pace.connecting()
            async with await self._ask(url, headers, guard, pace) as answer:
                location = answer.headers.get(hdrs.LOCATION)
                if answer.status not in _REDIRECTS or location is None:
                    yield answer
                    return
                if redirects == _MOST_REDIRECTS:
                    raise aiohttp.TooManyRedirects(answer.request_info, answer.history)
                redirects += 1
                url = follow(url, location)

    async def _ask(
        self, url: URL, headers: Mapping[str, str], guard: Guard, pace: Pace
    ) -> aiohttp.ClientResponse:
        host = url.raw_host or ""
        permitted = guard.permits_internal(host)
        if not permitted and is_internal(host):
            raise InternalHostError(host)
        proxy = await in_thread(lambda: self._proxies.find(url))
        direct = proxy is None  # else the proxy finds the address, and its own may be internal
        if self._lent and direct and not permitted:
            await _resolve(url)
        token = _INTERNAL.set(permitted or not direct)
        try:
            return await self._session.get(
                url,
                headers=headers,
                middlewares=(route(proxy),),
                timeout=_TIMEOUT,
                allow_redirects=False,
                raise_for_status=False,
                trace_request_ctx=pace,
            )
        finally:
            _INTERNAL.reset(token)

    @property
    def closed(self) -> bool:
        """Whether nothing can be asked for any more."""
        return self._session.closed

    async def close(self) -> None:
        """Close the session, and its connections if they are our own."""
        await self._session.close()
        if self._resolver is not None:
            await self._resolver.close()


class Pool:
    """The connections of a client, made on each event loop when they are first needed."""

    def __init__(self, lent: aiohttp.ClientSession | None, proxies: Proxies | None) -> None:
        self._lent = lent
        self._proxies = proxies
        self._on: dict[asyncio.AbstractEventLoop, tuple[Connections, AsyncGenerator[None]]] = {}

    async def connections(self) -> Connections:
        """Return those of the running loop.

        Raises:
            ConfigurationError: The session that was lent is closed, or of another loop.
        """
        loop = asyncio.get_running_loop()
        if self._lent is not None and self._lent.closed:
            raise ConfigurationError("the session that was lent for the download is closed")
        if self._lent is not None and self._lent._loop is not loop:  # noqa: SLF001 - no public name
            raise ConfigurationError("the session that was lent belongs to another event loop")
        if loop not in self._on:
            guard = _closing(made := self._make())
            self._on[loop] = made, guard
            await anext(guard)
        return self._on[loop][0]

    async def close(self) -> None:
        """Close those of the running loop, and of loops that have ended."""
        running = asyncio.get_running_loop()
        for loop in [one for one in self._on if one is running or one.is_closed()]:
            _, guard = self._on.pop(loop)
            await guard.aclose()

    def _make(self) -> Connections:
        lent = self._lent
        proxies = self._proxies or Proxies.of(lent)
        return Connections(lent, proxies)


class Pace:
    """How long an attempt may take: a limit that moves as it gets on."""

    def __init__(self, limit: asyncio.Timeout, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds

    def connecting(self) -> None:
        """Allow the time that a connection takes."""
        self._allow(_CONNECT)

    def waiting(self) -> None:
        """Allow any time: others have the connections, and they will end."""
        self._limit.reschedule(None)

    def progress(self) -> None:
        """Allow the usual time again."""
        self._allow(self._seconds)

    def _allow(self, seconds: float) -> None:
        self._limit.reschedule(asyncio.get_running_loop().time() + seconds)


class _Resolver(AbstractResolver):
    """Gives no internal addresses, unless the request may have them."""

    def __init__(self) -> None:
        self._resolver = aiohttp.DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: AddressFamily = AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if _INTERNAL.get():
            return found
        outside = [one for one in found if not is_internal(one["host"])]
        if not outside:
            raise InternalHostError(host)
        return outside

    async def close(self) -> None:
        await self._resolver.close()


async def _resolve(url: URL) -> None:
    """Check the addresses of a host that a lent session will look up for itself."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(url.raw_host, url.port)
    except OSError:  # the session may know better; if not, it says so
        return
    if any(is_internal(str(address[0])) for *_, address in found):
        raise InternalHostError(url.raw_host or "")


def _watch() -> aiohttp.TraceConfig:
    """Tell the pace of a request what its connection waits for."""

    async def waiting(_: object, context: SimpleNamespace, __: object) -> None:
        context.trace_request_ctx.waiting()

    async def connecting(_: object, context: SimpleNamespace, __: object) -> None:
        context.trace_request_ctx.connecting()

    async def connected(_: object, context: SimpleNamespace, __: object) -> None:
        context.trace_request_ctx.progress()

    config = aiohttp.TraceConfig()
    config.on_connection_queued_start.append(waiting)
    config.on_connection_queued_end.append(connecting)
    config.on_connection_create_end.append(connected)
    config.on_connection_reuseconn.append(connected)
    return config


async def _closing(connections: Connections) -> AsyncGenerator[None]:
    """Close them when closed, at the latest when the loop winds up its generators."""
    try:
        yield
    finally:
        await connections.close()
