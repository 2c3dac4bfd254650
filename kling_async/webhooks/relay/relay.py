"""A relay shares callbacks between processes.

With several workers behind one URL, a callback arrives at any of them, but only the one that has
submitted or attached the task can use it. A relay sends it to the others::

    relay = Relay(inbox, "redis://cache:6379")  # or valkey://…, postgresql://…
    async with relay, KlingClient(inbox=inbox) as kling:
        ...

    app = FastAPI(lifespan=fastapi.lifespan(kling, relay=relay))  # also in the other adapters

The backend stores callbacks for an hour or more, so that a process that loses the connection
receives them later. While the backend is unavailable, polling finds the tasks that have ended.

Needs the extra ``redis`` or ``postgres``: ``pip install "kling-async[redis]"``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import islice
from random import random
from typing import TYPE_CHECKING, Final, Self, TypeVar, cast

from attrs import frozen

from kling_async._utils.urls import redact_url
from kling_async.errors import ConfigurationError
from kling_async.policy.retry import backoff
from kling_async.tasks.arguments import check_methods
from kling_async.webhooks.relay._message import MAX_LENGTH, format_line, parse_line
from kling_async.webhooks.relay.backends import READ_WAIT, RelayBackend, open_backend

if TYPE_CHECKING:
    from kling_async.protocol.callbacks import Callback
    from kling_async.webhooks.inbox import Inbox

_K = TypeVar("_K")
_T = TypeVar("_T")

# The maximum number of callbacks that wait to be published. New ones replace the oldest, whose
# tasks polling has found to be ended.
_MAX_PENDING: Final = 2_000

# Lines that are published in one call.
_BATCH: Final = 200

# Callbacks of one submit that are published: the most that the service sends.
_MAX_PUBLISHED: Final = 4

# Submits, and lines, that are remembered: those of a minute at the highest known limits.
_MAX_REMEMBERED: Final = 10_000

# Seconds after which a call to the backend has failed.
_TIMEOUT: Final = 2.0

# Seconds between attempts: the first, and the longest.
_BACKOFF: Final = (0.1, 5.0)

# Seconds between two reads, so that bursts are read in bulk.
_READ_INTERVAL: Final = 0.01

# Seconds in which pending callbacks are published on closing.
_CLOSE_TIMEOUT: Final = 1.0

_log = logging.getLogger("kling_async")


@frozen
class RelayCounts:
    """The numbers of callbacks that a relay has transferred.

    Attributes:
        published: Callbacks that arrived here and were sent to the other processes.
        dropped: Callbacks that arrived here and were not sent: the backend was unavailable for
            too long, or one URL was called too often.
        received: Callbacks that arrived at other processes. :attr:`Counts.relayed
            <kling_async.webhooks.Counts>` counts those whose tasks run here.
        malformed: Lines at the backend that no relay has written.
    """

    published: int = 0
    dropped: int = 0
    received: int = 0
    malformed: int = 0


class Relay:
    """Shares the callbacks of an inbox with other processes.

    Use it as an async context manager in each process, around the clients of the inbox; it may be
    opened again. While open, it raises nothing. Opening does not wait for the backend, and closing
    takes a few seconds at most.

    Args:
        inbox: The inbox.
        engine: A ``redis://``, ``rediss://``, ``valkey://``, ``valkeys://``, ``postgresql://``
            or ``postgres://`` URL; or a backend of your own, which is not closed.
        name: Relays of the same name exchange callbacks. By default, those whose inboxes have a
            secret in common.

    Raises:
        ConfigurationError: The URL or the name is invalid. On entering: the relay is open already,
            on this event loop or on another one that is running.
        MissingExtraError: The driver is not installed.
    """

    def __init__(
        self, inbox: Inbox, engine: str | RelayBackend, *, name: str | None = None
    ) -> None:
        check_methods("inbox", inbox, "callback_url", "join", optional=False)
        self._inbox = inbox
        self._names = inbox.names if name is None else (_checked_name(name),)
        self._backend = engine
        if isinstance(engine, str):
            self._label = redact_url(engine)
            open_backend(engine, self._names)  # raises now if the URL is invalid
        else:
            check_methods("engine", engine, "publish", "read", optional=False)
            self._label = type(engine).__name__
        self._counts: Counter[str] = Counter()
        # How often the URL of a nonce was called; callbacks of running tasks count separately.
        self._calls: OrderedDict[tuple[str, bool], int] = OrderedDict()
        self._seen: OrderedDict[str, None] = OrderedDict()  # ids of lines
        self._session: _Session | None = None

    def __repr__(self) -> str:
        return f"<Relay {self._label}>"

    async def __aenter__(self) -> Self:
        if self._session is not None and self._session.loop.is_running():
            raise ConfigurationError(
                "this relay is open already: open it once, or create one for each event loop"
            )
        backend, owned = self._backend, False
        if isinstance(backend, str):
            backend, owned = open_backend(backend, self._names), True
        self._session = _Session(backend, owned, self._label, self._counts, self._receive)
        self._inbox.join(self)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    @property
    def counts(self) -> RelayCounts:
        """The numbers of callbacks transferred so far."""
        return RelayCounts(**self._counts)

    def handle(self, callback: Callback) -> bool:
        """Publish a callback, from any thread. The inbox calls this.

        Returns:
            Always False: no task runs in a relay.
        """
        if (session := self._session) is not None and not callback.relayed:
            with suppress(RuntimeError):  # the loop is closed already
                session.loop.call_soon_threadsafe(self._publish, session, callback)
        return False

    async def close(self) -> None:
        """Publish the pending callbacks, and close the connections."""
        session = self._session
        if session is not None and session.loop is asyncio.get_running_loop():
            self._session = None
            await session.close()

    def _publish(self, session: _Session, callback: Callback) -> None:
        key = callback.nonce, callback.snapshot.state.ended
        calls = self._calls.get(key, 0)
        line = format_line(callback)
        if calls >= _MAX_PUBLISHED or len(line) > MAX_LENGTH:
            self._counts["dropped"] += 1
            return
        _remember(self._calls, key, calls + 1)
        line_id = line.partition(" ")[0]
        _remember(self._seen, line_id, None)  # the backend returns it to us, too
        session.add(line_id, line)

    def _receive(self, line: str) -> None:
        message = parse_line(line)
        if message is None:
            self._counts["malformed"] += 1
            return
        line_id, snapshot, nonce = message
        if line_id not in self._seen:
            _remember(self._seen, line_id, None)
            self._counts["received"] += 1
            self._inbox.deliver_relayed(snapshot, nonce)


class _Session:
    """The work of an open relay on one event loop."""

    def __init__(
        self,
        backend: RelayBackend,
        owned: bool,  # noqa: FBT001
        label: str,
        counts: Counter[str],
        receive: Callable[[str], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._backend = backend
        self._owned = owned
        self._label = label
        self._counts = counts
        self._receive = receive
        self._pending: dict[str, str] = {}  # lines by their id
        self._filled, self._drained = asyncio.Event(), asyncio.Event()
        self._work = self.loop.create_task(self._work_until_cancelled())

    def add(self, line_id: str, line: str) -> None:
        """Publish a line as soon as possible."""
        self._pending[line_id] = line
        self._trim(_MAX_PENDING)
        self._drained.clear()
        self._filled.set()

    async def close(self) -> None:
        """Publish what is pending, and stop."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT):
                    await asyncio.sleep(0)  # for callbacks that arrived at this very moment
                    await self._drained.wait()
        finally:
            self._work.cancel()
            await asyncio.wait([self._work])

    async def _work_until_cancelled(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._repeat("published", self._publish_batch))
                group.create_task(self._repeat("read", self._read_batch))
        finally:
            self._trim(0)
            if self._owned:
                await self._backend.close()

    async def _repeat(self, action: str, step: Callable[[], Awaitable[None]]) -> None:
        """Repeat a step until cancelled, with a backoff after failures."""
        failures = 0
        task = cast("asyncio.Task[None]", asyncio.current_task())
        while not task.cancelling():  # a backend may have suppressed the cancellation
            try:
                await step()
            except Exception as error:  # noqa: BLE001 - a driver may raise anything
                if not failures:
                    reason = str(error) or "no answer in time"
                    text = "callbacks are not %s at %s: %s; polling finds the ends of tasks"
                    _log.warning(text, action, self._label, reason)
                failures += 1
                chance = 0.5 + random() / 2  # noqa: S311 - jitter
                await asyncio.sleep(backoff(failures, *_BACKOFF, chance))
            else:
                if failures:
                    _log.warning("callbacks are %s again at %s", action, self._label)
                    failures = 0

    async def _publish_batch(self) -> None:
        if not self._pending:
            self._filled.clear()
            self._drained.set()
        await self._filled.wait()
        batch = dict(islice(self._pending.items(), _BATCH))
        async with asyncio.timeout(_TIMEOUT):
            await self._backend.publish(list(batch.values()))
        for line_id in batch:
            if self._pending.pop(line_id, None) is not None:  # else it was dropped meanwhile
                self._counts["published"] += 1

    async def _read_batch(self) -> None:
        async with asyncio.timeout(READ_WAIT + 2 * _TIMEOUT):
            lines = await self._backend.read()
        for line in lines:
            self._receive(line)
        await asyncio.sleep(_READ_INTERVAL)

    def _trim(self, count: int) -> None:
        """Drop the oldest pending lines, down to this number."""
        while len(self._pending) > count:
            del self._pending[next(iter(self._pending))]
            self._counts["dropped"] += 1


def _remember(table: OrderedDict[_K, _T], key: _K, value: _T) -> None:
    table[key] = value
    if len(table) > _MAX_REMEMBERED:
        table.popitem(last=False)


def _checked_name(name: str) -> str:
    if not isinstance(name, str) or not name or not (name.isascii() and name.isprintable()):
        raise ConfigurationError(f"a relay's name must be printable ASCII text, not {name!r:.80}")
    return name
