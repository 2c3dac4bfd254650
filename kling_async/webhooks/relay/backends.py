"""The interface of the servers through which relays exchange callbacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, cast

from kling_async._utils.backends import load_backend

READ_WAIT = 3.0
"""Seconds that a read waits for new lines."""

BACKLOG = 60.0
"""Seconds, by the server's clock, of earlier lines that the first read returns.

They cover what arrives between a task's submit and that read, and a failover to a server whose
clock is behind.
"""

READ_LIMIT = 100
"""The most lines that one read returns. Each may be as large as the server allows."""


class RelayBackendError(Exception):
    """The server cannot be reached, or rejects the request."""


class RelayBackend(Protocol):
    """Stores lines for all processes that share a name. An instance belongs to one event loop.

    One call of each method may run at a time; a call ends at once when it is cancelled. Both
    methods raise :class:`RelayBackendError`; the next call connects again.
    """

    async def publish(self, lines: Sequence[str]) -> None:
        """Store lines for an hour or more, and wake the readers that wait for them."""

    async def read(self) -> Sequence[str]:
        """Return new lines, in any order; lines may be returned more than once.

        If there are no new lines, wait for up to :data:`READ_WAIT` seconds, then return an empty
        sequence. Lines that were published while the server could not be reached from this process
        are returned afterwards.
        """

    async def close(self) -> None:
        """Close the connections. Raises nothing."""


def open_backend(url: str, names: Sequence[str]) -> RelayBackend:
    """Return the backend for a URL. Nothing is sent yet.

    Args:
        url: The URL.
        names: Each line is stored under each of these names, and read by any of them.

    Raises:
        ConfigurationError: The URL is invalid, or its scheme is not supported.
        MissingExtraError: The driver is not installed.
    """
    module = load_backend(url, "kling_async.webhooks.relay._{}", "what relays callbacks")
    return cast("Callable[[str, Sequence[str]], RelayBackend]", module.open_backend)(url, names)
