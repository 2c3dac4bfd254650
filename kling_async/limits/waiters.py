"""How callers wait for permits and slots on one event loop: a queue and a timer."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from math import inf
from typing import Generic, TypeVar

from kling_async.errors import copy_for_waiter

_T = TypeVar("_T")


class WaitQueue(Generic[_T]):
    """Futures in the order in which they joined, the urgent ones first.

    Args:
        loop: The event loop of those who wait.
        give_back: Called with what was given to a waiter that was cancelled at the same time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, give_back: Callable[[_T], None]) -> None:
        self._loop = loop
        self._give_back = give_back
        self.urgent: OrderedDict[asyncio.Future[_T], None] = OrderedDict()
        self.normal: OrderedDict[asyncio.Future[_T], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self.urgent) + len(self.normal)

    def join(self, *, urgent: bool = False) -> asyncio.Future[_T]:
        """Add a waiter, which then has to await :meth:`result` at once."""
        future: asyncio.Future[_T] = self._loop.create_future()
        (self.urgent if urgent else self.normal)[future] = None
        return future

    async def result(self, future: asyncio.Future[_T]) -> _T:
        """Wait until something is given to this waiter, and return it."""
        try:
            return await future
        except asyncio.CancelledError:
            self.urgent.pop(future, None)
            self.normal.pop(future, None)
            if future.done() and not future.cancelled() and future.exception() is None:
                self._give_back(future.result())
            raise

    def purge(self) -> bool:
        """Remove those at the head that were cancelled just now; return whether anyone waits."""
        while queue := self.urgent or self.normal:
            future = next(iter(queue))
            if not future.done():
                return True
            del queue[future]
        return False

    def give(self, value: _T) -> bool:
        """Give something to the first one that waits; return whether there was one."""
        if not self.purge():
            return False
        self._pop().set_result(value)
        return True

    def set_exception(self, error: Exception) -> None:
        """Raise an error in all who wait, each time another copy: a caller may add notes to it."""
        while self.purge():
            self._pop().set_exception(copy_for_waiter(error))

    def _pop(self) -> asyncio.Future[_T]:
        return (self.urgent or self.normal).popitem(last=False)[0]


class Timer:
    """Calls a function once, at the earliest of the times set since the last call.

    Attributes:
        when: The loop's time of the next call; infinite while no call is due.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self.when: float = inf
        self._loop = loop
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None

    def set(self, when: float) -> None:
        """Call the function at this time of the loop, unless it will be called earlier."""
        if when < self.when:
            self.cancel()
            self.when, self._handle = when, self._loop.call_at(when, self._fire)

    def cancel(self) -> None:
        """Do not call the function."""
        if self._handle is not None:
            self._handle.cancel()
        self.when, self._handle = inf, None

    def _fire(self) -> None:
        self.when, self._handle = inf, None
        self._callback()
