"""What a relay asks of the engine between the processes, and which engines there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, cast

from kling_async._utils.backends import speaker

WAIT = 3.0
"""Seconds that a read waits for something new."""

LOOK_BACK = 60.0
"""Seconds before its beginning, by the engine's clock, of which a reader is told.

Enough for whatever came between a task's submit and the first read, and for a server that has
taken over from another whose clock was ahead.
"""

READ_AT_ONCE = 100
"""Lines that one read returns at the most. Each may be as large as the engine allows."""


class EngineError(Exception):
    """The engine cannot be reached, or refuses us."""


class Engine(Protocol):
    """Keeps lines for all processes of some names, and hands them out. Belongs to one event loop.

    One call of each kind may be under way at a time. Any call may be cancelled, and ends at once
    then. Both raise :class:`EngineError`; the next call tries anew.
    """

    async def publish(self, lines: Sequence[str]) -> None:
        """Keep lines for an hour or more, and wake those who wait for them."""

    async def read(self) -> Sequence[str]:
        """Return lines that were not returned yet, in any order, in part perhaps again.

        If there are none, wait for some; after :data:`WAIT` return without. What was published
        while the engine could not be reached from here is returned afterwards.
        """

    async def close(self) -> None:
        """Close the connections; raise nothing."""


def connect(url: str, names: Sequence[str]) -> Engine:
    """Return the engine at an address. Nothing is sent yet.

    Args:
        url: The address.
        names: Whose lines are kept and read: each line is kept under each name.

    Raises:
        ConfigurationError: The address is of no kind that is known, or makes no sense.
        MissingExtraError: The package that speaks to it is not installed.
    """
    module = speaker(url, "kling_async.webhooks.relay._{}", "what relays callbacks")
    return cast("Callable[[str, Sequence[str]], Engine]", module.engine)(url, names)
