"""The same work through a broker of your own: one taskiq task, which may be delivered twice.

::

    broker = AioPikaBroker("amqp://…")
    generate = kling_async.taskiq.install(broker, KlingClient, journal="postgresql://…")

    sent = await generate.kiq("fox", MasterTextToVideo("a fox in fresh snow").to_dict())

Every message names an item of a batch, by its key, and carries its input. All workers share the
batch's journal, which sees to it that an item is paid for once, however often its message is
delivered: a second worker waits for the first, or, if that has died, attaches its task.

Nothing that becomes of an item is an error for taskiq, which could only have the message
delivered again: the task returns plain values, an ``error`` and whether it
``may_have_charged`` among them. Its message is acknowledged after that, so that one whose worker
was killed is delivered to another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, TypeAlias, Unpack

from kling_async._utils.extras import missing_extra
from kling_async.batch.batch import Batch
from kling_async.errors import JournalError, KlingError
from kling_async.fleet.item_stream import Feed
from kling_async.fleet.serialization import error_dict, item_from, outcome_dict
from kling_async.fleet.worker import worker_options

try:
    from taskiq import AsyncBroker, AsyncTaskiqDecoratedTask, TaskiqEvents, TaskiqState
except ImportError:
    raise missing_extra("taskiq", "this needs taskiq") from None

if TYPE_CHECKING:
    from kling_async.batch.decisions import Item
    from kling_async.batch.options import BatchKeywords, BatchOptions
    from kling_async.client import KlingClient
    from kling_async.journal.postgres.journal import PostgresJournal
    from kling_async.tasks.fan_out import Outcome

_log = logging.getLogger("kling_async")

TASK = "kling_async:generate"
"""The task's name, for who sends messages without this module."""

Generate: TypeAlias = AsyncTaskiqDecoratedTask[
    [str, Mapping[str, object]], Coroutine[object, object, dict[str, object]]
]
"""The task: of a key and the fields of an input."""

# Seconds after which a journal that could not be used is tried again.
_AGAIN = 1.0


def install(  # noqa: PLR0913 - every one is a keyword with a default
    broker: AsyncBroker,
    client: Callable[[], KlingClient],
    *,
    journal: str,
    name: str | None = None,
    concurrency: int = 100,
    lease: float = 60.0,
    options: BatchOptions | None = None,
    **keywords: Unpack[BatchKeywords],
) -> Generate:
    """Register the task with a broker, and what opens and closes the client in its workers.

    Args:
        broker: Any of taskiq's that acknowledges messages late and delivers those of a worker
            that was killed to another. Those on Redis do not.
        client: Makes the client of a worker, which closes it.
        journal: The URL of the batch's journal, such as ``postgresql://user@host/database``.
        name: The batch's name, if it is not in the URL as ``?batch=``; else ``default``.
        concurrency: How many tasks may run at one time in a worker.
        lease: Seconds after which a worker that is not heard of is believed dead.
        options: The options of the batch, except ``in_flight``, which is ``concurrency``, and
            ``resubmit_unsure``: an item that a worker has left unsure is not submitted again.
        **keywords: Single options, such as ``download_to="videos/"``; they replace those of
            ``options``.

    Returns:
        The task. ``await generate.kiq(key, input.to_dict())`` sends a message.

    Raises:
        ConfigurationError: A setting makes no sense.
        MissingExtraError: psycopg is not installed.
    """
    from kling_async.journal.postgres.journal import PostgresJournal

    PostgresJournal(journal, name=name, lease=lease)  # complains at once, not in every worker
    checked = worker_options(options, keywords, concurrency)

    def opened(kling: KlingClient) -> tuple[PostgresJournal, Batch]:
        shared = PostgresJournal(journal, name=name, lease=lease)
        return shared, Batch(kling, journal=shared, options=checked)

    station = _Station(client, opened)

    async def generate(key: str, input: Mapping[str, object]) -> dict[str, object]:
        return await station.generate(key, input)

    broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, station.start)
    broker.add_event_handler(TaskiqEvents.WORKER_SHUTDOWN, station.stop)
    # To acknowledge a message before its item has ended is to lose it with the worker.
    return broker.register_task(generate, TASK, ack_type="when_saved")


class _Station:
    """What a worker of taskiq has open: a client, and a batch that is fed with what is sent."""

    def __init__(
        self,
        client: Callable[[], KlingClient],
        opened: Callable[[KlingClient], tuple[PostgresJournal, Batch]],
    ) -> None:
        self._client = client
        self._opened = opened
        self._feed: asyncio.Future[Feed]
        self._working: asyncio.Task[None] | None = None

    async def start(self, _: TaskiqState) -> None:
        """Open everything; complain if that cannot be done."""
        self._feed = asyncio.get_running_loop().create_future()
        self._working = asyncio.create_task(self._work())
        await asyncio.wait((self._working, self._feed), return_when=asyncio.FIRST_COMPLETED)
        if self._working.done():
            self._working.result()

    async def stop(self, _: TaskiqState) -> None:
        """Close everything. Whoever waits for an outcome waits on: nothing is acknowledged."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait((self._working,))

    async def generate(self, key: str, fields: Mapping[str, object]) -> dict[str, object]:
        """Bring an item to its end, and tell of it in plain values."""
        try:
            item = item_from(key, fields)
            return outcome_dict(await self._outcome(item))
        except KlingError as error:
            return error_dict(key, error)

    async def _outcome(self, item: Item) -> Outcome:
        while True:
            feed = await asyncio.shield(self._feed)
            try:
                (future,) = await feed.put([item])
                return await asyncio.shield(future)
            except JournalError:  # then there will be another
                await asyncio.sleep(_AGAIN)

    async def _work(self) -> None:
        started = False
        async with self._client() as kling:
            while True:
                try:
                    await self._feed_one(kling)
                except JournalError as error:
                    started = started or self._feed.done()
                    if not started:
                        raise  # it could not even be opened: who starts the worker is told
                    _log.error("%s", error)
                if self._feed.done():
                    self._feed = asyncio.get_running_loop().create_future()
                await asyncio.sleep(_AGAIN)

    async def _feed_one(self, kling: KlingClient) -> None:
        """Run a batch until it cannot go on."""
        journal, batch = self._opened(kling)
        async with batch:
            feed = Feed(batch, journal)
            self._feed.set_result(feed)
            try:
                await feed.run()
            except KlingError as error:
                feed.fail(error)  # those that are left: it was told why
                if isinstance(error, JournalError):
                    raise
                _log.error("nothing more is submitted for now: %s", error)
