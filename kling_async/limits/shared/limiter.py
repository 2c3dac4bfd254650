"""The limits of an account that several processes share through Redis or PostgreSQL.

The numbers are kept by a backend that all of these processes reach. Requests and slots are obtained
from it in bulk, first in, first out in each process, and with equal shares for all of them. Only
the backend's clock counts.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Self
from uuid import uuid4

from attrs import define, evolve, field

from kling_async._utils.urls import redact_url
from kling_async.errors import ConfigurationError, LimiterError
from kling_async.limits.base import Limits
from kling_async.limits.local import LocalLimiter
from kling_async.limits.shared.availability import MonitoredBackend, OnUnavailable
from kling_async.limits.shared.backend import create_backend
from kling_async.limits.shared.request_grants import RequestGrants
from kling_async.limits.shared.schedule import RequestSchedule
from kling_async.limits.shared.slot_leases import RECOVERY_DELAY, LeaseSettings, SlotLeases

if TYPE_CHECKING:
    from types import TracebackType

    from kling_async.limits.base import Permit, Slot
    from kling_async.limits.shared.backend import LimitsBackend, Usage
    from kling_async.results import TaskRef


def name_of(api_key: str) -> str:
    """Return the name under which the limits of a key are kept: a checksum, never the key."""
    return sha256(f"kling_async limits {api_key}".encode()).hexdigest()[:16]


class SharedLimiter:
    """Keeps all processes that use it within the limits together.

    Use it as an async context manager, or call :meth:`close` at the end. Several clients may
    share one, on one event loop at a time. It connects when it is first used.

    Args:
        backend: Where the numbers are kept: a URL of scheme ``redis``, ``rediss``, ``valkey``,
            ``valkeys``, ``postgresql`` or ``postgres``; or a backend of your own, which is not
            closed.
        limits: What the account may do. All processes must pass the same.
        name: Limiters with the same name share one budget. Default: a checksum of the key in
            ``APIXO_API_KEY``, which is also the name that a client uses for its key.
        on_unavailable: What to do while the backend cannot be reached. ``"wait"``: everything
            waits until it is back. ``"raise"``: calls raise ``LimiterError``. ``"local"``: this
            process keeps within its own share of the limits.
        share: That share, from 0 to 1; only for ``"local"``. All shares should add up to 1.
        recovery_delay: Seconds for which a backend that has lost its state, or is new, grants
            nothing. None: as long as earlier grants may still be used. Tests pass 0.

    Raises:
        ConfigurationError: The URL has an unknown scheme, or a setting is invalid.
        MissingExtraError: The package for this backend is not installed.
    """

    def __init__(  # noqa: PLR0913 - every one is a keyword with a default
        self,
        backend: str | LimitsBackend,
        *,
        limits: Limits | None = None,
        name: str | None = None,
        on_unavailable: OnUnavailable = "wait",
        share: float | None = None,
        recovery_delay: float | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._backend = backend
        self._name = _check_name(name, backend)
        self._on_unavailable: OnUnavailable = on_unavailable
        self._local = _local_share(self._limits, on_unavailable, share)
        if isinstance(backend, str):
            self._label = redact_url(backend)
            create_backend(backend, self._name)  # raises what is wrong with the URL
        else:
            self._label = type(backend).__name__
        self._settings = LeaseSettings(
            self._limits,
            RequestSchedule.for_limits(self._limits, recovery_delay),
            RECOVERY_DELAY if recovery_delay is None else recovery_delay,
            self._local.limits.concurrent_tasks if self._local else 0,
            holder="",
        )
        self._state: _LoopState | None = None

    def __repr__(self) -> str:
        return f"<SharedLimiter {self._label} {self._limits!r} slots in use: {self.slots_in_use}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def limits(self) -> Limits:
        """The limits that all processes keep together."""
        return self._limits

    @property
    def name(self) -> str:
        """The name under which the numbers are kept."""
        return self._name

    @property
    def slots_in_use(self) -> int:
        """How many slots this process holds now."""
        return len(self._state.slots.held) if self._state else 0

    @property
    def effective_tasks(self) -> int:
        """How many tasks may run now: fewer than the limit after the service has refused some."""
        return self._state.slots.cap.cap if self._state else self._limits.concurrent_tasks

    def request(self) -> Coroutine[object, object, Permit]:
        """Wait until one more request may be sent, and return its permit.

        Raises:
            LimiterError: The backend cannot be reached and ``on_unavailable`` is ``"raise"``, or
                the limiter was closed.
            ConfigurationError: The backend refuses access, or the limiter is in use on another
                event loop.
        """
        return self._on_loop().requests.request()

    def pause(self, delay: float, permit: Permit) -> bool:
        """Let all requests wait, in all processes; see :class:`~kling_async.limits.Limiter`."""
        return self._on_loop().requests.refuse(delay, permit.granted_at)

    def slot(self, *, first: bool = False) -> Coroutine[object, object, Slot]:
        """Wait until one more task may run, and return its slot.

        Args:
            first: Wait before the other callers of this process.

        Raises:
            LimiterError: As for :meth:`request`.
            ConfigurationError: As for :meth:`request`.
        """
        return self._on_loop().slots.acquire(first=first)

    def adopt(
        self,
        ref: TaskRef,
        lifetime: float | None = None,
        on_expired: Callable[[], None] | None = None,
    ) -> Slot:
        """Return the slot of a task that runs already, taken over from any other process."""
        return self._on_loop().slots.adopt(ref, lifetime, on_expired)

    def refused(self, slot: Slot) -> None:
        """Release the slot of a refused submit, and let fewer tasks run, in all processes."""
        self._on_loop().slots.refuse(slot)

    async def peek(self) -> Usage:
        """Return what all processes use together, whatever ``on_unavailable`` is.

        Raises:
            LimiterError: The backend cannot be reached.
            ConfigurationError: The backend refuses access.
        """
        backend = self._on_loop().backend.backend
        try:
            with suppress(LimiterError):  # the connection may be one to a server that has ended
                return await backend.peek()
            return await backend.peek()
        except LimiterError as error:
            raise LimiterError(f"the limits at {self._label} cannot be read: {error}") from error

    async def close(self) -> None:
        """Report what was released, and close the connections.

        Slots of running tasks are still held. The limiter may be used again afterwards.
        """
        if self._state is None or self._state.closed:
            return
        state = self._on_loop()
        async with state.closing:
            if state.closed:
                return  # by another call meanwhile
            try:
                await state.requests.close()
                await state.slots.close()
            finally:
                state.closed = True
                await state.finalizer.aclose()

    def _on_loop(self) -> _LoopState:
        """Return the state of the running loop."""
        loop, previous = asyncio.get_running_loop(), self._state
        if previous is not None:
            if previous.loop is loop and not previous.closed:
                return previous
            if previous.loop is not loop and previous.loop.is_running():
                raise ConfigurationError(
                    "this SharedLimiter is in use on another event loop, which is still running:"
                    " make one for each loop, with the same URL and name"
                )
        if previous is None or previous.process != os.getpid():
            holder = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:4]}"
            self._settings = evolve(self._settings, holder=holder)
        self._state = state = self._create_state(loop, previous)
        with suppress(StopIteration):  # it runs to its yield, without waiting for anything
            state.finalizer.asend(None).send(None)
        if previous is not None:
            # Clocks of loops may start from different zeros.
            shift = loop.time() - previous.loop.time()
            state.requests.take_over(previous.requests, shift)
            state.slots.take_over(previous.slots, shift)
        return state

    def _create_state(
        self, loop: asyncio.AbstractEventLoop, previous: _LoopState | None
    ) -> _LoopState:
        source, settings = self._backend, self._settings
        backend = MonitoredBackend(
            create_backend(source, self._name) if isinstance(source, str) else source,
            self._label,
            self._on_unavailable,
            previous.backend.epoch if previous else "",
        )
        return _LoopState(
            loop,
            backend,
            RequestGrants(loop, backend, settings.schedule, self._local, settings.holder),
            SlotLeases(loop, backend, settings, self._on_loop),
            closes_backend=isinstance(source, str),
        )


@define(eq=False)
class _LoopState:
    """What belongs to one event loop, until the limiter is closed."""

    loop: asyncio.AbstractEventLoop
    backend: MonitoredBackend
    requests: RequestGrants
    slots: SlotLeases
    closes_backend: bool
    process: int = field(factory=os.getpid)
    closed: bool = False
    closing: asyncio.Lock = field(factory=asyncio.Lock)
    finalizer: AsyncGenerator[None, None] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.finalizer = self._close_with_loop()

    async def _close_with_loop(self) -> AsyncGenerator[None, None]:
        """Close the connections when the event loop ends: it closes its generators then."""
        try:
            yield
        finally:
            self.requests.stop()
            self.slots.stop()
            if self.closes_backend:
                await self.backend.backend.close()


def _check_name(name: str | None, backend: str | LimitsBackend) -> str:
    if name is None:
        key = (os.environ.get("APIXO_API_KEY") or "").strip()
        if key:
            return name_of(key)
        if not isinstance(backend, str):
            return ""
        raise ConfigurationError("whose limits are these? pass name=, or set APIXO_API_KEY")
    if not name or not name.isprintable() or {"{", "}"} & {*name}:
        raise ConfigurationError(f"the name of shared limits is a word or two, not {name!r}")
    return name


def _local_share(limits: Limits, on_unavailable: str, share: float | None) -> LocalLimiter | None:
    if on_unavailable not in {"wait", "raise", "local"}:
        raise ConfigurationError(
            f'on_unavailable is "wait", "raise" or "local", not {on_unavailable!r}'
        )
    if (on_unavailable == "local") != (share is not None):
        raise ConfigurationError('on_unavailable="local" needs share=, and nothing else takes it')
    if share is None:
        return None
    if not 0 < share <= 1:
        raise ConfigurationError(f"a share lies between 0 and 1, not {share!r}")
    return LocalLimiter(
        Limits(
            max(1, int(limits.requests_per_minute * share)),
            max(1, int(limits.concurrent_tasks * share)),
            limits.presumed_lifetime,
        )
    )
