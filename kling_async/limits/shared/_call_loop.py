"""A task that makes one call to the backend after the other, each when it is due."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import inf

from kling_async.limits.waiters import Timer

# The message of the error in those who wait when the limiter is closed, or call while it is.
CLOSED = "the limiter was closed"


class CallLoop:
    """Makes a call whenever it is due, one at a time. Between calls there is only a timer.

    Args:
        loop: The event loop.
        next_call: Returns when the next call is due; None if there is nothing to call for.
        call: Makes one call. It handles all errors.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        next_call: Callable[[], float | None],
        call: Callable[[], Awaitable[None]],
    ) -> None:
        self.called_at: float = -inf
        self.changed_at: float = -inf  # the first change since the last call
        self.stopped: bool = False
        self._loop = loop
        self._next_call = next_call
        self._call = call
        self._timer = Timer(loop, self.update)
        self._is_running = False
        self._task: asyncio.Task[None] | None = None

    def update(self) -> None:
        """Find out when the next call is due, and make it then."""
        if self.stopped or self._is_running or not self._loop.is_running():
            return  # a slot may be released when its event loop has ended
        when = self._next_call()
        if when is None:
            return
        if when > self._loop.time():
            self._timer.set(when)
            return
        self._is_running = True
        task = self._loop.create_task(self._make_calls())
        # An eager task factory runs it at once, and perhaps to its end.
        self._task = self._task if task.done() else task

    def report_change(self) -> None:
        """Note that there is something to report with the next call."""
        if self.changed_at == -inf:
            self.changed_at = self._loop.time()
        self.update()

    def stop(self) -> None:
        """Begin no further call."""
        self.stopped = True
        self._timer.cancel()

    async def close(self) -> None:
        """Begin no further call, and cancel the one in flight."""
        self.stop()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _make_calls(self) -> None:
        try:
            while (when := self._next_call()) is not None and when <= self._loop.time():
                self.called_at, self.changed_at = self._loop.time(), -inf
                await self._call()
        finally:
            self._is_running = False
        self.update()
