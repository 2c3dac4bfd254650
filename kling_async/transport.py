"""The one place where aiohttp speaks to the API; foreign errors become ours here.

A session belongs to one event loop, so it is made when first used on a loop, and it closes
itself when ``asyncio.run`` winds that loop up, should nobody have closed it before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Protocol

import aiohttp
from aiohttp import hdrs
from yarl import URL

from kling_async._network.connection_errors import (
    PROXY_AUTHENTICATION,
    PROXY_REFUSES_CREDENTIALS,
    advice,
    describe,
    not_sent,
)
from kling_async._network.connector import connector, warn_if_plain
from kling_async._network.proxies import Proxies, route
from kling_async._utils.deadlines import Deadline, Deadlines
from kling_async._utils.text import redact
from kling_async._utils.urls import is_loopback
from kling_async._utils.version import __version__
from kling_async.errors import AnswerLostError, ConfigurationError, ConnectError, ContractError
from kling_async.protocol.responses import Response
from kling_async.protocol.verdicts import Verdict

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

    from kling_async.protocol.requests import Request

__all__ = ["AiohttpTransport", "Transport", "connector"]

# A status answer has a few hundred bytes. Whatever is larger than this is not one.
MAX_BODY_BYTES = 1024 * 1024

# Seconds within which a connection must stand, of the request's total.
_CONNECT_TIMEOUT = 10.0

_USER_AGENT = f"kling-async/{__version__} aiohttp/{aiohttp.__version__}"

# Encodings that every installation can read. aiohttp would also ask for br and zstd if some
# package for them is installed, in a version that may not be able to read the answer.
_ENCODINGS = "gzip, identity"

# Bytes of the longest header line that is read. Gateways add headers of their own, and aiohttp
# refuses an answer with one of more than 8,190 bytes, which a paid task's must not suffer.
_MAX_HEADER_BYTES = 128 * 1024
_MAX_HEADERS = 1024


class Transport(Protocol):
    """Sends one request and brings back its answer: the client's only door to the network."""

    async def send(self, request: Request, timeout: float) -> Response:
        """Send once and read the whole answer.

        Raises:
            ConnectError: Nothing was sent.
            AnswerLostError: It was sent, and no whole answer came within ``timeout`` seconds.
            ContractError: The answer is larger than any answer may be.
        """

    async def close(self) -> None:
        """Let go of what was opened; a later :meth:`send` opens it again."""


class AiohttpTransport:
    """Speaks to the service through one aiohttp session, its own or one that is lent to it.

    Args:
        base_url: What the paths of requests follow.
        api_key: Sent with each request.
        connections: The most requests at one time.
        session: Used instead of an own one, with its own proxy.
        proxies: The way to the service; else the session's, or that of the environment.

    Raises:
        ConfigurationError: It is no session, or the key would be sent to a proxy unencrypted.
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
                said = f"session must be an aiohttp.ClientSession: {session!r:.80}"
                raise ConfigurationError(said)
            warn_if_plain(session)
        self._base = URL(base_url, encoded=True)
        found = (proxies or Proxies.of(session)).find(self._base)
        self._proxy = proxy = _checked_proxy(self._base, found, lent=session is not None)
        self._deadlines = Deadlines()
        self._connections = connections
        self._key = api_key
        self._headers = {
            hdrs.AUTHORIZATION: f"Bearer {api_key}",
            hdrs.ACCEPT: "application/json",
            hdrs.ACCEPT_ENCODING: _ENCODINGS,
            hdrs.USER_AGENT: _USER_AGENT,
        }
        self._lent = session
        self._middlewares: tuple[aiohttp.ClientMiddlewareType, ...] | None = None
        if session is not None and session.trust_env:
            # aiohttp refuses the header beside an entry of ~/.netrc, so it is set after that.
            bearer = self._headers.pop(hdrs.AUTHORIZATION)
            own = route(proxy, authorization=bearer)
            self._middlewares = (*session._middlewares, own)  # noqa: SLF001 - it has no other name
        elif proxy is not None:
            others = (_sent_once,) if session is None else session._middlewares  # noqa: SLF001 - as above
            self._middlewares = (*others, route(proxy))
        self._bounded = session is not None or proxy is not None
        self._own: dict[
            asyncio.AbstractEventLoop, tuple[aiohttp.ClientSession, AsyncGenerator[None]]
        ] = {}

    async def send(self, request: Request, timeout: float) -> Response:
        """Send once and read the whole answer; see :class:`Transport`."""
        session = self._at_hand() or await self._session()
        # Our own session has the key among its defaults; one that is lent is not changed.
        headers = self._headers if session is self._lent else {}
        sent: _Body | None = None
        if request.body is not None:
            headers = {**headers, hdrs.CONTENT_TYPE: "application/json"}
            sent = _Body(request.body)
        body = bytearray()
        try:
            with Deadline(self._deadlines, asyncio.get_running_loop().time() + timeout):
                async with await session.request(
                    request.method,
                    _address(self._base, request.path),
                    data=sent,
                    headers=headers,
                    timeout=_timeouts(timeout, self._bounded),
                    middlewares=self._middlewares,
                    # A redirect would carry the key to wherever it points.
                    allow_redirects=False,
                    raise_for_status=False,
                    auto_decompress=True,
                    max_line_size=_MAX_HEADER_BYTES,
                    max_field_size=_MAX_HEADER_BYTES,
                    max_headers=_MAX_HEADERS,
                ) as answer:
                    while not answer.content.at_eof():
                        body += await answer.content.readany()
                        if len(body) > MAX_BODY_BYTES:
                            raise self._too_large(request, answer.status, bytes(body))
        except _EndedError as ended:
            raise self._failure(request, ended.error, sent) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._failure(request, error, sent) from None
        except ValueError as error:  # a host that cannot be one, a lent session with its own auth
            said = f"no request can be made of the base URL and session: {self._words(error)}"
            raise ConfigurationError(said) from None
        if answer.status == PROXY_AUTHENTICATION and self._proxy is not None:
            said = f"nothing reached the service: {PROXY_REFUSES_CREDENTIALS}"
            raise ConnectError(said, retryable=False, ref=request.ref)
        return Response(answer.status, bytes(body), answer.headers, secret=self._key)

    async def close(self) -> None:
        """Close this loop's session, if it is our own. A later :meth:`send` opens a new one."""
        await self._forget(asyncio.get_running_loop())

    def _at_hand(self) -> aiohttp.ClientSession | None:
        """Return the session to use, if there is one for this loop."""
        if self._lent is not None:
            if self._lent.closed:
                raise ConfigurationError("the session that was lent to the client is closed")
            if self._lent._loop is not asyncio.get_running_loop():  # noqa: SLF001 - .loop warns
                raise ConfigurationError(
                    "the session that was lent to the client belongs to another event loop:"
                    " make it on the loop that uses the client"
                )
            return self._lent
        own = self._own.get(asyncio.get_running_loop())
        return None if own is None or own[0].closed else own[0]

    async def _session(self) -> aiohttp.ClientSession:
        """Open a session for this loop."""
        loop = asyncio.get_running_loop()
        await self._forget(loop)
        session = aiohttp.ClientSession(
            connector=connector(self._connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            middlewares=(_sent_once,),
        )
        guard = _closing(session)
        await anext(guard)
        self._own[loop] = session, guard
        return session

    async def _forget(self, loop: asyncio.AbstractEventLoop) -> None:
        # Also what loops have left that ended without winding up their generators. Those
        # sessions are only marked as closed: they have no loop to close their sockets on.
        for one in [one for one in self._own if one is loop or one.is_closed()]:
            _, guard = self._own.pop(one)
            await guard.aclose()

    def _too_large(self, request: Request, status: int, body: bytes) -> ContractError:
        submitting = request.kind == "submit"
        return ContractError(
            f"{request.kind} answered with more than {MAX_BODY_BYTES} bytes",
            status=status,
            body=Response(status, body, secret=self._key).excerpt,
            may_have_charged=submitting,
            retryable=not submitting,
            ref=request.ref,
            verdict=Verdict.UNKNOWN,
        )

    def _words(self, error: BaseException) -> str:
        return redact(describe(error), self._key)

    def _failure(
        self, request: Request, error: BaseException, sent: _Body | None
    ) -> ConnectError | AnswerLostError:
        """Return our error for one of aiohttp's, by what is certain about the request.

        A submit was not sent if no connection was ever assigned to it, whichever timer ended it:
        then no byte of its body was written. aiohttp's error is not chained, since some kinds
        hold the request's headers.
        """
        words = self._words(error)
        if not_sent(error) if sent is None else not sent.written:
            todo = advice(error, self._proxy, address="base URL")
            return ConnectError(
                f"no connection, nothing was sent: {words}{todo and f'; {todo}'}",
                retryable=not todo,
                ref=request.ref,
            )
        submitting = request.kind == "submit"
        charged = "a task may have been started and charged" if submitting else "it may be repeated"
        return AnswerLostError(
            f"the answer to the {request.kind} was lost ({charged}): {words}",
            may_have_charged=submitting,
            retryable=not submitting,
            ref=request.ref,
            verdict=Verdict.UNKNOWN,
        )


class _Body(aiohttp.BytesPayload):
    """The body of a submit, which notes when it is written to a connection.

    aiohttp writes a request's headers together with its body, once a connection is assigned to
    the request: a body that was never written proves that nothing was sent.
    """

    def __init__(self, value: bytes) -> None:
        super().__init__(value)
        self.written: bool = False

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        self.written = True
        await super().write_with_length(writer, content_length)


def _checked_proxy(base: URL, proxy: URL | None, *, lent: bool) -> URL | None:
    """Return the proxy to use: in clear text, the key must not leave this machine.

    Raises:
        ConfigurationError: It would be sent to the proxy unencrypted.
    """
    if proxy is None or base.scheme == "https":
        return proxy
    if is_loopback(base.host or ""):
        if not lent:
            return None
        if is_loopback(proxy.host or ""):  # a session's own settings are not overruled
            return proxy
    raise ConfigurationError(
        f"the API key would be sent to a proxy unencrypted, with the base URL {base}: use https,"
        " or reach it without the proxy (NO_PROXY, or trust_env=False)"
    )


class _EndedError(Exception):
    """A connection has ended without an answer."""

    def __init__(self, error: aiohttp.ClientError) -> None:
        super().__init__(error)
        self.error = error


async def _sent_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Send a request, and hide from aiohttp that its connection has ended.

    It would send a GET again at once, which the service counts and the limiter does not.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _EndedError(error) from None


def _address(base: URL, path: str) -> URL:
    """Put a URL together from its parts: to take a text apart would be twice the work."""
    path, _, query = path.partition("?")
    place = _place(base, path)
    if not query:
        return place
    return URL.build(
        scheme=place.scheme,
        authority=place.raw_authority,
        path=place.raw_path,
        query_string=query,
        encoded=True,
    )


@lru_cache
def _place(base: URL, path: str) -> URL:
    return URL(f"{base}{path}", encoded=True)


@cache
def _timeouts(total: float, bounded: bool) -> aiohttp.ClientTimeout:  # noqa: FBT001 - for the cache
    # Well before the deadline, which leaves open whether anything was sent.
    connect = min(total / 2, _CONNECT_TIMEOUT)
    # A lent session may have no free connection, and a proxy may not answer. Own connections are
    # as many as requests, and the timer that bounds all of it is a fiftieth of a request's cost.
    return aiohttp.ClientTimeout(None, connect=connect if bounded else None, sock_connect=connect)


async def _closing(session: aiohttp.ClientSession) -> AsyncGenerator[None]:
    """Close the session when closed, at the latest when the loop winds up its generators."""
    try:
        yield
    finally:
        await session.close()
