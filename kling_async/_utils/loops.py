"""What belongs to one event loop: state, resources, and deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
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
    """Deadlines that can be closed together, and that allow for a blocked event loop."""

    def __init__(self) -> None:
        self.active: set[Deadline] = set()
        self._blocked_at: float = float("-inf")  # when a timer last ran late

    def close(self) -> None:
        """Let all deadlines of the running event loop expire now, as closed."""
        loop = asyncio.get_running_loop()
        for deadline in list(self.active):
            if deadline.task is not None and deadline.task.get_loop() is loop:
                deadline.expire(DeadlinesClosedError)

    def was_blocked(self, late: float, now: float) -> bool:
        """Return whether the loop was blocked just before a timer ran so many seconds late.

        Others that are due at this moment may be hardly late, but the loop was blocked for all.
        """
        if late > _BLOCKED:
            self._blocked_at = now
        return now - self._blocked_at < _BLOCKED


@define(eq=False)
class Deadline:
    """Cancels the code in its ``with`` block at a moment of the running loop's time.

    Like ``asyncio.timeout_at``, but for a plain ``with``.

    Raises:
        TimeoutError: The block was cancelled.
        DeadlinesClosedError: It was cancelled by :meth:`Deadlines.close`.
    """

    _owner: Deadlines
    _due: float
    task: asyncio.Task[object] | None = field(default=None, init=False)
    _cancelling: int = field(default=0, init=False)  # requests to cancel it that were there before
    _extended: bool = field(default=False, init=False)
    _timer: asyncio.Handle | None = field(default=None, init=False)
    _error: type[TimeoutError] | None = field(default=None, init=False)  # that the block raises

    def __enter__(self) -> None:
        self.task = task = asyncio.current_task()
        assert task is not None  # noqa: S101 - only a task can be cancelled
        loop, self._cancelling = task.get_loop(), task.cancelling()
        now = loop.time()
        if self._due > now:
            self._timer = loop.call_at(self._due, self._on_timer, loop)
        else:  # it expires before any later timer
            self._due, self._timer = now, loop.call_soon(self._on_timer, loop)
        self._owner.active.add(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task, timer = self.task, self._timer
        assert task is not None and timer is not None  # noqa: S101, PT018 - for the type checker
        timer.cancel()
        self._owner.active.discard(self)
        if self._error is None or task.uncancel() > self._cancelling:
            return  # if something else has cancelled the task, too, its CancelledError continues
        if isinstance(error, asyncio.CancelledError):
            raise self._error from error

    def expire(self, error: type[TimeoutError]) -> None:
        """Cancel the block, unless it has expired."""
        if self._error is None and self.task is not None:
            self._error = error
            self.task.cancel()

    def _on_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        if self._owner.was_blocked(now - self._due, now) and not self._extended:
            self._extended, self._due = True, now + _EXTENSION
            self._timer = loop.call_at(self._due, self._on_timer, loop)
        else:
            self.expire(TimeoutError)
