"""Callbacks for several processes: each hears of those that came to the others.

With several workers behind one URL, a callback arrives at any of them, and only the one that has
submitted, or attached, the task can use it. A relay gives it to all::

    relay = Relay(inbox, "redis://cache:6379")  # or valkey://…, postgresql://…
    async with relay, KlingClient(inbox=inbox) as kling:
        ...

    app = FastAPI(lifespan=fastapi.lifespan(kling, relay=relay))  # and as much in other edges

Callbacks are kept at the engine for a while and announced, so that none is missed by who loses
the connection. All the same each is but a hint, as it is without a relay: if the engine is
away, tasks end by the polls that are made for lost callbacks.

Needs the extra ``redis`` or ``postgres``: ``pip install "kling-async[redis]"``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import random
from typing import TYPE_CHECKING, Self, TypeVar, cast

from attrs import frozen

from kling_async._utils.urls import redact_url
from kling_async.errors import ConfigurationError
from kling_async.policy.retry import backoff
from kling_async.webhooks.relay import _message as _relay_message
from kling_async.webhooks.relay._engines import WAIT, Engine, connect

if TYPE_CHECKING:
    from types import TracebackType

    from kling_async.protocol.callbacks import Callback
    from kling_async.webhooks.inbox import Inbox

_K = TypeVar("_K")
_T = TypeVar("_T")

_log = logging.getLogger("kling_async")

# Callbacks that wait to be published. While the engine is away new ones take the place of old
# ones: those are found by polls in the meantime.
_WAITING = 2_000

# Lines that are published at once.
_AT_ONCE = 200

# Callbacks of one submit that are published. The service tries four times (the contract); whoever
# has learned a URL can have the others told no more often than that.
_OFTEN = 4

# Submits, and lines, that are remembered: those of a minute, at the highest limits known.
_REMEMBERED = 10_000

# Seconds after which an engine that gives no answer is given up.
_PATIENCE = 2.0

# Seconds between one try and the next, growing.
_SOONEST, _LATEST = 0.1, 5.0

# Seconds between two reads, so that what comes in a flood is read in bulk.
_BREATH = 0.01

# Seconds in which the last callbacks are published when it closes.
_LAST = 1.0


@frozen
class RelayCounts:
    """What a relay has carried.

    Attributes:
        published: Callbacks that came here, and that the others can hear of.
        dropped: Callbacks that came here, and that the others do not hear of: the engine was away
            for too long, or one URL was called too often.
        heard: Callbacks that came to others. :attr:`Counts.relayed <kling_async.webhooks.Counts>`
            says how many of them were of use here.
        malformed: What was found at the engine, and is nothing that a relay has written.
    """

    published: int = 0
    dropped: int = 0
    heard: int = 0
    malformed: int = 0


class Relay:
    """Shares the callbacks of an inbox with those of other processes.

    Use it as an async context manager, in each process, around the clients of the inbox. It joins
    the inbox by itself, and may be used again. Inside, it raises nothing, and neither waits for
    the engine when it opens nor for longer than a few seconds when it closes.

    Args:
        inbox: Whose callbacks these are.
        engine: What carries them: ``redis://``, ``rediss://``, ``valkey://``, ``valkeys://``,
            ``postgresql://`` or ``postgres://``; or an engine of your own, which is not closed.
        name: Which inboxes hear of each other. Without it, those that have a secret in common.

    Raises:
        ConfigurationError: The address is of no kind that is known, or a setting makes no sense; on
            entering: it is open already, on this event loop or another one that is running.
        MissingExtraError: The package that speaks to the engine is not installed.
    """

    def __init__(self, inbox: Inbox, engine: str | Engine, *, name: str | None = None) -> None:
        self._inbox = inbox
        self._names = inbox.names if name is None else (_checked_name(name),)
        if isinstance(engine, str):
            self._shown = redact_url(engine)
            connect(engine, self._names)  # so that a mistake is found here
        else:
            self._shown = type(engine).__name__
        self._source = engine
        self._counts: Counter[str] = Counter()
        self._waiting: deque[str] = deque()
        # By the nonce of the URL; those that say that a task still runs are counted apart.
        self._called: OrderedDict[tuple[str, bool], int] = OrderedDict()
        self._seen: OrderedDict[str, None] = OrderedDict()
        # What follows belongs to one event loop.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._work: asyncio.Task[None] | None = None
        self._new = self._empty = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Relay {self._shown}>"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            raise ConfigurationError("this relay is open already: open it once in each process")
        if self._loop is not None and self._loop.is_running():
            raise ConfigurationError(
                "this relay is open on another event loop that is running: make one for each loop"
            )
        source = self._source
        engine = connect(source, self._names) if isinstance(source, str) else source
        self._new, self._empty = asyncio.Event(), asyncio.Event()
        self._loop = loop
        self._work = loop.create_task(self._carry(engine))
        self._inbox.join(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def counts(self) -> RelayCounts:
        """What it has carried so far."""
        return RelayCounts(**self._counts)

    def hear(self, callback: Callback) -> bool:
        """Take a callback that came here, on any thread; the inbox calls this.

        Returns:
            Always False: no task runs in a relay.
        """
        if (loop := self._loop) is not None and not callback.relayed:
            with suppress(RuntimeError):  # the loop was closed without us
                loop.call_soon_threadsafe(self._heard, callback)
        return False

    async def close(self) -> None:
        """Tell the others what they do not know yet, and close the connections."""
        work = self._work
        if work is None or self._loop is not asyncio.get_running_loop():
            return
        self._loop = self._work = None
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST):
                    await asyncio.sleep(0)  # for what was heard in this very moment
                    await self._empty.wait()
        finally:
            work.cancel()
            await asyncio.wait([work])

    def _heard(self, callback: Callback) -> None:
        kind = callback.nonce, callback.snapshot.state.ended
        often = self._called.get(kind, 0)
        line = _relay_message.write(callback)
        if often >= _OFTEN or len(line) > _relay_message.LARGEST:
            self._counts["dropped"] += 1
            return
        _remember(self._called, kind, often + 1)
        _remember(self._seen, line.partition(" ")[0], None)  # it comes back to us, too
        self._waiting.append(line)
        self._trim(_WAITING)
        self._empty.clear()
        self._new.set()

    def _trim(self, number: int) -> None:
        """Let the oldest go of those that wait, until there are so many."""
        while len(self._waiting) > number:
            self._waiting.popleft()
            self._counts["dropped"] += 1

    async def _carry(self, engine: Engine) -> None:
        """Publish and read until it is cancelled."""
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._persist("published", lambda: self._publish(engine)))
                both.create_task(self._persist("read", lambda: self._read(engine)))
        finally:
            self._trim(0)
            if isinstance(self._source, str):
                await engine.close()

    async def _persist(self, done: str, step: Callable[[], Awaitable[None]]) -> None:
        """Do something again and again, whatever goes wrong with it."""
        failures = 0
        this = cast("asyncio.Task[None]", asyncio.current_task())
        while not this.cancelling():  # which an engine may have lost
            try:
                await step()
            except Exception as error:  # noqa: BLE001 - it may be a fault of the driver
                if not failures:
                    _log.warning(
                        "callbacks are not %s at %s: %s; tasks end by polls",
                        done,
                        self._shown,
                        str(error) or "no answer in time",
                    )
                failures += 1
                chance = 0.5 + random() / 2  # noqa: S311 - not all processes at the same moment
                await asyncio.sleep(backoff(failures, _SOONEST, _LATEST, chance))
            else:
                if failures:
                    _log.warning("callbacks are %s again at %s", done, self._shown)
                    failures = 0

    async def _publish(self, engine: Engine) -> None:
        """Publish some of those that wait, once there are any."""
        while not self._waiting:
            self._empty.set()
            self._new.clear()
            await self._new.wait()
        lines = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
        try:
            async with asyncio.timeout(_PATIENCE):
                await engine.publish(lines)
        except BaseException:
            self._waiting.extendleft(reversed(lines))
            self._trim(_WAITING)
            raise
        self._counts["published"] += len(lines)

    async def _read(self, engine: Engine) -> None:
        """Read what there is, or wait for a while."""
        async with asyncio.timeout(WAIT + 2 * _PATIENCE):
            lines = await engine.read()
        for line in lines:
            self._take(line)
        await asyncio.sleep(_BREATH)

    def _take(self, line: str) -> None:
        message = _relay_message.read(line)
        if message is None:
            self._counts["malformed"] += 1
        elif message.id not in self._seen:
            _remember(self._seen, message.id, None)
            self._counts["heard"] += 1
            self._inbox.relayed(message.snapshot, message.nonce)


def _remember(table: OrderedDict[_K, _T], key: _K, value: _T) -> None:
    table[key] = value
    if len(table) > _REMEMBERED:
        table.popitem(last=False)


def _checked_name(name: str) -> str:
    if not isinstance(name, str) or not name or not (name.isascii() and name.isprintable()):
        raise ConfigurationError(f"the name of a relay is a plain word or two, not {name!r:.80}")
    return name
