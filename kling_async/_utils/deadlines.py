"""Deadlines that can be closed together, and that allow for a blocked event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

# Seconds. If a timer runs so late, the event loop was blocked, for example by a debugger. Data that
# has arrived meanwhile is still unread, so the deadline is extended, once.
_BLOCKED = 0.1
_EXTENSION = 1.0

_NEVER = float("-inf")


class Deadlines:
    """A group of deadlines."""

    def __init__(self) -> None:
        self.active: set[Deadline] = set()
        self.blocked_at: float = _NEVER  # when a timer last ran late

    def close(self) -> None:
        """Let all deadlines of the running event loop expire now, as closed."""
        loop = asyncio.get_running_loop()
        for deadline in [one for one in self.active if one.loop is loop]:
            deadline.closed = True
            deadline.expire()


class Deadline:
    """Cancels the code in its ``with`` block at a moment, and raises ``TimeoutError``.

    Like ``asyncio.timeout_at``, but for a plain ``with``. It can be used once.

    Args:
        group: The deadlines that it can be closed together with.
        when: The moment, in the running loop's time.
    """

    def __init__(self, group: Deadlines, when: float) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - only a task can be cancelled
        self.loop: asyncio.AbstractEventLoop = task.get_loop()
        self.closed: bool = False
        self._group = group
        self._task: asyncio.Task[object] = task
        self._cancelling = task.cancelling()
        self._due = when
        self._extended = self._expired = False
        self._timer: asyncio.Handle | None = None

    def __enter__(self) -> None:
        now = self.loop.time()
        if self._due > now:
            self._timer = self.loop.call_at(self._due, self._on_timer)
        else:
            self._due = now
            self._timer = self.loop.call_soon(self._on_timer)  # before any later timer
        self._group.active.add(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._timer is not None  # noqa: S101 - it was set on entry
        self._timer.cancel()
        self._group.active.discard(self)
        # If something else has cancelled the task, too, its CancelledError continues.
        alone = self._expired and self._task.uncancel() <= self._cancelling
        if alone and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        """Cancel the block."""
        if not self._expired:
            self._expired = True
            self._task.cancel()

    def _on_timer(self) -> None:
        now = self.loop.time()
        if now - self._due > _BLOCKED:
            self._group.blocked_at = now
        # Others that are due at this moment may be hardly late, but the loop was blocked for all.
        if now - self._group.blocked_at < _BLOCKED and not self._extended:
            self._extended = True
            self._timer = self.loop.call_at(now + _EXTENSION, self._on_timer)
            self._due = now + _EXTENSION
        else:
            self.expire()
