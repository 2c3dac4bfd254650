"""Deadlines for many at once, with one timer.

``asyncio.timeout`` sets a timer for each use, and aiohttp one for each request. Hardly any of
them ever goes off, and together they were a twentieth of what a generation costs.
"""

from __future__ import annotations

import asyncio
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Deadline", "Deadlines"]

# Deadlines that nobody is inside of any more are swept out when they are the most in the queue,
# and more than these.
_FEW = 100

_NEVER = float("inf")


class Deadlines:
    """The queue and the timer of many deadlines, on one event loop at a time."""

    __slots__ = ("_timer", "count", "gone", "loop", "queue", "wakes_at")

    def __init__(self) -> None:
        self.count: int = 0
        self.loop: asyncio.AbstractEventLoop | None = None
        self.queue: list[tuple[float, int, Deadline]] = []
        self.gone: int = 0  # of those in the queue
        self.wakes_at: float = _NEVER
        self._timer: asyncio.Handle | None = None

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin anew, on another event loop."""
        self.rest()
        self.loop = loop

    def rest(self) -> None:
        """Stop the timer: nobody is inside of a deadline."""
        if self._timer is not None:
            self._timer.cancel()
        self.queue, self.gone = [], 0
        self._timer, self.wakes_at = None, _NEVER

    def wake_at(self, when: float) -> None:
        """Set the timer to the first deadline."""
        assert self.loop is not None  # noqa: S101 - somebody has begun
        if self._timer is not None:
            self._timer.cancel()
        if when <= self.loop.time():  # nothing that is begun inside may come first
            self._timer = self.loop.call_soon(self._wake)
        else:
            self._timer = self.loop.call_at(when, self._wake)
        self.wakes_at = when

    def sweep(self) -> None:
        """Forget the deadlines that nobody is inside of any more."""
        self.queue = [one for one in self.queue if one[2].task is not None]
        heapify(self.queue)
        self.gone = 0

    def _wake(self) -> None:
        assert self.loop is not None  # noqa: S101 - as above
        now, queue = self.loop.time(), self.queue
        self._timer, self.wakes_at = None, _NEVER
        while queue and (queue[0][0] <= now or queue[0][2].task is None):
            deadline = heappop(queue)[2]
            if deadline.task is None:
                self.gone -= 1
            else:
                deadline.expire()
        if queue:
            self.wake_at(queue[0][0])


class Deadline:
    """Cancels what runs inside of it when its moment has come, and raises ``TimeoutError``.

    Like ``asyncio.timeout_at``, for one use.

    Args:
        deadlines: Those whose timer it shares.
        when: The moment, in the running loop's time.
    """

    __slots__ = ("_cancelling", "_deadlines", "_late", "_when", "task")

    def __init__(self, deadlines: Deadlines, when: float) -> None:
        self._deadlines = deadlines
        self._when = when

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - nothing else can wait
        self.task: asyncio.Task[object] | None = task  # while it is inside, and in time
        self._cancelling = task.cancelling()
        deadlines, when = self._deadlines, self._when
        loop = task.get_loop()
        if loop is not deadlines.loop:
            deadlines.begin(loop)
        deadlines.count = count = deadlines.count + 1
        heappush(deadlines.queue, (when, count, self))
        if when < deadlines.wakes_at:
            deadlines.wake_at(when)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.task is None:
            # Whoever else has cancelled it meanwhile goes first.
            if self._late.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
                raise TimeoutError from error
            return
        self.task = None
        deadlines = self._deadlines
        deadlines.gone = gone = deadlines.gone + 1
        among = len(deadlines.queue)
        if gone == among:
            deadlines.rest()
        elif gone > _FEW and gone * 2 > among:
            deadlines.sweep()

    def expire(self) -> None:
        """Cancel who is inside: the moment has come."""
        assert self.task is not None  # noqa: S101 - else nobody is inside
        self.task.cancel()
        self._late, self.task = self.task, None
