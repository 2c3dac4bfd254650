"""The queue of a fleet: the items that its workers process."""

from __future__ import annotations

from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, Self

from attrs import frozen

from kling_async.batch.batch import read_chunks
from kling_async.batch.decisions import UnreadableItem, plan_item
from kling_async.errors import ConfigurationError
from kling_async.fleet.serialization import dump_item
from kling_async.inputs.base import Input
from kling_async.journal.address import Address
from kling_async.journal.base import ItemState
from kling_async.tasks.arguments import check_inputs

if TYPE_CHECKING:
    from kling_async.batch.batch import Items
    from kling_async.images.base import ImageStore
    from kling_async.images.fix import ImageFix

# Items that are planned and enqueued at once.
_ENQUEUED_AT_ONCE = 500

# The states of the items that a worker has to process.
_OPEN = frozenset({ItemState.PLANNED, ItemState.SUBMITTING, ItemState.SUBMITTED})


@frozen
class Enqueued:
    """How many items :meth:`Queue.put` has enqueued.

    Attributes:
        added: They are in the queue now.
        waiting: They were in the queue already, or a worker is processing them.
        ended: They have ended according to the journal: nothing is left to do.
    """

    added: int = 0
    waiting: int = 0
    ended: int = 0


class Queue:
    """Enqueues items for the workers of a fleet. Use it as an async context manager.

    Args:
        journal: The URL of the batch's journal, such as ``postgresql://user@host/database``. The
            queue is in the same database, in pgqueuer's tables, which are created if they do
            not exist.
        name: The name of the batch, unless the URL has it as ``?batch=``; by default ``default``.
        image_store, fix_images: As for :class:`~kling_async.KlingClient`, for the local images of
            items. They are uploaded before their items are enqueued, since workers may be on other
            machines. Workers need the same settings.

    Raises:
        ConfigurationError: The URL or the name is invalid.
        MissingExtraError: pgqueuer or psycopg is not installed.
    """

    def __init__(
        self,
        journal: str,
        *,
        name: str | None = None,
        image_store: ImageStore | str | None = None,
        fix_images: ImageFix | bool = False,
    ) -> None:
        from kling_async.fleet.job_store import JobStore
        from kling_async.images.preparer import create_preparer
        from kling_async.journal.postgres.journal import PostgresJournal

        self._address = Address.parse(journal, name)
        self._journal = PostgresJournal(journal, name=name)
        self._jobs = JobStore(self._address)
        self._images = create_preparer(image_store, fix=fix_images)
        self._open: AsyncExitStack | None = None

    def __repr__(self) -> str:
        return f"<Queue {self._address}>"

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._journal)
            await stack.enter_async_context(self._jobs)
            stack.push_async_callback(self._images.close)
            self._open = stack.pop_all()
        return self

    async def __aexit__(self, *exception: object) -> None:
        stack, self._open = self._open, None
        assert stack is not None  # noqa: S101 - it is open
        await stack.aclose()

    async def put(self, items: Items) -> Enqueued:
        """Write items in the journal, then enqueue those that have not ended.

        Repeating this is harmless: an item that waits or is being processed is not enqueued
        again. Neither is an item that has failed or is unsure, which would be paid again: a batch
        does that, with ``resubmit_failed`` and ``resubmit_unsure``.

        Args:
            items: Inputs, or items with keys of your own, as for a batch.

        Raises:
            InputError: An element is neither, a local image cannot be used, or there is no image
                store.
            StorageError: A local image cannot be stored.
            JournalError: The journal cannot be written, or has a key with another input. The
                items before that are in the queue.
            ConfigurationError: The queue is not open.
        """
        if self._open is None:
            raise ConfigurationError("the queue is not open: use it in `async with`")
        check_inputs(items)
        number = added = opened = 0
        async with aclosing(read_chunks(items, _ENQUEUED_AT_ONCE)) as chunks:
            async for chunk in chunks:
                planned = []
                for given in chunk:
                    if isinstance(given, UnreadableItem):
                        raise given.error
                    planned.append(plan_item(given))
                    sent = given if isinstance(given, Input) else given.input
                    if sent.local_images:  # stored where the workers find them
                        await self._images.prepare(sent)
                entries = await self._journal.plan(planned)
                payloads = [
                    (item.key, dump_item(item))
                    for item, entry in zip(planned, entries, strict=True)
                    if entry.state in _OPEN
                ]
                number += len(planned)
                opened += len(payloads)
                added += await self._jobs.enqueue(payloads) if payloads else 0
        return Enqueued(added, opened - added, number - opened)
