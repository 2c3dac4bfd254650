"""The connections to the API: submits and reads have a pool each."""

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

# Seconds that an idle connection is good for another submit. See _TwoLanes.
_SUBMIT_KEEPALIVE = 0.1

# The lent sessions that a warning was logged for.
_warned: WeakSet[aiohttp.ClientSession] = WeakSet()


class ConnectorOptions(TypedDict, total=False):
    """Options of :func:`connector`, with the meaning that they have for aiohttp.

    Attributes:
        ssl: How servers are verified, and the client certificate: a context. ``False`` verifies
            nothing.
        resolver: Looks up names. It is not closed with the connector.
        local_addr: Address and port that connections start from.
        family: ``AF_INET`` or ``AF_INET6`` allows addresses of this family only.
        limit_per_host: The most connections to one host, in each pool.
        force_close: Close each connection after one request.
        keepalive_timeout: Seconds that an idle connection is kept for reads.
        use_dns_cache: Keep the addresses of names.
        ttl_dns_cache: Seconds that they are kept; None for ever.
        happy_eyeballs_delay: Seconds after which the next address of a name is tried, too; None
            tries them one after another.
        interleave: How the addresses of both families alternate.
        socket_factory: Makes the sockets.
    """

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


class _TwoLanes(aiohttp.TCPConnector):
    """One connector with two pools: submits keep away from connections that have idled.

    A server closes connections that idle, and a request that crosses with the closing is lost
    without a trace. aiohttp repeats a GET that this happens to; a submit must not be repeated,
    so it must not happen. A submit takes a connection only if that has been idle for less
    than a tenth of a second, while servers wait for seconds; else it opens a new one.
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
    """Make the connector that the client's own session has, for a session that you lend.

    Submits through it never use a connection that has idled for a tenth of a second or more, so
    that their answers are not lost to a server which closes idle connections. For that it has two
    pools of connections, one for submits and one for everything else, with the same options.

    Args:
        limit: The most connections of each pool; 0 for any number.
        **options: Those of aiohttp's ``TCPConnector``: ``ssl``, ``resolver``, ``local_addr``,
            ``family``, ``limit_per_host``, ``force_close``, ``keepalive_timeout`` (of reads),
            ``use_dns_cache``, ``ttl_dns_cache``, ``happy_eyeballs_delay``, ``interleave`` and
            ``socket_factory``.

    Raises:
        ConfigurationError: aiohttp refuses an option, or there is no running event loop.
    """
    try:
        return _TwoLanes(limit, options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(f"no connector can be made: {error}") from None


def warn_if_plain(session: aiohttp.ClientSession) -> None:
    """Log once for a lent session that submits through it may use connections that have idled."""
    used = session.connector
    if used is None or isinstance(used, _TwoLanes) or used.force_close or session in _warned:
        return
    _warned.add(session)
    _log.warning(
        "the session that was lent has a connector of its own: answers to submits may be lost on"
        " connections that the server closes while they idle, and the tasks be charged; make it"
        " with ClientSession(connector=kling_async.transport.connector())"
    )
