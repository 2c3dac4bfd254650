"""A taskiq task that generates a video once, however often its message is delivered.

::

    broker = AioPikaBroker("amqp://…")
    generate = kling_async.taskiq.install(broker, KlingClient, journal="postgresql://…")

    sent = await generate.kiq("fox", MasterTextToVideo("a fox in fresh snow"))

A message contains the key of an item of a batch and the fields of its input, whose local images
have been stored. All workers share the journal of the batch, so that an item is paid for once: a
second worker that receives its message waits for the first, or attaches its task if the first has
died. The task returns an ``error`` as a value, because taskiq could only have the message delivered
again. The message is acknowledged after that: if a worker is killed before, the broker delivers it
to another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, Unpack, cast

from kling_async._utils.extras import missing_extra
from kling_async.batch.batch import Batch
from kling_async.errors import ConfigurationError, JournalError, KlingError
from kling_async.fleet.item_stream import ItemStream
from kling_async.fleet.serialization import error_dict, outcome_dict, parse_item
from kling_async.fleet.worker import worker_options
from kling_async.images.preparer import create_preparer
from kling_async.images.reading import read_images
from kling_async.inputs.base import Input
from kling_async.inputs.local_image import SCHEME
from kling_async.inputs.parsing import parse_input

try:
    from taskiq import (
        AsyncBroker,
        AsyncTaskiqDecoratedTask,
        TaskiqEvents,
        TaskiqMessage,
        TaskiqMiddleware,
        TaskiqState,
    )
except ImportError:
    raise missing_extra("taskiq", "this needs taskiq") from None

if TYPE_CHECKING:
    from kling_async.batch.decisions import Item
    from kling_async.batch.options import BatchKeywords, BatchOptions
    from kling_async.client import KlingClient
    from kling_async.images.base import ImageStore
    from kling_async.images.fix import ImageFix
    from kling_async.images.preparer import ImagePreparer
    from kling_async.journal.postgres.journal import PostgresJournal
    from kling_async.tasks.fan_out import Outcome

_log = logging.getLogger("kling_async")

TASK = "kling_async:generate"
"""The name of the task, for programs that send messages without this module."""

Generate: TypeAlias = AsyncTaskiqDecoratedTask[
    [str, Input | Mapping[str, object]], Coroutine[object, object, dict[str, object]]
]
"""The task; its arguments are a key, and an input or its fields."""

# Seconds until a batch that has ended is opened again.
_REOPEN_AFTER = 1.0


def install(  # noqa: PLR0913 - every one is a keyword with a default
    broker: AsyncBroker,
    client: Callable[[], KlingClient],
    *,
    journal: str,
    name: str | None = None,
    concurrency: int = 100,
    lease: float = 60.0,
    image_store: ImageStore | str | None = None,
    fix_images: ImageFix | bool = False,
    options: BatchOptions | None = None,
    **keywords: Unpack[BatchKeywords],
) -> Generate:
    """Register the task with a broker, and a client and a batch with its workers.

    Args:
        broker: A broker that acknowledges messages late and delivers those of a killed worker to
            another. taskiq's brokers on Redis do not.
        client: Returns the client of a worker, which closes it.
        journal: The URL of the batch's journal, such as ``postgresql://user@host/database``.
        name: The name of the batch, unless the URL has it as ``?batch=``; by default ``default``.
        concurrency: How many tasks may run at one time in a worker.
        lease: Seconds after which a worker that does not renew its lease is considered dead.
        image_store: As for :class:`~kling_async.KlingClient`, for the local images of inputs that
            this process sends. They are uploaded before their messages are sent, since workers may
            be on other machines. The clients of the workers need the same settings.
        fix_images: The same, for their correction.
        options: The options of the batch; not ``in_flight``, ``max_tasks`` or ``resubmit_unsure``.
        **keywords: Single options, such as ``download_to="videos/"``. They replace those of
            ``options``; see :class:`~kling_async.BatchOptions`.

    Returns:
        The task. ``await generate.kiq(key, input)`` sends a message. It raises
        :class:`~kling_async.InputError` if a local image cannot be used or there is no image store,
        and :class:`~kling_async.StorageError` if it cannot be stored. Then nothing was sent.

    Raises:
        ConfigurationError: An argument is out of range, or a URL is invalid.
        MissingExtraError: psycopg is not installed.
    """
    from kling_async.journal.postgres.journal import PostgresJournal

    if not callable(client):
        raise ConfigurationError(f"client must be a function that returns one, not {client!r:.80}")
    open_journal = partial(PostgresJournal, journal, name=name, lease=lease)
    open_journal()  # raises at once, not in every worker
    checked = worker_options(options, keywords, concurrency)
    if checked.max_tasks is not None:
        raise ConfigurationError("max_tasks is not for taskiq: other messages would wait for ever")
    service = _Service(client, open_journal, checked)

    async def generate(key: str, input: Mapping[str, object]) -> dict[str, object]:
        # An input, if it is called without the broker.
        fields = input.to_dict() if isinstance(input, Input) else input
        return await service.generate(key, fields)

    broker.add_middlewares(_InputWriter(create_preparer(image_store, fix=fix_images)))
    broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, service.start)
    broker.add_event_handler(TaskiqEvents.WORKER_SHUTDOWN, service.stop)
    # A message that is acknowledged before its item has ended is lost if its worker is killed.
    return cast("Generate", broker.register_task(generate, TASK, ack_type="when_saved"))


class _InputWriter(TaskiqMiddleware):
    """Writes the inputs of messages as their fields, after it has stored their local images."""

    def __init__(self, images: ImagePreparer) -> None:
        super().__init__()
        self._images = images

    async def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        """Replace the input of a message; raise instead of sending what no worker can use."""
        if message.task_name == TASK:
            message.args = [await self._write(one) for one in message.args]
            message.kwargs = {key: await self._write(one) for key, one in message.kwargs.items()}
        return message

    async def shutdown(self) -> None:
        """Close the connections to the image store."""
        await self._images.close()

    async def _write(self, value: object) -> object:
        if isinstance(value, Mapping) and SCHEME in str(value):  # the text of a local image
            value = parse_input(value, local_images=True)
        if not isinstance(value, Input):
            return value
        if value.local_images:
            value = await read_images(value)
            await self._images.prepare(value)
        return value.to_dict()


class _Service:
    """The client and the batch of a taskiq worker, from its startup to its shutdown."""

    def __init__(
        self,
        client: Callable[[], KlingClient],
        open_journal: Callable[[], PostgresJournal],
        options: BatchOptions,
    ) -> None:
        self._client = client
        self._open_journal = open_journal
        self._options = options
        self._started = asyncio.Event()
        self._stream: ItemStream | None = None  # of the batch that was opened last
        self._serving: asyncio.Task[None] | None = None

    async def start(self, _: TaskiqState) -> None:
        """Open the client and the batch; raise if that is not possible."""
        self._serving = asyncio.create_task(self._serve_batches())
        started = asyncio.create_task(self._started.wait())
        await asyncio.wait((self._serving, started), return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if self._serving.done():
            self._serving.result()

    async def stop(self, _: TaskiqState) -> None:
        """Close everything. Tasks that wait for an outcome stay: their messages are not lost."""
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait((self._serving,))

    async def generate(self, key: str, fields: Mapping[str, object]) -> dict[str, object]:
        """Process an item, and return its outcome as plain values."""
        try:
            return outcome_dict(await self._process(parse_item(key, fields)))
        except KlingError as error:
            return error_dict(key, error)

    async def _process(self, item: Item) -> Outcome:
        assert self._stream is not None  # noqa: S101 - taskiq starts no task before the worker
        while True:
            try:
                (future,) = await self._stream.put([item])
                return await asyncio.shield(future)
            except JournalError:  # the batch is opened again
                await asyncio.sleep(_REOPEN_AFTER)

    async def _serve_batches(self) -> None:
        async with self._client() as kling:
            while True:
                try:
                    await self._run_batch(kling)
                except JournalError as error:
                    if not self._started.is_set():
                        raise
                    _log.error("%s", error)
                await asyncio.sleep(_REOPEN_AFTER)

    async def _run_batch(self, kling: KlingClient) -> None:
        """Run a batch until it is stopped or fails."""
        journal = self._open_journal()
        async with Batch(kling, journal=journal, options=self._options) as batch:
            stream = self._stream = ItemStream(batch, journal)
            self._started.set()
            try:
                await stream.run()
                raise JournalError(f"the batch was stopped: {batch.stopped}")
            except KlingError as error:
                stream.fail_all(error)
                if isinstance(error, JournalError):
                    raise
                _log.error("nothing more is submitted for now: %s", error)
