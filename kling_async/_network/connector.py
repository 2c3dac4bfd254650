"""The connections to the API, in one pool for submits and one for all other requests."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypedDict
from weakref import WeakSet

import aiohttp
from aiohttp import hdrs

from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    import ssl as tls
    from collections.abc import Coroutine
    from socket import AddressFamily
    from typing import Unpack

    from aiohttp.abc import AbstractResolver

_log = logging.getLogger("kling_async")

# Seconds after which an idle connection is not used for a submit.
_SUBMIT_KEEPALIVE = 0.1

# The sessions that a warning was logged for.
_warned: WeakSet[aiohttp.ClientSession] = WeakSet()


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
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(f"no connector can be made: {error}") from None


def warn_about_idle_connections(session: aiohttp.ClientSession) -> None:
    """Log a warning, once, if submits through a session may use idle connections."""
    used = session.connector
    if (
        used is None
        or isinstance(used, _TwoPoolConnector)
        or used.force_close
        or session in _warned
    ):
        return
    _warned.add(session)
    _log.warning(
        "answers to submits may be lost, and their tasks charged, if the server closes idle"
        " connections of the session: create it with"
        " ClientSession(connector=kling_async.transport.connector())"
    )
