"""The servers that processes share: their URLs, their modules, and how long to wait for them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING

from kling_async._utils.extras import missing_extra
from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    from types import ModuleType

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
        purpose: What the server is for; the beginning of a sentence.

    Raises:
        ConfigurationError: The address is of no kind that is known.
        MissingExtraError: The package that speaks to it is not installed.
    """
    scheme, parted, _ = url.partition("://")
    if not parted or scheme not in _EXTRAS:
        kinds = ", ".join(f"{kind}://" for kind in _EXTRAS)
        other = f"{scheme}://" if parted and scheme.isalnum() else "anything else"
        raise ConfigurationError(f"{purpose} can be at {kinds}; not at {other}")
    extra = _EXTRAS[scheme]
    try:
        return import_module(modules.format(extra))
    except ImportError as error:
        raise missing_extra(extra, f"{purpose} at {scheme}:// needs another package") from error


def cut(fd: int) -> None:
    """Shut down a connection, so that reading from it ends at once."""
    with suppress(OSError), socket.fromfd(fd, socket.AF_INET, socket.SOCK_STREAM) as way:
        way.shutdown(socket.SHUT_RDWR)  # of whatever family it is


class AnswerTimer:
    """Ends the wait for an answer, and can be restarted; see :func:`in_time`."""

    def __init__(self, limit: asyncio.Timeout, seconds: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._timer: asyncio.TimerHandle | None = None
        if seconds is not None:
            self.restart(seconds)

    def restart(self, seconds: float) -> None:
        """Wait this many seconds from now on."""
        self.stop()
        self._tick(seconds / _TICKS, _TICKS)

    def stop(self) -> None:
        """Wait without end."""
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self, interval: float, left: int) -> None:
        if left:
            self._timer = self._loop.call_later(interval, self._tick, interval, left - 1)
        else:
            self._limit.reschedule(self._loop.time())


@asynccontextmanager
async def in_time(seconds: float | None) -> AsyncIterator[AnswerTimer]:
    """Cancel the body if a server has not answered after this many seconds.

    Unlike with ``asyncio.timeout``, only time counts in which this process could have received the
    answer. While it is suspended, or its event loop is blocked, the server may have been suspended,
    too, or have answered long ago.

    Args:
        seconds: None waits without end.

    Raises:
        TimeoutError: There was no answer.
    """
    async with asyncio.timeout(None) as limit:
        timer = AnswerTimer(limit, seconds)
        try:
            yield timer
        finally:
            timer.stop()
