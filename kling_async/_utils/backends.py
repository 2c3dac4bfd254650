"""Servers that several processes share: their modules, connections and answers."""

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

# Parts of the time for an answer. However long this process is suspended, it loses one of them.
_TICKS = 10

# The extra that each URL scheme needs. The modules of the package are named after it, too.
_EXTRAS = {
    "redis": "redis",
    "rediss": "redis",
    "valkey": "redis",
    "valkeys": "redis",
    "postgres": "postgres",
    "postgresql": "postgres",
}


def load_backend(url: str, modules: str, purpose: str) -> ModuleType:
    """Return the module for the server at a URL. Nothing is sent.

    Args:
        url: The URL.
        modules: The name of such a module, with ``{}`` in place of the kind of server.
        purpose: What the server is for, at the beginning of a message.

    Raises:
        ConfigurationError: The scheme of the URL is unknown.
        MissingExtraError: The driver is not installed.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in _EXTRAS:
        known = ", ".join(f"{one}://" for one in _EXTRAS)
        given = f"{scheme}://" if separator and scheme.isalnum() else "anything else"
        raise ConfigurationError(f"{purpose} can be at {known}; not at {given}")
    extra = _EXTRAS[scheme]
    try:
        return import_module(modules.format(extra))
    except ImportError as error:
        raise missing_extra(extra, f"{purpose} at {scheme}:// needs another package") from error


def shut_down_socket(fd: int) -> None:
    """Shut down a connection, so that whatever waits for data from it ends at once."""
    with suppress(OSError), socket.fromfd(fd, socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.shutdown(socket.SHUT_RDWR)  # of any address family


class AnswerTimer:
    """The time that is left for an answer; see :func:`answer_timeout`."""

    def __init__(self, limit: asyncio.Timeout, seconds: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._timer: asyncio.TimerHandle | None = None
        if seconds is not None:
            self.restart(seconds)

    def restart(self, seconds: float) -> None:
        """Wait this number of seconds from now on."""
        self.stop()
        self._tick(seconds / _TICKS, _TICKS)

    def stop(self) -> None:
        """Wait without a limit."""
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self, interval: float, left: int) -> None:
        if left:
            self._timer = self._loop.call_later(interval, self._tick, interval, left - 1)
        else:
            self._limit.reschedule(self._loop.time())


@asynccontextmanager
async def answer_timeout(seconds: float | None) -> AsyncIterator[AnswerTimer]:
    """Limit the time that the block waits for a server's answer.

    Unlike ``asyncio.timeout``, this counts only the time in which this process could have received
    the answer. While it is suspended, or its event loop is blocked, the answer may have arrived.

    Args:
        seconds: The number of seconds. None waits without a limit.

    Raises:
        TimeoutError: There was no answer.
    """
    async with asyncio.timeout(None) as limit:
        timer = AnswerTimer(limit, seconds)
        try:
            yield timer
        finally:
            timer.stop()
