"""The transport: the only module that sends requests to the API, with aiohttp.

A session belongs to one event loop: it is created when it is first used on a loop, and closed at
the latest when ``asyncio.run`` shuts the loop down. It has one pool of connections for submits and
one for all other requests.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol, TypedDict
from weakref import WeakSet

import aiohttp
from aiohttp import hdrs
from yarl import URL

from kling_async._network.connection_errors import (
    PROXY_AUTHENTICATION,
    PROXY_REFUSES_CREDENTIALS,
    describe,
    not_sent,
    request_error,
    too_large_error,
)
from kling_async._network.proxies import Proxies, proxy_for_key, route
from kling_async._utils.loops import Deadline, Deadlines, LoopResources
from kling_async._utils.text import redact
from kling_async._utils.version import __version__
from kling_async.errors import ConfigurationError, ConnectError
from kling_async.protocol.requests import Request, Response

if TYPE_CHECKING:
    import ssl as tls
    from collections.abc import Coroutine
    from socket import AddressFamily
    from typing import Unpack

    from aiohttp.abc import AbstractResolver, AbstractStreamWriter

_log = logging.getLogger("kling_async")

# A status answer has a few hundred bytes.
MAX_BODY_BYTES = 1024 * 1024

# The longest time for a connection, in seconds.
_CONNECT_TIMEOUT = 10.0

# Seconds after which an idle connection is not used for a submit.
_SUBMIT_KEEPALIVE = 0.1

# The sessions that a warning was logged for.
_warned: WeakSet[aiohttp.ClientSession] = WeakSet()

_USER_AGENT = f"kling-async/{__version__} aiohttp/{aiohttp.__version__}"

# The encodings that any installation can decode. aiohttp would also accept br and zstd if a
# package for them is installed, perhaps in a version that cannot decode the answer.
_ENCODINGS = "gzip, identity"

# aiohttp's limit of 8,190 bytes for a header could make the answer to a paid submit unreadable.
_MAX_HEADER_BYTES = 128 * 1024
_MAX_HEADERS = 1024


class Transport(Protocol):
    """Sends requests to the API."""

    async def send(self, request: Request, timeout: float) -> Response:
        """Send a request once, and return the complete response.

        Raises:
            ConnectError: The request was not sent.
            AnswerLostError: The request was sent, and no complete response was received within
                ``timeout`` seconds.
            ContractError: The response is too large.
        """

    async def close(self) -> None:
        """Close all connections. A later :meth:`send` opens new ones."""


class AiohttpTransport:
    """A transport that uses an aiohttp session: its own, or one that the caller passes.

    Args:
        base_url: The URL that the paths of requests are appended to.
        api_key: Sent with each request.
        connections: The maximum number of concurrent requests.
        session: The caller's session. It is used with its own proxy, and never closed.
        proxies: The proxies to use. Default: those of the session, or of the environment.

    Raises:
        ConfigurationError: ``session`` is not an ``aiohttp.ClientSession``, or the key would be
            sent to a proxy unencrypted.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        connections: int,
        session: aiohttp.ClientSession | None = None,
        proxies: Proxies | None = None,
    ) -> None:
        if session is not None:
            if not isinstance(session, aiohttp.ClientSession):
                raise ConfigurationError(
                    f"session must be an aiohttp.ClientSession: {session!r:.80}"
                )
            _warn_about_idle_connections(session)
        base = URL(base_url, encoded=True)
        found = (proxies or Proxies.of_session(session)).find(base)
        self._proxy = proxy = proxy_for_key(base, found, lent=session is not None)
        self.base_url: str = str(base)
        self._connections = connections
        self._key = api_key
        self._headers = {
            hdrs.AUTHORIZATION: f"Bearer {api_key}",
            hdrs.ACCEPT: "application/json",
            hdrs.ACCEPT_ENCODING: _ENCODINGS,
            hdrs.USER_AGENT: _USER_AGENT,
        }
        self._lent = session
        # These attributes of a session have no public names.
        middlewares = () if session is None else session._middlewares  # noqa: SLF001
        if session is not None and session.trust_env:
            # aiohttp refuses the header beside an entry of ~/.netrc, so it is set after that.
            bearer = self._headers.pop(hdrs.AUTHORIZATION)
            middlewares = (*middlewares, route(proxy, authorization=bearer))
        elif proxy is not None:
            middlewares = (*middlewares, route(proxy))
        self._middlewares = middlewares
        self._deadlines = Deadlines()
        self._sessions: LoopResources[aiohttp.ClientSession] = LoopResources(
            aiohttp.ClientSession.close
        )

    async def send(self, request: Request, timeout: float) -> Response:
        """Send a request once; see :meth:`Transport.send`.

        Raises:
            ConfigurationError: The session was closed, or belongs to another event loop.
        """
        loop = asyncio.get_running_loop()
        session = self._lent or self._sessions.get(loop) or await self._open_session()
        if self._lent is not None and (session.closed or session._loop is not loop):  # noqa: SLF001 - .loop warns
            raise ConfigurationError(
                "the session that was lent to the client is closed"
                if session.closed
                else "the session that was lent to the client belongs to another event loop:"
                " make it on the loop that uses the client"
            )
        content = request.body
        sent = None if content is None else _Body(content, content_type="application/json")
        # Well before the deadline, after which it is not certain that nothing was sent. A lent
        # session may have no free connection, and a proxy may not answer.
        connect = min(timeout / 2, _CONNECT_TIMEOUT)
        bounded = self._lent is not None or self._proxy is not None
        limits = aiohttp.ClientTimeout(
            total=None, connect=connect if bounded else None, sock_connect=connect
        )
        body = bytearray()
        try:
            with Deadline(self._deadlines, loop.time() + timeout):
                answer = await session.request(
                    hdrs.METH_POST if request.kind == "submit" else hdrs.METH_GET,
                    URL(self.base_url + request.path, encoded=True),
                    data=sent,
                    headers=None if self._lent is None else self._headers,
                    timeout=limits,
                    middlewares=self._middlewares,
                    # A redirect would carry the key to another host.
                    allow_redirects=False,
                    raise_for_status=False,
                    auto_decompress=True,
                    max_line_size=_MAX_HEADER_BYTES,
                    max_field_size=_MAX_HEADER_BYTES,
                    max_headers=_MAX_HEADERS,
                )
                try:
                    while not answer.content.at_eof():
                        body += await answer.content.readany()
                        if len(body) > MAX_BODY_BYTES:
                            start = Response(answer.status, bytes(body), secret=self._key)
                            raise too_large_error(request, start, MAX_BODY_BYTES)
                finally:
                    if not answer.closed:  # it is at the end; `async with` costs 4 % more
                        answer.close()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # A submit was not sent if no connection was ever assigned to it: then no byte of its
            # body was written. The cause is not chained, since it may show the request's headers.
            unsent = not_sent(error) if sent is None else not sent.written
            raise request_error(
                request, error, unsent=unsent, proxy=self._proxy, key=self._key
            ) from None
        except ValueError as error:  # an invalid host, or a lent session with its own auth
            reason = redact(describe(error), self._key)
            raise ConfigurationError(
                f"no request can be made of the base URL and session: {reason}"
            ) from None
        if answer.status == PROXY_AUTHENTICATION and self._proxy is not None:
            reason = f"nothing reached the service: {PROXY_REFUSES_CREDENTIALS}"
            raise ConnectError(reason, retryable=False, ref=request.ref)
        return Response(answer.status, bytes(body), answer.headers, secret=self._key)

    async def close(self) -> None:
        """Close the session of the running loop, unless it belongs to the caller."""
        await self._sessions.close()

    async def _open_session(self) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=connector(self._connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
        )
        # aiohttp would repeat a GET whose connection ends. The limiter would not count that, but
        # the service does. The attribute has no public name; aiohttp's own test client sets it.
        session._retry_connection = False  # noqa: SLF001
        return await self._sessions.add(session)


class _Body(aiohttp.BytesPayload):
    """The body of a submit, which notes when it is written to a connection.

    aiohttp writes the headers of a request together with its body. If the body was never written,
    nothing was sent.
    """

    written: bool = False

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        self.written = True
        await super().write_with_length(writer, content_length)


class ConnectorOptions(TypedDict, total=False):
    """Options of :func:`connector`, with the same meaning as in ``aiohttp.TCPConnector``."""

    ssl: tls.SSLContext | aiohttp.Fingerprint | bool
    resolver: AbstractResolver | None
    local_addr: tuple[str, int] | None
    family: AddressFamily
    limit_per_host: int
    force_close: bool
    keepalive_timeout: float | None
    use_dns_cache: bool
    ttl_dns_cache: int | None
    happy_eyeballs_delay: float | None
    interleave: int | None
    socket_factory: aiohttp.SocketFactoryType | None


class _TwoPoolConnector(aiohttp.TCPConnector):
    """A connector whose submits do not use connections that have been idle.

    If a server closes an idle connection while a request is being sent on it, the request is lost.
    aiohttp repeats a lost GET, but a submit must not be repeated. Servers keep idle connections for
    seconds, so a submit uses one that has been idle for less than 0.1 s, or opens a new one.
    """

    def __init__(self, limit: int, options: ConnectorOptions) -> None:
        super().__init__(limit=limit, **options)
        for_submits = options.copy()
        if not self.force_close:
            for_submits["keepalive_timeout"] = _SUBMIT_KEEPALIVE
        self._submits = aiohttp.TCPConnector(limit=limit, **for_submits)

    def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[aiohttp.tracing.Trace],
        timeout: aiohttp.ClientTimeout,
    ) -> Coroutine[object, object, aiohttp.connector.Connection]:
        if req.method == hdrs.METH_POST:
            return self._submits.connect(req, traces, timeout)
        return super().connect(req, traces, timeout)

    async def close(self, *, abort_ssl: bool = False) -> None:
        await self._submits.close(abort_ssl=abort_ssl)
        await super().close(abort_ssl=abort_ssl)


def connector(limit: int = 100, **options: Unpack[ConnectorOptions]) -> aiohttp.TCPConnector:
    """Create the connector of the client's own session, for a session that you pass to the client.

    It has two pools of connections with the same options, one for submits and one for all other
    requests. Submits do not use connections that have been idle for 0.1 s or more, so that their
    answers are not lost if the server closes idle connections.

    Args:
        limit: The maximum number of connections in each pool; 0 for any number.
        **options: Those of ``aiohttp.TCPConnector``: ``ssl``, ``resolver``, ``local_addr``,
            ``family``, ``limit_per_host``, ``force_close``, ``keepalive_timeout`` (not for
            submits), ``use_dns_cache``, ``ttl_dns_cache``, ``happy_eyeballs_delay``, ``interleave``
            and ``socket_factory``. A resolver is not closed with the connector.

    Raises:
        ConfigurationError: aiohttp rejects an option, or there is no running event loop.
    """
    try:
        return _TwoPoolConnector(limit, options)
    except (TypeError, ValueError, RuntimeError, LookupError) as error:  # of a local_addr
        raise ConfigurationError(f"no connector can be made: {error!r}") from None


def _warn_about_idle_connections(session: aiohttp.ClientSession) -> None:
    """Log a warning, once, if submits through a session may use idle connections."""
    used = session.connector
    safe = used is None or isinstance(used, _TwoPoolConnector) or used.force_close
    if safe or session in _warned:
        return
    _warned.add(session)
    _log.warning(
        "answers to submits may be lost, and their tasks charged, if the server closes idle"
        " connections of the session: create it with"
        " ClientSession(connector=kling_async.transport.connector())"
    )
