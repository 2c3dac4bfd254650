"""What the local and the shared limiter have in common: they serve one event loop at a time."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from attrs import define

from kling_async.errors import ConfigurationError
from kling_async.limits.base import Limits
from kling_async.limits.slots import SlotTable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from kling_async.limits.base import Permit, Slot
    from kling_async.results import TaskRef


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
    slots: SlotTable[Any]
    closed: bool = False


StateT = TypeVar("StateT", bound=LoopState)


class LoopLimiter(Generic[StateT]):
    """A `Limiter` with one state for each event loop. Its methods are described there.

    All of them raise ConfigurationError if the limiter is in use on another loop that is running.
    """

    def __init__(self, limits: Limits | None) -> None:
        self._limits = limits or Limits()
        self._state: StateT | None = None

    @property
    def limits(self) -> Limits:
        """The limits that it keeps."""
        return self._limits

    @property
    def slots_in_use(self) -> int:
        """How many slots this process holds now."""
        return len(self._state.slots.held) if self._state else 0

    @property
    def effective_tasks(self) -> int:
        """How many tasks may run: fewer than the limit after the service has refused some."""
        return self._state.slots.cap.cap if self._state else self._limits.concurrent_tasks

    def request(self) -> Coroutine[object, object, Permit]:
        """Wait until one more request may be sent, and return its permit."""
        return self._on_loop().requests.request()

    def pause(self, delay: float, permit: Permit) -> bool:
        """Let all requests wait for ``delay`` seconds; return whether a pause began or grew."""
        return self._on_loop().requests.refuse(delay, permit.granted_at)

    def slot(self, *, first: bool = False) -> Coroutine[object, object, Slot]:
        """Wait until one more task may run, and return its slot."""
        return self._on_loop().slots.acquire(first=first)

    def adopt(
        self,
        ref: TaskRef,
        lifetime: float | None = None,
        on_expired: Callable[[], None] | None = None,
    ) -> Slot:
        """Return the slot of a task that runs already; one is added even beyond the limit."""
        slot: Slot = self._on_loop().slots.adopt(ref, lifetime, on_expired)
        return slot

    def refused(self, slot: Slot) -> None:
        """Note that the service answered 429 to the submit that holds this slot."""
        self._on_loop().slots.refuse(slot)

    def _on_loop(self) -> StateT:
        """Return the state of the running loop."""
        loop, previous = asyncio.get_running_loop(), self._state
        if previous is not None:
            if previous.loop is loop and not previous.closed:
                return previous
            if previous.loop is not loop and previous.loop.is_running():
                raise ConfigurationError(
                    "a limiter, and the clients that share it, serve one running event loop: make"
                    " one for each loop (shared ones with the same URL and name), or run the"
                    " coroutines on the loop that has them, by asyncio.run_coroutine_threadsafe"
                )
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
