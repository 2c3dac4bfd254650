"""The transport: the only module that sends requests to the API, with aiohttp.

aiohttp's exceptions are converted to ours here. A session belongs to one event loop: it is created
when it is first used on a loop, and closed at the latest when ``asyncio.run`` shuts the loop down.
"""

from __future__ import annotations

import asyncio
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
from kling_async._network.connector import connector, warn_about_idle_connections
from kling_async._network.proxies import Proxies, route
from kling_async._utils.loops import Deadlines, LoopResources
from kling_async._utils.text import redact
from kling_async._utils.urls import is_loopback
from kling_async._utils.version import __version__
from kling_async.errors import AnswerLostError, ConfigurationError, ConnectError, ContractError
from kling_async.protocol.requests import Request, Response
from kling_async.protocol.verdicts import Verdict

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

__all__ = ["AiohttpTransport", "Transport", "connector"]

# A status answer has a few hundred bytes.
MAX_BODY_BYTES = 1024 * 1024

# The longest time for a connection, in seconds.
_CONNECT_TIMEOUT = 10.0

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
            warn_about_idle_connections(session)
        base = URL(base_url, encoded=True)
        found = (proxies or Proxies.of_session(session)).find(base)
        self._proxy = proxy = _checked_proxy(base, found, lent=session is not None)
        self._base = str(base)
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
        middlewares, headers, sent = self._middlewares, self._headers, None
        if request.body is not None:
            headers = {**headers, hdrs.CONTENT_TYPE: "application/json"}
            sent = _Body(request.body)
        elif self._lent is None:
            middlewares = (_send_once, *middlewares)
        # Well before the deadline, after which it is not certain that nothing was sent. A lent
        # session may have no free connection, and a proxy may not answer.
        connect = min(timeout / 2, _CONNECT_TIMEOUT)
        bounded = self._lent is not None or self._proxy is not None
        limits = aiohttp.ClientTimeout(
            total=None, connect=connect if bounded else None, sock_connect=connect
        )
        body = bytearray()
        try:
            with self._deadlines.expire_at(loop.time() + timeout):
                async with await session.request(
                    hdrs.METH_POST if request.kind == "submit" else hdrs.METH_GET,
                    URL(self._base + request.path, encoded=True),
                    data=sent,
                    headers=headers,
                    timeout=limits,
                    middlewares=middlewares,
                    # A redirect would carry the key to another host.
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
        except _ConnectionEndedError as ended:
            raise self._failure(request, ended.error, sent) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._failure(request, error, sent) from None
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
        return await self._sessions.add(
            aiohttp.ClientSession(
                connector=connector(self._connections), cookie_jar=aiohttp.DummyCookieJar()
            )
        )

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

    def _failure(
        self, request: Request, error: BaseException, sent: _Body | None
    ) -> ConnectError | AnswerLostError:
        """Return our error for one of aiohttp's.

        A submit was not sent if no connection was ever assigned to it: then no byte of its body
        was written. aiohttp's error is not chained, since some contain the request's headers.
        """
        reason = redact(describe(error), self._key)
        if not_sent(error) if sent is None else not sent.written:
            hint = advice(error, self._proxy, address="base URL")
            return ConnectError(
                f"no connection, nothing was sent: {reason}{hint and f'; {hint}'}",
                retryable=not hint,
                ref=request.ref,
            )
        submitting = request.kind == "submit"
        charged = "a task may have been started and charged" if submitting else "it may be repeated"
        return AnswerLostError(
            f"the answer to the {request.kind} was lost ({charged}): {reason}",
            may_have_charged=submitting,
            retryable=not submitting,
            ref=request.ref,
            verdict=Verdict.UNKNOWN,
        )


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


def _checked_proxy(base: URL, proxy: URL | None, *, lent: bool) -> URL | None:
    """Return the proxy to use.

    Raises:
        ConfigurationError: The key would be sent to the proxy unencrypted.
    """
    if proxy is None or base.scheme == "https":
        return proxy
    if is_loopback(base.host or ""):
        if not lent:
            return None
        if is_loopback(proxy.host or ""):  # the settings of a lent session are kept
            return proxy
    raise ConfigurationError(
        f"the API key would be sent to a proxy unencrypted, with the base URL {base}: use https,"
        " or reach it without the proxy (NO_PROXY, or trust_env=False)"
    )


class _ConnectionEndedError(Exception):
    """The connection of a request ended without a response."""

    def __init__(self, error: aiohttp.ClientError) -> None:
        super().__init__(error)
        self.error = error


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Send a GET, and keep aiohttp from repeating it if its connection ends.

    The limiter would not count the repeated request, but the service does.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _ConnectionEndedError(error) from None
