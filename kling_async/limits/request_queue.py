"""Requests on one event loop: first in, first out, at the limit's pace, within its window.

Two parts. aiolimiter's bucket keeps the *pace*: the limit's rate, with a small burst. The
window (`kling_async.limits.window`) gives the *guarantee*, whatever the latencies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf

from aiolimiter import AsyncLimiter

from kling_async.errors import ConfigurationError
from kling_async.limits.window import RequestWindow

# A second of the limit, so that late timers cost no throughput; more than these are hardly ever
# under way together.
_MAX_BURST = 100

# Small limits may burst by so many: a submit need not wait for the pace after the poll that found
# its slot free. The window keeps the limit whatever the burst is.
_SMALL_BURST = 4

# While no request waits, so many are taken from the bucket at a time: taking one costs as much.
# Only of a bucket that holds several times as many, so that a small limit keeps an even pace.
_AT_ONCE = 8

# Answers of one storm arrive some time after each other. What they add to a pause that is no
# more than this is not worth an event.
_SAME_STORM = 0.5


class RequestPermit:
    """One request's share of the request limit."""

    __slots__ = ("_queue", "granted_at")

    def __init__(self, queue: RequestQueue, granted_at: float) -> None:
        self._queue: RequestQueue | None = queue
        self.granted_at: float = granted_at

    def answered(self) -> None:
        """Note that the request has been answered, or has failed; only the first call counts."""
        queue = self._queue
        if queue is not None:
            self._queue = None
            queue.window.answer(queue.now())
            if queue.answer is not None:
                queue.wake()


class RequestQueue:
    """Grants requests one by one, in the order in which they asked, and none during a pause."""

    def __init__(self, loop: asyncio.AbstractEventLoop, requests_per_minute: int) -> None:
        self._loop = loop
        self.now: Callable[[], float] = loop.time
        self.window: RequestWindow = RequestWindow(requests_per_minute)
        burst = max(min(_SMALL_BURST, requests_per_minute), requests_per_minute // 60)
        burst = min(_MAX_BURST, burst)
        self._bucket = AsyncLimiter(burst, burst * 60 / requests_per_minute)
        self._at_once = _AT_ONCE if burst >= 4 * _AT_ONCE else 1
        self._spare = 0  # taken from the bucket, and not used yet
        self._turn = asyncio.Lock()  # aiolimiter alone lets newcomers overtake
        self._waiting = 0
        self.answer: asyncio.Future[None] | None = None  # what the first in line may wait for
        self._paused_at = self._resume_at = -inf
        self._delay = 0.0  # of the last pause

    def take_over(self, previous: RequestQueue, shift: float) -> None:
        """Begin with the window and the pause of a loop that has ended.

        Args:
            previous: The queue of that loop.
            shift: What this loop's clock shows more than that one's.
        """
        self.window = previous.window.moved(self.now(), shift)
        self._paused_at = previous._paused_at + shift
        self._resume_at = previous._resume_at + shift
        self._delay = previous._delay

    async def request(self) -> RequestPermit:
        """Wait until one more request may be sent, and return its permit."""
        if not self._waiting:
            now = self.now()
            if not self._spare and self._bucket.has_capacity(self._at_once):
                await self._bucket.acquire(self._at_once)  # does not wait
                self._spare = self._at_once
            if self._spare and self._resume_at <= now and self.window.grant(now):
                self._spare -= 1
                return RequestPermit(self, now)
        self._waiting += 1
        try:
            async with self._turn:
                return await self._first_in_line()
        finally:
            self._waiting -= 1

    async def _first_in_line(self) -> RequestPermit:
        if not self._spare:
            await self._bucket.acquire()
            self._spare = 1  # if this one is cancelled, it is the next one's
        # A pause may begin, or grow, while this waits; the window may be full after it.
        while True:
            now = self.now()
            if now < self._resume_at:
                await asyncio.sleep(self._resume_at - now)
            elif self.window.grant(now):
                self._spare -= 1
                return RequestPermit(self, now)
            else:
                await self._room(now)

    async def _room(self, now: float) -> None:
        """Wait until the window may have room."""
        moment = self.window.next_grant(now)
        if moment is not None:
            await asyncio.sleep(moment - now)
            return
        self.answer = self._loop.create_future()
        try:
            await self.answer
        finally:
            self.answer = None

    def wake(self) -> None:
        """Wake the first in line, which waits for an answer."""
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(None)

    def pause(self, delay: float, granted_at: float) -> bool:
        """Grant nothing for ``delay`` seconds; see `Limiter.pause`."""
        if not 0 <= delay < inf:
            raise ConfigurationError(f"pause() needs a delay of 0 s or more, not {delay!r}")
        now = self.now()
        if granted_at <= self._paused_at:  # it is of the storm that began the last pause
            longer = now + delay - self._resume_at
            if longer <= 0 or (self._resume_at <= now and delay <= self._delay):
                return False
            if longer <= _SAME_STORM:
                self._resume_at += longer
                return False
        self._paused_at, self._delay = now, delay
        self._resume_at = max(self._resume_at, now + delay)
        return True
