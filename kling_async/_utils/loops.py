"""State and resources that belong to one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Generic, TypeVar

from kling_async.errors import ConfigurationError

_T = TypeVar("_T")
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


class LoopResources(dict[asyncio.AbstractEventLoop, _T]):
    """Resources such as sessions, by the event loop that they belong to.

    A resource is closed by :meth:`close`, or when ``asyncio.run`` shuts down its loop.

    Args:
        close: Closes a resource.
    """

    def __init__(self, close: Callable[[_T], Awaitable[None]]) -> None:
        super().__init__()
        self._close = close
        self._guards: dict[asyncio.AbstractEventLoop, AsyncGenerator[None]] = {}

    async def add(self, value: _T) -> _T:
        """Add the resource of the running loop, which has none yet."""
        loop = asyncio.get_running_loop()
        self[loop], self._guards[loop] = value, self._guard(loop, value)
        await anext(self._guards[loop])
        await self._close_where(lambda one: one.is_closed())
        return value

    async def close(self) -> None:
        """Close the resource of the running loop, and those of loops that have ended."""
        running = asyncio.get_running_loop()
        await self._close_where(lambda one: one is running or one.is_closed())

    async def _close_where(self, chosen: Callable[[asyncio.AbstractEventLoop], bool]) -> None:
        for loop in list(filter(chosen, self._guards)):
            await self._guards[loop].aclose()

    async def _guard(self, loop: asyncio.AbstractEventLoop, value: _T) -> AsyncGenerator[None]:
        # A loop that shuts down closes its asynchronous generators.
        try:
            yield
        finally:
            self.pop(loop, None)
            self._guards.pop(loop, None)
            await self._close(value)
