"""Batches that survive a crash: a journal records the state of every item.

Each step is written before it is taken: *submitting* before the request is sent, the reference
before the task is waited for, the result before its download begins. A process that runs the same
program again continues where the journal ends. An item whose submit was sent and not answered is
*unsure*: it is reported, and submitted again only on request, because it may cost money twice.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from contextlib import aclosing
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Self, TypeAlias, Unpack

from attrs import evolve

from kling_async._utils.shielding import Cleanups
from kling_async.batch.decisions import Item, UnreadableItem, plan_item
from kling_async.batch.options import BatchKeywords, BatchOptions
from kling_async.batch.runner import BatchRun
from kling_async.errors import ConfigurationError, InputError
from kling_async.inputs.base import Input
from kling_async.inputs.parsing import parse_input
from kling_async.inputs.raw import RawInput
from kling_async.journal.base import Entry, ItemState, Journal, Summary
from kling_async.journal.opening import journal_at
from kling_async.tasks.arguments import check_inputs, check_kind, check_methods
from kling_async.tasks.fan_out import Outcome, iterate

if TYPE_CHECKING:
    from types import TracebackType

    from kling_async.batch.runner import BatchItem
    from kling_async.client import KlingClient

Items: TypeAlias = Iterable[Input | Item] | AsyncIterable[Input | Item]
"""What a batch is made of: inputs, or items with keys, in an iterable of either kind."""

# Items that are planned in one commit.
_PLANNED_AT_ONCE = 256


class Batch:
    """Generates from many inputs, and continues after a crash.

    Use it as an async context manager. Only one process at a time can open a journal file. A
    journal in a database can be shared by any number of processes, which divide the batch among
    them.

    Args:
        client: Submits the inputs and waits for the tasks. It is not closed.
        journal: The path of a SQLite file, which is created if it does not exist; or the URL of a
            PostgreSQL database that several workers can share, such as
            ``postgresql://user@host/database?batch=foxes``; or a journal. A file must not be on
            a network file system, where SQLite's locks do not work.
        options: The options; by default those of ``BatchOptions()``.
        **keywords: Single options, such as ``download_to="videos/"``. They replace those of
            ``options``; see :class:`~kling_async.BatchOptions`.

    Raises:
        ConfigurationError: An option is out of range, or the journal is neither a path nor a URL.
    """

    def __init__(
        self,
        client: KlingClient,
        *,
        journal: str | os.PathLike[str] | Journal,
        options: BatchOptions | None = None,
        **keywords: Unpack[BatchKeywords],
    ) -> None:
        if options is not None:
            check_kind("options", options, BatchOptions)
        self._options = evolve(options or BatchOptions(), **keywords)
        if isinstance(journal, str | os.PathLike):
            journal = journal_at(journal)
        check_methods("client", client, "submit", "attach", "fan_out", optional=False)
        check_methods("journal", journal, "plan", "record", optional=False)
        self._client = client
        self._journal = journal
        self._run: BatchRun | None = None  # the last one
        self._idle = asyncio.Event()  # set unless a run is in progress
        self._idle.set()
        self._cleanups = Cleanups()

    async def __aenter__(self) -> Self:
        await self._journal.__aenter__()
        self._run = None
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._cleanups.run(self._end_run_and_close(kind, error, traceback))

    @property
    def counts(self) -> Mapping[ItemState, int]:
        """The number of items in each state, of those that the last run has begun with."""
        return {} if self._run is None else dict(self._run.counts)

    @property
    def stopped(self) -> str | None:
        """Why the last run submits nothing more, if it was stopped by a limit or a refusal."""
        return None if self._run is None else self._run.guard.stopped

    async def summary(self) -> Summary:
        """Count all items of the journal, and the tasks that may have cost money.

        Raises:
            JournalError: The journal cannot be read.
        """
        return await self._journal.summary()

    def run(
        self, items: Items | None = None, *, ordered: bool = False, streaming: bool = False
    ) -> AsyncGenerator[Outcome]:
        """Generate from every item, and yield the outcomes as they come.

        Items that are finished according to the journal are yielded again and not repeated. Tasks
        that run according to the journal are waited for, whether or not their items are given. An
        unsure item is yielded with an error whose ``may_have_charged`` is true, and one whose local
        image cannot be read with an `InputError`, whatever the journal has of it.

        If several workers share the journal, each item is processed by one of them. The others
        wait for it, without a place in ``in_flight`` and without a slot, and then yield the
        outcome with ``done_by_other`` set. If that worker ends or dies, one of the others takes
        the item over.

        Args:
            items: Inputs, or items with keys of your own. The key of an input is a checksum of
                its fields and the content of its local images, so that two equal inputs are one
                item. None means all items of the journal.
            ordered: Yield the outcomes in the order of the items.
            streaming: The items come for hours or weeks. Tasks that run according to the journal
                are waited for only if their items are given. An item that is given again while it
                is processed is one item; given again after that, its outcome is yielded again.

        Raises:
            JournalError: The journal cannot be written, or has a key with another input. Running
                tasks continue at the service, and the next run finds them.
            AuthenticationError: The service refused the key; nothing more was submitted.
            BalanceError: The balance is too low, or below ``min_balance``; nothing more was
                submitted.
            ConfigurationError: ``download_to`` cannot be created or written to, or another run of
                this batch has not ended; nothing was sent. Invalid arguments raise this error or
                the next one from the call itself.
            StorageError: ``download_to`` is an archive that cannot be used; nothing was sent.
            InputError: ``items`` is a single input, a string or a mapping, or is not iterable; or
                an element is neither an input nor an item.
        """
        if items is not None:
            check_inputs(items)
        given: set[int] = set()  # hashes of keys: a hundred thousand keys would take much memory
        entries = partial(self._entries, items, given, streaming=streaming)
        run = BatchRun(self._client, self._journal, self._options, entries, ordered=ordered)
        return self._outcomes(run, given if streaming else set())

    def rescue(self) -> AsyncGenerator[Outcome]:
        """Save the results that earlier runs have not saved, the oldest first.

        Result URLs expire: after 15 days by the contract, after 24 hours by an old page of the
        vendor's. A URL that has expired is replaced by what the service returns now. Nothing is
        submitted, and no running task is waited for, so this never pays. It is safe to call it
        again.

        An outcome has ``files``, ``archived`` or an ``error``. If that is a `ResultExpiredError`
        that is not ``retryable``, the result is lost. An input that this version does not accept,
        which another one has written, is a `RawInput`.

        Raises:
            ConfigurationError: The batch has no ``download_to``, or it cannot be written to, or a
                run of this batch has not ended.
            StorageError: ``download_to`` is an archive that cannot be used.
            JournalError: The journal cannot be written.
        """
        if self._options.download_to is None:
            raise ConfigurationError("rescue() needs Batch(download_to=...)")
        run = BatchRun(self._client, self._journal, self._options, self._unsaved)
        return self._outcomes(run, set())

    async def _unsaved(self, _: BatchRun) -> AsyncGenerator[BatchItem]:
        """Yield the items that are finished and not saved, the oldest first."""
        finished = [entry async for entry in self._journal.entries(ItemState.FINISHED)]
        for entry in sorted(finished, key=attrgetter("changed_at")):
            yield entry, _input_or_raw(entry)

    async def _outcomes(self, run: BatchRun, in_progress: set[int]) -> AsyncGenerator[Outcome]:
        if not self._idle.is_set():
            raise ConfigurationError("a run of this batch has not ended: end its loop first")
        self._idle.clear()
        try:
            if run.destination is not None:  # before anything is paid
                await run.destination.check()
            run.guard.started = (await self._journal.summary()).attempts
            self._run = run
            try:
                async for outcome in run.outcomes:
                    in_progress.discard(hash(outcome.key))
                    yield outcome
            finally:
                await self._cleanups.run(run.close())
        finally:
            self._idle.set()
        if run.guard.error is not None:
            raise run.guard.error

    async def _end_run_and_close(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End a run whose loop was left, then close the journal."""
        try:
            if self._run is not None:
                try:
                    await self._run.close()
                except RuntimeError:  # another asyncio.Task is in its loop
                    await self._idle.wait()
                    await self._run.close()  # that task may have been cancelled before it did this
        finally:
            await self._journal.__aexit__(kind, error, traceback)

    async def _entries(
        self, items: Items | None, given: set[int], run: BatchRun, *, streaming: bool
    ) -> AsyncGenerator[BatchItem]:
        """Yield the items and their entries in the journal; running tasks take their slots first.

        An item is skipped if its hash is in ``given``, where it is added.
        """
        if not streaming:
            for entry in await self._running(run, given):
                run.attach(entry, input_of(entry))
        async with aclosing(self._planned(items)) as planned:
            async for found, item_input in planned:
                if run.guard.stopped is not None:
                    break
                if hash(found.key) not in given:
                    if isinstance(found, Entry):
                        given.add(hash(found.key))
                    yield found, item_input
        if not streaming:
            for entry in await self._running(run, given):
                yield entry, input_of(entry)

    async def _running(self, run: BatchRun, given: set[int]) -> list[Entry]:
        """Return the other items whose tasks run, unless another worker waits for them."""
        running = self._journal.entries(ItemState.SUBMITTED)
        entries = [entry async for entry in running if hash(entry.key) not in given]
        return entries if run.claims is None else await run.claims.claim_all(entries)

    async def _planned(self, items: Items | None) -> AsyncGenerator[BatchItem]:
        """Write the items in the journal and yield their entries, or yield all that it has."""
        if items is None:
            async for entry in self._journal.entries():
                yield entry, input_of(entry)
            return
        async with aclosing(read_chunks(items, _PLANNED_AT_ONCE)) as chunks:
            async for chunk in chunks:
                readable = [given for given in chunk if not isinstance(given, UnreadableItem)]
                entries = iter(await self._journal.plan(list(map(plan_item, readable))))
                for given in chunk:
                    found = given if isinstance(given, UnreadableItem) else next(entries)
                    yield found, given if isinstance(given, Input) else given.input


def input_of(entry: Entry) -> Input:
    """Return the input of an entry. A journal has local images as text, which is accepted here."""
    return parse_input(entry.input, local_images=True)


def _input_or_raw(entry: Entry) -> Input:
    """Return the input of an item that is not submitted again.

    One that this version does not accept, such as another version has written, is a raw input.
    """
    try:
        return input_of(entry)
    except InputError:
        assert entry.ref is not None  # noqa: S101 - it was submitted
        return RawInput(entry.ref.model, entry.input)


async def read_chunks(
    items: Items, size: int
) -> AsyncGenerator[list[Input | Item | UnreadableItem]]:
    """Yield the items of an iterable in lists, those of an async iterable one at a time.

    Their local images have been read, whose checksums are part of the items.
    """
    chunk: list[Input | Item | UnreadableItem] = []
    async with aclosing(iterate(items)) as source:
        async for given in source:
            sent = given.input if isinstance(given, Item) else given
            local = isinstance(sent, Input) and sent.local_images  # plan_item() raises for others
            chunk.append(await _read_images(given) if local else given)
            if len(chunk) == size or isinstance(items, AsyncIterable):
                yield chunk
                chunk = []
        if chunk:
            yield chunk


async def _read_images(given: Input | Item) -> Input | Item | UnreadableItem:
    from kling_async.images.reading import read_images

    key, sent = (given.key, given.input) if isinstance(given, Item) else (None, given)
    try:
        read = await read_images(sent)
    except InputError as error:
        return UnreadableItem(key, sent, error)
    return read if key is None else Item(key, read)
