"""State that belongs to one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from kling_async.errors import ConfigurationError

_State = TypeVar("_State")


class PerLoop(Generic[_State]):
    """Creates the state of an object on first use on an event loop, and discards the last one's.

    Several ``asyncio.run`` calls in sequence may use the object. Two running loops may not, as in
    two threads: a waiter on one loop would never be woken by the other.

    Args:
        owner: What the error calls the object.
        create: Returns the state for a loop.
    """

    def __init__(self, owner: str, create: Callable[[asyncio.AbstractEventLoop], _State]) -> None:
        self._owner = owner
        self._create = create
        self._current: tuple[asyncio.AbstractEventLoop, _State] | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that has used the object last, unless it is closed."""
        return None if self._current is None or self._current[0].is_closed() else self._current[0]

    def get(self) -> _State:
        """Return the state for the running loop.

        Raises:
            ConfigurationError: The object is in use on another running loop.
        """
        loop = asyncio.get_running_loop()
        current = self._current
        if current is None or current[0] is not loop:
            if current is not None and current[0].is_running():
                raise ConfigurationError(
                    f"this {self._owner} is in use on another event loop that runs: create one for"
                    " each loop, or run everything on one loop and pass it coroutines from other"
                    " threads with asyncio.run_coroutine_threadsafe"
                )
            current = self._current = loop, self._create(loop)
        return current[1]
