"""The servers that processes share: their addresses, who speaks to them, and for how long."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from kling_async._utils.extras import missing_extra
from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    from types import ModuleType

POSTGRES_DEFAULTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "connect_timeout": "10",
        # A dead network is noticed within half a minute: before other workers may take over what
        # this one has.
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": "20000",  # milliseconds
        "application_name": "kling_async",
    }
)
"""libpq's parameters of each connection, unless the URL says otherwise."""

# Pieces of the time for an answer. However long this process stands still, it loses one of them.
_TICKS = 10

# The scheme of an address, and the extra that it needs, after which our modules are named, too.
_EXTRAS = {
    "redis": "redis",
    "rediss": "redis",
    "valkey": "redis",
    "valkeys": "redis",
    "postgres": "postgres",
    "postgresql": "postgres",
}


def speaker(url: str, modules: str, purpose: str) -> ModuleType:
    """Return the module that speaks to the server at an address. Nothing is sent.

    Args:
        url: The address.
        modules: The name of such a module, with ``{}`` for the kind of server.
        purpose: What the server is for, in words that can begin a sentence.

    Raises:
        ConfigurationError: The address is of no kind that is known.
        MissingExtraError: The package that speaks to it is not installed.
    """
    scheme, parted, _ = url.partition("://")
    if not parted or scheme not in _EXTRAS:
        kinds = ", ".join(f"{kind}://" for kind in _EXTRAS)
        told = f"{scheme}://" if parted and scheme.isalnum() else "anything else"
        raise ConfigurationError(f"{purpose} can be at {kinds}; not at {told}")
    extra = _EXTRAS[scheme]
    try:
        return import_module(modules.format(extra))
    except ImportError as error:
        raise missing_extra(extra, f"{purpose} at {scheme}:// needs another package") from error


def cut(fd: int) -> None:
    """End a connection, so that whoever waits for the server hears of it at once."""
    with suppress(OSError), socket.fromfd(fd, socket.AF_INET, socket.SOCK_STREAM) as way:
        way.shutdown(socket.SHUT_RDWR)  # of whatever family it is


@asynccontextmanager
async def in_time(seconds: float | None) -> AsyncIterator[None]:
    """Cancel what runs inside of it if a server has not answered after so many seconds.

    Unlike with ``asyncio.timeout``, only time counts in which this process could have heard the
    answer. While it stands still, or its event loop is blocked, the server may have stood still,
    too, or have answered long ago.

    Args:
        seconds: None waits for ever.

    Raises:
        TimeoutError: There was no answer.
    """
    if seconds is None:
        yield
        return
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle
    async with asyncio.timeout(None) as limit:

        def tick(left: int) -> None:
            nonlocal timer
            if left:
                timer = loop.call_later(seconds / _TICKS, tick, left - 1)
            else:
                limit.reschedule(loop.time())

        tick(_TICKS)
        try:
            yield
        finally:
            timer.cancel()
