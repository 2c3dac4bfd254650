"""The limits of an account that only one process uses."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from aiolimiter import AsyncLimiter
from attrs import define, field

from kling_async._utils.loops import PerLoop
from kling_async.errors import ConfigurationError
from kling_async.limits.base import Limits
from kling_async.limits.slots import SlotQueue, SlotTable
from kling_async.limits.window import RequestPause, RequestWindow

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from kling_async.limits.base import Permit, Slot
    from kling_async.results import TaskRef

# A second of the limit, so that late timers cost no throughput; more than these are hardly ever
# in flight together.
_MAX_BURST = 100

# The burst of small limits: a submit need not wait after the poll that found its slot free. The
# window keeps the limit whatever the burst is.
_SMALL_BURST = 4


class RequestSource(Protocol):
    """Grants requests on one event loop."""

    def request(self) -> Coroutine[object, object, Permit]:
        """Wait until one more request may be sent, and return its permit."""

    def refuse(self, delay: float, granted_at: float) -> bool:
        """Grant nothing for ``delay`` seconds; return whether a pause began or grew."""

    def take_over(self, previous: Any, shift: float) -> None:  # noqa: ANN401 - of the same class
        """Continue with the state of an earlier event loop, whose clock differs by ``shift``."""


@define(eq=False)
class LoopState:
    """What belongs to one event loop."""

    loop: asyncio.AbstractEventLoop
    requests: RequestSource
    slots: SlotTable[Any, Any]


StateT = TypeVar("StateT", bound=LoopState)


class LoopLimiter(Generic[StateT]):
    """A `Limiter` with one state for each event loop. Its methods are described there.

    Attributes:
        limits: The limits that it keeps.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        if not isinstance(limits, Limits | None):
            raise ConfigurationError(f"limits must be a Limits, not {limits!r:.80}")
        self.limits: Limits = limits or Limits()
        self._state: StateT | None = None  # the last one
        self._loops = PerLoop("limiter", self._continue_on)

    @property
    def slots_in_use(self) -> int:
        """How many slots this process holds now."""
        return len(self._state.slots.held) if self._state else 0

    @property
    def effective_tasks(self) -> int:
        """How many tasks may run: fewer than the limit after the service has refused some."""
        if self._state is None:
            return self.limits.concurrent_tasks
        cap: int = self._state.slots.cap.cap
        return cap

    def request(self) -> Coroutine[object, object, Permit]:
        """Wait until one more request may be sent, and return its permit."""
        return self._loops.get().requests.request()

    def pause(self, delay: float, permit: Permit) -> bool:
        """Let all requests wait for ``delay`` seconds; return whether a pause began or grew."""
        return self._loops.get().requests.refuse(delay, permit.granted_at)

    def slot(self, *, first: bool = False) -> Coroutine[object, object, Slot]:
        """Wait until one more task may run, and return its slot."""
        return self._loops.get().slots.acquire(first=first)

    def adopt(
        self,
        ref: TaskRef,
        lifetime: float | None = None,
        on_expired: Callable[[], None] | None = None,
    ) -> Slot:
        """Return the slot of a task that runs already; one is added even beyond the limit."""
        slot: Slot = self._loops.get().slots.adopt(ref, lifetime, on_expired)
        return slot

    def refused(self, slot: Slot) -> None:
        """Note that the service answered 429 to the submit that holds this slot."""
        self._loops.get().slots.refuse(slot)

    def _continue_on(self, loop: asyncio.AbstractEventLoop) -> StateT:
        """Return the state for a loop, with what has to outlast an earlier one."""
        previous = self._state
        self._state = state = self._create_state(loop)
        if previous is not None:
            # Clocks of loops may start from different zeros, as virtual ones do.
            shift = loop.time() - previous.loop.time()
            state.requests.take_over(previous.requests, shift)
            state.slots.take_over(previous.slots, shift)
        return state

    @abstractmethod
    def _create_state(self, loop: asyncio.AbstractEventLoop) -> StateT:
        """Return the state for a loop, without that of an earlier one."""


class LocalLimiter(LoopLimiter[LoopState]):
    """Keeps one process within the limits. Several clients may share it.

    It serves one event loop at a time. After another ``asyncio.run`` the slots are still held,
    and the requests of the last minute still count. Its methods are those of
    :class:`~kling_async.limits.Limiter`; all of them raise ConfigurationError if the limiter is in
    use on another loop that is running.

    Args:
        limits: The limits to keep.
    """

    def __repr__(self) -> str:
        return f"<LocalLimiter {self.limits!r} slots in use: {self.slots_in_use}>"

    def _create_state(self, loop: asyncio.AbstractEventLoop) -> LoopState:
        requests = _RequestQueue(loop, self.limits.requests_per_minute)
        return LoopState(loop, requests, SlotQueue(loop, self.limits, self._loops.get))


@define(eq=False)
class _RequestPermit:
    """See :class:`~kling_async.limits.Permit`."""

    _queue: _RequestQueue
    granted_at: float
    _is_answered: bool = field(default=False, init=False)

    def answered(self) -> None:
        """Note that the request has been answered, or has failed."""
        if not self._is_answered:
            self._is_answered = True
            queue = self._queue
            queue.window.answer(queue.loop.time())
            if queue.answer is not None and not queue.answer.done():
                queue.answer.set_result(None)


class _RequestQueue:
    """Grants requests on one event loop: first in, first out.

    aiolimiter's token bucket keeps the rate of the limit, with a small burst. The window
    guarantees the limit, whatever the latencies.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, requests_per_minute: int) -> None:
        self.loop = loop
        self.window = RequestWindow(requests_per_minute)
        self._pause = RequestPause()
        burst = max(min(_SMALL_BURST, requests_per_minute), requests_per_minute // 60)
        burst = min(_MAX_BURST, burst)
        self._bucket = AsyncLimiter(burst, burst * 60 / requests_per_minute)
        self._has_token = False  # taken from the bucket, and not used yet
        self._lock = asyncio.Lock()  # aiolimiter alone lets newcomers overtake
        self.answer: asyncio.Future[None] | None = None  # awaited by the first in line

    def take_over(self, previous: _RequestQueue, shift: float) -> None:
        """Continue with the window and the pause of an event loop that has ended."""
        self.window = previous.window.rebased(self.loop.time(), shift)
        self._pause = previous._pause.rebased(shift)

    async def request(self) -> _RequestPermit:
        """Wait until one more request may be sent, and return its permit."""
        async with self._lock:
            if not self._has_token:
                await self._bucket.acquire()
                self._has_token = True  # if this waiter is cancelled, the next one uses it
            # A pause may begin, or grow, meanwhile; the window may be full after it.
            while True:
                now = self.loop.time()
                if now < self._pause.ends_at:
                    await asyncio.sleep(self._pause.ends_at - now)
                elif self.window.grant(now):
                    self._has_token = False
                    return _RequestPermit(self, now)
                elif (when := self.window.next_grant()) is not None:
                    await asyncio.sleep(when - now)
                else:
                    self.answer = self.loop.create_future()
                    await self.answer

    def refuse(self, delay: float, granted_at: float) -> bool:
        """Grant nothing for ``delay`` seconds."""
        return self._pause.refuse(delay, granted_at, self.loop.time())
