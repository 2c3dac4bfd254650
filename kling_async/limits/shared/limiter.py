"""The waiting, for all processes that use one key.

The numbers are kept by an engine that all of them reach: Redis, Valkey or PostgreSQL. Requests
and slots go through it in bulk, in the order in which they were asked for here, and with equal
shares for all processes. Only the engine's clock counts.
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

from kling_async._utils.urls import redact_url
from kling_async.errors import ConfigurationError, LimiterError
from kling_async.limits.base import Limits
from kling_async.limits.local import LocalLimiter
from kling_async.limits.shared.availability import Link, OnUnavailable
from kling_async.limits.shared.backend import create_backend
from kling_async.limits.shared.request_grants import Requests
from kling_async.limits.shared.schedule import RequestSchedule
from kling_async.limits.shared.slot_leases import Leases

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
        engine: Where the numbers are kept: ``redis://``, ``rediss://``, ``valkey://``,
            ``valkeys://``, ``postgresql://`` or ``postgres://``; or an engine of your own, which
            is not closed.
        limits: What the account may do. All processes must say the same.
        name: Whose limits these are: limiters of one name share one budget. Without it, a
            checksum of the key in ``APIXO_API_KEY``, as a client takes that was given an address.
        on_unavailable: What to do while the engine cannot be reached. ``"wait"``: everything waits
            until it is back. ``"raise"``: calls raise ``LimiterError``. ``"local"``: this process
            keeps within its own share of the limits.
        share: That share, from 0 to 1; for ``"local"`` only. All shares should be 1 together.
        recovery_delay: Seconds for which a backend that has lost its state, or is new, grants
            nothing. None: as long as earlier grants may still be used. Tests pass 0.

    Raises:
        ConfigurationError: The address is of no kind that is known, or a setting makes no sense.
        MissingExtraError: The package that speaks to the engine is not installed.
    """

    def __init__(  # noqa: PLR0913 - every one is a keyword with a default
        self,
        engine: str | LimitsBackend,
        *,
        limits: Limits | None = None,
        name: str | None = None,
        on_unavailable: OnUnavailable = "wait",
        share: float | None = None,
        recovery_delay: float | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._source = engine
        self._name = _checked_name(name, engine)
        self._when_gone: OnUnavailable = on_unavailable
        local = _local(self._limits, on_unavailable, share)
        if isinstance(engine, str):
            self._shown = redact_url(engine)
            create_backend(engine, self._name)  # so that a mistake is found here
        else:
            self._shown = type(engine).__name__
        pace = RequestSchedule.for_limits(self._limits, recovery_delay)
        alone = local.limits.concurrent_tasks if local else 0
        self._leases = Leases(self._limits, pace, recovery_delay, alone)
        self._requests = Requests(pace, local, self._leases.heard)
        self._link: Link | None = None
        self._guard: AsyncGenerator[None, None]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process, self._holder = 0, ""

    def __repr__(self) -> str:
        held = self._leases.used
        return f"<SharedLimiter {self._shown} {self._limits!r} slots in use here: {held}>"

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
        """The numbers that all processes keep together."""
        return self._limits

    @property
    def name(self) -> str:
        """Whose limits these are."""
        return self._name

    @property
    def slots_in_use(self) -> int:
        """How many slots this process holds now."""
        return self._leases.used

    @property
    def effective_tasks(self) -> int:
        """How many tasks may run now: fewer than the limit after the service has refused some."""
        return self._leases.cap

    def request(self) -> Coroutine[object, object, Permit]:
        """Wait until one more request may be sent.

        Raises:
            LimiterError: The engine cannot be reached, and ``on_unavailable`` is ``"raise"``.
            ConfigurationError: The engine refuses to work for us, or the limiter is in use on
                another event loop.
        """
        self._bind()
        return self._requests.request()

    def pause(self, delay: float, permit: Permit) -> bool:
        """Let every request wait, in all processes; see :class:`~kling_async.limits.Limiter`."""
        self._bind()
        return self._requests.pause(delay, permit)

    def slot(self, *, first: bool = False) -> Coroutine[object, object, Slot]:
        """Wait until one more task may run, and hold its slot.

        Args:
            first: Wait before those of this process that wait already.

        Raises:
            LimiterError: The engine cannot be reached, and ``on_unavailable`` is ``"raise"``.
            ConfigurationError: The engine refuses to work for us, or the limiter is in use on
                another event loop.
        """
        self._bind()
        return self._leases.take(first=first)

    def adopt(
        self,
        ref: TaskRef,
        lifetime: float | None = None,
        on_expired: Callable[[], None] | None = None,
    ) -> Slot:
        """Hold the slot of a task that runs already, whoever held it, even beyond the limit."""
        self._bind()
        return self._leases.adopt(str(ref), lifetime, on_expired)

    def refused(self, slot: Slot) -> None:
        """Free the slot of a submit that was refused, and let fewer tasks run, in all processes."""
        self._bind()
        self._leases.refused(slot)

    async def peek(self) -> Usage:
        """Return what all processes use together, whatever ``on_unavailable`` says.

        Raises:
            LimiterError: The engine cannot be reached.
            ConfigurationError: The engine refuses to work for us.
        """
        engine = self._bind().engine
        try:
            with suppress(LimiterError):  # the connection may have ended with an engine before
                return await engine.peek()
            return await engine.peek()
        except LimiterError as error:
            raise LimiterError(f"the limits at {self._shown} cannot be read: {error}") from error

    async def close(self) -> None:
        """Free what was given back, and close the connections.

        Slots of tasks that run stay taken. It may be used again afterwards.
        """
        if self._link is None:
            return
        link = self._bind()
        async with self._closing:
            if self._link is not link:
                return  # somebody else has closed it meanwhile
            try:
                # Until both have ended it is bound, so that whoever comes now is told at once.
                await self._requests.close()
                await self._leases.close()
            finally:
                self._link = None
                await self._guard.aclose()

    def _bind(self) -> Link:
        """Go over to the running loop: connections and tasks belong to one."""
        loop = asyncio.get_running_loop()
        if loop is self._loop and self._link is not None:
            return self._link
        if loop is not self._loop and self._loop is not None and self._loop.is_running():
            raise ConfigurationError(
                "this SharedLimiter is in use on another event loop, which is still running: make"
                " one for each loop, with the same address and name"
            )
        source = self._source
        engine = create_backend(source, self._name) if isinstance(source, str) else source
        self._link = link = Link(engine, self._shown, self._when_gone)
        self._guard = self._until_loop_ends(link)
        with suppress(StopIteration):  # it is at its yield, without having waited for anything
            self._guard.asend(None).send(None)
        # Loops may count time from different zeros.
        shift = loop.time() - self._loop.time() if self._loop else 0.0
        if self._process != os.getpid():
            self._process = os.getpid()
            self._holder = f"{socket.gethostname()}:{self._process}:{uuid4().hex[:4]}"
        self._requests.move(loop, shift, link, self._holder)
        self._leases.move(loop, shift, link, self._holder)
        self._loop = loop
        self._closing = asyncio.Lock()
        return link

    async def _until_loop_ends(self, link: Link) -> AsyncGenerator[None, None]:
        """Close the connections when the loop winds up: it ends its generators then."""
        try:
            yield
        finally:
            if self._link is link:
                self._requests.stop()
                self._leases.stop()
            if isinstance(self._source, str):
                await link.engine.close()


def _checked_name(name: str | None, engine: str | LimitsBackend) -> str:
    if name is None:
        key = (os.environ.get("APIXO_API_KEY") or "").strip()
        if key:
            return name_of(key)
        if not isinstance(engine, str):
            return ""
        raise ConfigurationError("whose limits are these? pass name=, or set APIXO_API_KEY")
    if not name or not name.isprintable() or {"{", "}"} & {*name}:
        raise ConfigurationError(f"the name of shared limits is a word or two, not {name!r}")
    return name


def _local(limits: Limits, on_unavailable: str, share: float | None) -> LocalLimiter | None:
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
