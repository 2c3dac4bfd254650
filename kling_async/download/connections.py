"""The connections of downloads: a session on each event loop, and a limit of downloads.

Downloads use the connections, proxy and header sizes of a session that the caller passes. Its
headers, cookies and credentials are not sent to the hosts of files.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from socket import AF_INET, AddressFamily
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import hdrs
from aiohttp.abc import AbstractResolver, ResolveResult

from kling_async._network.proxies import Proxies, route
from kling_async._utils.loops import LoopResources
from kling_async._utils.shielding import run_in_thread
from kling_async.download.addresses import InternalHostError, is_internal, resolve_redirect
from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import SimpleNamespace

    from yarl import URL

    from kling_async.download.addresses import HostPolicy

# Each download has a socket and two files open, of the 256 that some systems allow.
MAX_DOWNLOADS = 16

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 10

# Seconds to resolve the name and to connect, once the session has a free connection.
_CONNECT_TIMEOUT = 30.0

# Seconds within which a response has to make progress.
PROGRESS_TIMEOUT = 300.0

# Seconds for one address, and without a single byte. Waiting for a connection of a lent session
# has no limit.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=15.0, sock_read=60.0)

# Signed URLs are long, and redirects to them are one header.
_HEADER_BYTES = 64 * 1024

# Whether the current request may connect to internal addresses.
_internal_allowed: ContextVar[bool] = ContextVar("kling_async_internal", default=False)


class DownloadSession:
    """The connections of one event loop.

    Attributes:
        slots: Acquired by a download while it has a connection or a file open.
    """

    def __init__(self, lent: aiohttp.ClientSession | None, proxies: Proxies) -> None:
        self.slots: asyncio.Semaphore = asyncio.Semaphore(MAX_DOWNLOADS)
        self._lent = lent is not None
        self._proxies = proxies
        self._resolver = None
        if lent is not None:  # aiohttp has no public names for its sizes
            line_size, field_size = lent._max_line_size, lent._max_field_size  # noqa: SLF001
            connector = lent.connector
        else:
            line_size = field_size = _HEADER_BYTES
            self._resolver = _Resolver()
            # No DNS cache: whether an address may be used depends on the request.
            connector = aiohttp.TCPConnector(
                limit=MAX_DOWNLOADS, resolver=self._resolver, use_dns_cache=False
            )
        self._session = aiohttp.ClientSession(
            connector=connector,
            connector_owner=lent is None,
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[_trace_connections()],
            max_line_size=line_size,
            max_field_size=field_size,
        )

    @asynccontextmanager
    async def get(
        self, url: URL, headers: Mapping[str, str], hosts: HostPolicy, timeout: asyncio.Timeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Request a URL, and follow redirects; `ValueError` if one leads to an internal host."""
        redirects = 0
        while True:
            extend(timeout, _CONNECT_TIMEOUT)
            async with await self._request(url, headers, hosts, timeout) as response:
                location = response.headers.get(hdrs.LOCATION)
                if response.status not in _REDIRECTS or location is None:
                    yield response
                    return
                if redirects == _MAX_REDIRECTS:
                    raise aiohttp.TooManyRedirects(response.request_info, response.history)
                redirects += 1
                url = resolve_redirect(url, location)

    async def _request(
        self, url: URL, headers: Mapping[str, str], hosts: HostPolicy, timeout: asyncio.Timeout
    ) -> aiohttp.ClientResponse:
        host = url.raw_host or ""
        permitted = hosts.permits_internal(host)
        if not permitted and is_internal(host):
            raise InternalHostError(host)
        proxy = await run_in_thread(lambda: self._proxies.find(url))
        direct = proxy is None  # a proxy resolves the name, and may itself be internal
        if self._lent and direct and not permitted:
            await _check_addresses(url)
        token = _internal_allowed.set(permitted or not direct)
        try:
            return await self._session.get(
                url,
                headers=headers,
                middlewares=(route(proxy),),
                timeout=_TIMEOUT,
                allow_redirects=False,
                raise_for_status=False,
                trace_request_ctx=timeout,
            )
        finally:
            _internal_allowed.reset(token)

    @property
    def closed(self) -> bool:
        """Whether the session is closed."""
        return self._session.closed

    async def close(self) -> None:
        """Close the session, and its connections unless they are lent."""
        await self._session.close()
        if self._resolver is not None:
            await self._resolver.close()


class SessionPool:
    """The sessions of a client, one for each event loop, created on first use."""

    def __init__(self, lent: aiohttp.ClientSession | None, proxies: Proxies | None) -> None:
        self._lent = lent
        self._proxies = proxies
        self._sessions: LoopResources[DownloadSession] = LoopResources(DownloadSession.close)

    async def session(self) -> DownloadSession:
        """Return the session of the running loop."""
        loop = asyncio.get_running_loop()
        if self._lent is not None and self._lent.closed:
            raise ConfigurationError("the session that was lent for the download is closed")
        if self._lent is not None and self._lent._loop is not loop:  # noqa: SLF001 - no public name
            raise ConfigurationError("the session that was lent belongs to another event loop")
        if loop not in self._sessions:
            proxies = self._proxies or Proxies.of_session(self._lent)
            await self._sessions.add(DownloadSession(self._lent, proxies))
        return self._sessions[loop]

    async def close(self) -> None:
        """Close the sessions of the running loop and of loops that are closed."""
        await self._sessions.close()


class _Resolver(AbstractResolver):
    """Removes internal addresses, unless the current request may use them."""

    def __init__(self) -> None:
        self._resolver = aiohttp.DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: AddressFamily = AF_INET
    ) -> list[ResolveResult]:
        results = await self._resolver.resolve(host, port, family)
        if not _internal_allowed.get():
            results = [result for result in results if not is_internal(result["host"])]
            if not results:
                raise InternalHostError(host)
        return results

    async def close(self) -> None:
        await self._resolver.close()


async def _check_addresses(url: URL) -> None:
    """Check the addresses of a host that a lent session resolves itself."""
    try:
        addresses = await asyncio.get_running_loop().getaddrinfo(url.raw_host, url.port)
    except OSError:  # the session may resolve it in another way, or fails itself
        return
    if any(is_internal(str(address[0])) for *_, address in addresses):
        raise InternalHostError(url.raw_host or "")


def extend(timeout: asyncio.Timeout, seconds: float | None) -> None:
    """Let a timeout expire this many seconds from now; None: never."""
    now = asyncio.get_running_loop().time()
    timeout.reschedule(None if seconds is None else now + seconds)


def _trace_connections() -> aiohttp.TraceConfig:
    """Return what extends the timeout of a request according to what its connection waits for."""

    def allow(seconds: float | None) -> Callable[..., Awaitable[None]]:
        async def extend_timeout(_: object, context: SimpleNamespace, __: object) -> None:
            extend(context.trace_request_ctx, seconds)

        return extend_timeout

    config = aiohttp.TraceConfig()
    config.on_connection_queued_start.append(allow(None))  # other requests use them, and will end
    config.on_connection_queued_end.append(allow(_CONNECT_TIMEOUT))
    config.on_connection_create_end.append(allow(PROGRESS_TIMEOUT))
    config.on_connection_reuseconn.append(allow(PROGRESS_TIMEOUT))
    return config
