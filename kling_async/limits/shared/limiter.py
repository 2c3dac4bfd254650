"""The limits of an account that several processes share through Redis or PostgreSQL.

The numbers are kept by a backend that all of these processes reach. Requests and slots are obtained
from it in bulk, first in, first out in each process, and with equal shares for all of them. Only
the backend's clock counts.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Self
from uuid import uuid4

from attrs import define, evolve, field

from kling_async._utils.numbers import is_number
from kling_async._utils.urls import redact_url
from kling_async.errors import ConfigurationError, LimiterError
from kling_async.limits.base import Limits
from kling_async.limits.local import LocalLimiter, LoopLimiter, LoopState
from kling_async.limits.shared.availability import MonitoredBackend, WhenGone
from kling_async.limits.shared.backend import create_backend
from kling_async.limits.shared.request_grants import RequestGrants
from kling_async.limits.shared.schedule import RequestSchedule
from kling_async.limits.shared.slot_leases import RECOVERY_DELAY, LeaseSettings, SlotLeases

if TYPE_CHECKING:
    from kling_async.limits.shared.backend import LimitsBackend, Usage


def name_of(api_key: str) -> str:
    """Return the name under which the limits of a key are kept: a checksum, never the key."""
    return sha256(f"kling_async limits {api_key}".encode()).hexdigest()[:16]


class SharedLimiter(LoopLimiter["_SharedState"]):
    """Keeps all processes that use it within the limits together.

    Use it as an async context manager, or call :meth:`close` at the end. Several clients may
    share one, on one event loop at a time. It connects when it is first used. Its methods are
    those of :class:`~kling_async.limits.Limiter`. They raise ConfigurationError if the backend
    refuses access, or if the limiter is in use on another loop that is running. `request` and
    `slot` raise LimiterError if the limiter is closed, or if the backend cannot be reached and
    ``when_gone`` is ``"raise"``.

    Args:
        backend: Where the numbers are kept: a URL of scheme ``redis``, ``rediss``, ``valkey``,
            ``valkeys``, ``postgresql`` or ``postgres``; or a backend of your own, which is not
            closed.
        limits: What the account may do. All processes must pass the same.
        name: Limiters with the same name share one budget. Default: a checksum of the key in
            ``APIXO_API_KEY``, which is also the name that a client uses for its key.
        when_gone: What to do while the backend cannot be reached. ``"wait"``: everything
            waits until it is back. ``"raise"``: calls raise ``LimiterError``. ``"local"``: this
            process keeps within its own share of the limits.
        share: That share, from 0 to 1; only for ``"local"``. All shares should add up to 1.
        settle: Seconds for which a backend that has lost its state, or is new, grants
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
        when_gone: WhenGone = "wait",
        share: float | None = None,
        settle: float | None = None,
    ) -> None:
        super().__init__(limits)
        self._backend = backend
        self._name = _check_name(name, backend)
        self._when_gone: WhenGone = when_gone
        self._local = _local_share(self.limits, when_gone, share)
        if isinstance(backend, str):
            self._label = redact_url(backend)
            create_backend(backend, self._name)  # raises what is wrong with the URL
        elif not hasattr(backend, "reserve"):
            raise ConfigurationError(f"a backend is a URL or has reserve(), not {backend!r:.80}")
        else:
            self._label = type(backend).__name__
        if settle is not None and not (is_number(settle) and settle >= 0):
            raise ConfigurationError(f"settle must be a number of seconds, not {settle!r:.80}")
        self._settings = LeaseSettings(
            self.limits,
            RequestSchedule.for_limits(self.limits, settle),
            RECOVERY_DELAY if settle is None else settle,
            self._local.limits.concurrent_tasks if self._local else 0,
            holder="",
        )

    def __repr__(self) -> str:
        return f"<SharedLimiter {self._label} {self.limits!r} slots in use: {self.slots_in_use}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def name(self) -> str:
        """The name under which the numbers are kept."""
        return self._name

    async def peek(self) -> Usage:
        """Return what all processes use together, whatever ``when_gone`` is.

        Raises:
            LimiterError: The backend cannot be reached.
            ConfigurationError: The backend refuses access.
        """
        backend = self._loops.get().backend.backend
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
        state = self._loops.get()
        async with state.closing:
            if state.closed:
                return  # by another call meanwhile
            try:
                await state.requests.close()
                await state.slots.close()
            finally:
                state.closed = True
                self._loops.discard()
                await state.finalizer.aclose()

    def _create_state(self, loop: asyncio.AbstractEventLoop) -> _SharedState:
        source = self._backend
        backend = MonitoredBackend(
            create_backend(source, self._name) if isinstance(source, str) else source,
            self._label,
            self._when_gone,
            self._state.backend.epoch if self._state else "",
        )
        if self._state is None or self._state.process != os.getpid():
            # Containers often have one name and the same process ids.
            holder = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:16]}"
            self._settings = evolve(self._settings, holder=holder)
        settings = self._settings
        return _SharedState(
            loop=loop,
            requests=RequestGrants(loop, backend, settings.schedule, self._local, settings.holder),
            slots=SlotLeases(loop, backend, settings, self._loops.get),
            backend=backend,
            closes_backend=isinstance(source, str),
        )


@define(eq=False, kw_only=True)
class _SharedState(LoopState):
    """What belongs to one event loop, until the limiter is closed."""

    requests: RequestGrants
    slots: SlotLeases
    backend: MonitoredBackend
    closes_backend: bool
    process: int = field(factory=os.getpid)
    closed: bool = False
    closing: asyncio.Lock = field(factory=asyncio.Lock)
    finalizer: AsyncGenerator[None, None] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.finalizer = self._close_with_loop()
        with suppress(StopIteration):  # it runs to its yield, without waiting for anything
            self.finalizer.asend(None).send(None)

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
    if not isinstance(name, str) or not name or not name.isprintable() or {"{", "}"} & {*name}:
        raise ConfigurationError(f"the name of shared limits is a word or two, not {name!r}")
    return name


def _local_share(limits: Limits, when_gone: str, share: float | None) -> LocalLimiter | None:
    if when_gone not in ("wait", "raise", "local"):
        raise ConfigurationError(f'when_gone is "wait", "raise" or "local", not {when_gone!r}')
    if (when_gone == "local") != (share is not None):
        raise ConfigurationError('when_gone="local" needs share=, and nothing else takes it')
    if share is None:
        return None
    if not is_number(share) or not 0 < share <= 1:
        raise ConfigurationError(f"a share lies between 0 and 1, not {share!r}")
    return LocalLimiter(
        Limits(
            max(1, int(limits.requests_per_minute * share)),
            max(1, int(limits.concurrent_tasks * share)),
            limits.presumed_lifetime,
        )
    )
