"""What belongs to one event loop: state, resources, and deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from math import inf
from typing import TYPE_CHECKING, Generic, TypeVar

from attrs import define, field

from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    from types import TracebackType

_T = TypeVar("_T")
_State = TypeVar("_State")

# Seconds. If a timer runs so late, the event loop was blocked, for example by a debugger. Data that
# has arrived meanwhile is still unread, so the deadline is extended, once.
_BLOCKED = 0.1
_EXTENSION = 1.0


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

    def discard(self) -> None:
        """Discard the state: the next use creates another one, on the same loop too."""
        self._current = None


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


class DeadlinesClosedError(TimeoutError):
    """A deadline was closed by :meth:`Deadlines.close` before its moment."""


class Deadlines:
    """Deadlines that can be closed together, and that allow for a blocked event loop.

    Those of one loop share a timer: one for each costs 7 % of a generation. Most blocks end in
    time, so it usually fires for one that has ended, and is set again for the first of the others.
    """

    def __init__(self) -> None:
        self.active: dict[Deadline, None] = {}  # in the order in which they were entered
        self.timers: dict[asyncio.AbstractEventLoop, tuple[float, asyncio.Handle]] = {}
        self._blocked_at = -inf  # when a timer last ran late

    def close(self) -> None:
        """Let all deadlines of the running event loop expire now, as closed."""
        for deadline in self._waiting_on(asyncio.get_running_loop()):
            deadline.expire(DeadlinesClosedError)

    def expire_due(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the deadlines expire whose moments have come, and set the timer for the others."""
        # A timer may be early by the resolution of the loop's clock.
        now = max(loop.time(), self.timers.pop(loop)[0])
        waiting = sorted(self._waiting_on(loop), key=lambda one: one.due)
        if waiting and now - waiting[0].due > _BLOCKED:
            self._blocked_at = now
        # The loop was blocked for all that are due, also for those that are hardly late.
        blocked = now - self._blocked_at < _BLOCKED
        for deadline in waiting:
            if deadline.due > now:
                break
            if blocked and not deadline.extended:
                deadline.extended, deadline.due = True, now + _EXTENSION
            else:
                deadline.expire(TimeoutError)
        if times := [one.due for one in waiting if one.error is None]:
            self.timers[loop] = min(times), loop.call_at(min(times), self.expire_due, loop)

    def _waiting_on(self, loop: asyncio.AbstractEventLoop) -> list[Deadline]:
        return [one for one in self.active if one.loop is loop and one.error is None]


@define(eq=False)
class Deadline:
    """Cancels the code in its ``with`` block at a moment of the running loop's time.

    Like ``asyncio.timeout_at``, but for a plain ``with``.

    Raises:
        TimeoutError: The block was cancelled.
        DeadlinesClosedError: It was cancelled by :meth:`Deadlines.close`.
    """

    _owner: Deadlines
    due: float
    extended: bool = field(default=False, init=False)
    task: asyncio.Task[object] | None = field(default=None, init=False)
    loop: asyncio.AbstractEventLoop | None = field(default=None, init=False)
    error: type[TimeoutError] | None = field(default=None, init=False)  # that the block raises
    _cancelling: int = field(default=0, init=False)  # requests to cancel it that were there before

    def __enter__(self) -> None:
        self.task = task = asyncio.current_task()
        assert task is not None  # noqa: S101 - only a task can be cancelled
        self.loop = loop = task.get_loop()
        self._cancelling = task.cancelling()
        owner = self._owner
        owner.active[self] = None
        when, timer = owner.timers.get(loop, (inf, None))
        if self.due < when:
            if timer is not None:
                timer.cancel()
            now = loop.time()
            if self.due > now:
                timer = loop.call_at(self.due, owner.expire_due, loop)
            else:  # it is over already: it expires before any later timer, and is not late
                self.due, timer = now, loop.call_soon(owner.expire_due, loop)
            owner.timers[loop] = self.due, timer

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        owner = self._owner
        del owner.active[self]
        if not owner.active:
            for _, timer in owner.timers.values():
                timer.cancel()
            owner.timers.clear()
        if self.error is None or self.task is None or self.task.uncancel() > self._cancelling:
            return  # if something else has cancelled the task, too, its CancelledError continues
        if isinstance(error, asyncio.CancelledError):
            raise self.error from error

    def expire(self, error: type[TimeoutError]) -> None:
        """Cancel the block, which has not expired yet."""
        assert self.task is not None  # noqa: S101 - the block is running
        self.error = error
        self.task.cancel()
