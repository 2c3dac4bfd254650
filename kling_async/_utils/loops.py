"""One event loop at a time: use on a second one that runs beside the first is an error."""

from __future__ import annotations

import asyncio

from kling_async.errors import ConfigurationError


class OneLoop:
    """Raises where an object is used on two running event loops at the same time.

    Several ``asyncio.run`` calls, one after another, are allowed: the earlier loops do not run
    any more. On two loops that run, as in two threads, a waiter of one would never be woken by
    the other, and would wait past every timeout.

    Args:
        name: What the object is, for the error.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None

    def check(self) -> None:
        """Note that the object is used on the running loop.

        Raises:
            ConfigurationError: Another loop uses it, and runs.
        """
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return
        if self._loop is not None and self._loop.is_running():
            raise ConfigurationError(
                f"this {self._name} is in use on another event loop that runs: make one for each"
                " loop, or run everything on one loop and pass it coroutines from other threads"
                " with asyncio.run_coroutine_threadsafe"
            )
        self._loop = loop
