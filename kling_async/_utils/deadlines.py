"""Deadlines for many at once, with one timer.

``asyncio.timeout`` sets a timer for each use, and aiohttp one for each request. Hardly any of
them ever goes off, and together they were a twentieth of what a generation costs. Whoever
leaves in time leaves but a number behind: to keep more, even for a moment, costs as much again.
"""

from __future__ import annotations

import asyncio
from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

# Numbers of those who have left are swept out when they are the most in the queue, and more
# than these.
_FEW = 100

# A deadline's number is its moment in microseconds, and behind that a count.
_MICROSECOND = 1e-6
_COUNT_BITS = 40

_NEVER = float("inf")

# If the timer goes off so many seconds late, the event loop was blocked, as by a debugger. What
# has arrived meanwhile lies unread in a socket: what is inside is given some more time, once.
_STALL = 0.1
_EXTRA = 1.0


class Deadlines:
    """The queue and the timer of many deadlines, on one event loop at a time."""

    __slots__ = ("_timer", "count", "inside", "loop", "queue", "wakes_at")

    def __init__(self) -> None:
        self.count: int = 0
        self.loop: asyncio.AbstractEventLoop | None = None
        self.inside: dict[int, Deadline] = {}  # by their numbers
        self.queue: list[int] = []  # the numbers, as a heap: also of some who have left
        self.wakes_at: float = _NEVER
        self._timer: asyncio.Handle | None = None

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin anew, on another event loop."""
        self.inside = {}
        self.rest()
        self.loop = loop

    def rest(self) -> None:
        """Stop the timer: nobody is inside of a deadline."""
        if self._timer is not None:
            self._timer.cancel()
        self.queue = []
        self._timer, self.wakes_at = None, _NEVER

    def wake_at(self, when: float) -> None:
        """Set the timer to the first deadline."""
        assert self.loop is not None  # noqa: S101 - somebody has begun
        if self._timer is not None:
            self._timer.cancel()
        now = self.loop.time()
        if when <= now:  # nothing that is begun inside may come first
            self._timer = self.loop.call_soon(self._wake)
        else:
            self._timer = self.loop.call_at(when, self._wake)
        self.wakes_at = max(when, now)

    def add(self, deadline: Deadline, when: float) -> int:
        """Take up a deadline; return its number."""
        self.count = count = self.count + 1
        number = (int(when / _MICROSECOND) << _COUNT_BITS) + count
        self.inside[number] = deadline
        heappush(self.queue, number)
        if when < self.wakes_at:
            self.wake_at(when)
        return number

    def leave(self, number: int) -> None:
        """Forget a deadline that nobody is inside of any more."""
        if self.inside.pop(number, None) is None:  # that was on another loop
            return
        if not self.inside:
            self.rest()
        elif len(self.queue) > _FEW + 2 * len(self.inside):
            self.queue = sorted(self.inside)

    def close(self) -> None:
        """Let all that are inside expire at once, as closed."""
        if self.loop is not asyncio.get_running_loop():
            return
        inside = list(self.inside.values())
        self.inside = {}
        self.rest()
        for deadline in inside:
            deadline.closed = True
            deadline.expire()

    def _wake(self) -> None:
        assert self.loop is not None  # noqa: S101 - as above
        now, queue = self.loop.time(), self.queue
        blocked = now - self.wakes_at > _STALL
        self._timer, self.wakes_at = None, _NEVER
        while queue:
            deadline = self.inside.get(queue[0])
            if deadline is not None and deadline.when > now:
                self.wake_at(deadline.when)
                return
            number = heappop(queue)
            if deadline is None:
                continue
            del self.inside[number]
            if blocked and not deadline.extended:
                deadline.extend(self, now + _EXTRA)
            else:
                deadline.expire()


class Deadline:
    """Cancels what runs inside of it when its moment has come, and raises ``TimeoutError``.

    Like ``asyncio.timeout_at``, for one use.

    Args:
        deadlines: Those whose timer it shares.
        when: The moment, in the running loop's time.
    """

    __slots__ = (
        "_cancelling",
        "_deadlines",
        "_late",
        "_number",
        "_task",
        "closed",
        "extended",
        "when",
    )

    def __init__(self, deadlines: Deadlines, when: float) -> None:
        self._deadlines = deadlines
        self.when: float = when
        self.closed: bool = False
        self.extended: bool = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - nothing else can wait
        self._task: asyncio.Task[object] = task
        self._late = False
        self._cancelling = task.cancelling()
        deadlines, when = self._deadlines, self.when
        loop = task.get_loop()
        if loop is not deadlines.loop:
            deadlines.begin(loop)
        self._number = deadlines.add(self, when)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._late:
            self._deadlines.leave(self._number)
        # Whoever else has cancelled it meanwhile goes first.
        elif self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def extend(self, deadlines: Deadlines, when: float) -> None:
        """Give what is inside more time, once."""
        self.extended, self.when = True, when
        self._number = deadlines.add(self, when)

    def expire(self) -> None:
        """Cancel who is inside: the moment has come."""
        self._late = True
        self._task.cancel()
