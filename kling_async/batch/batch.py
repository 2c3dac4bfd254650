"""Batches that survive: a journal says how every item stands, whatever happens to the process.

Each act is written before it is done: *submitting* before the request leaves, the task's
reference before anybody waits for it, the result before its download begins. Run the same
program again and it goes on where the journal ends. What was sent and not heard of is *unsure*:
it is reported, and submitted again only if you say so, because it may cost money twice.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Collection,
    Iterable,
    Mapping,
)
from contextlib import AsyncExitStack, aclosing
from itertools import islice
from typing import TYPE_CHECKING, Self, Unpack

from attrs import evolve

from kling_async._utils.cleanups import Cleanups
from kling_async._utils.threads import in_thread
from kling_async.batch.claims import Claims
from kling_async.batch.decisions import Item, item_of
from kling_async.batch.options import BatchKeywords, BatchOptions
from kling_async.batch.runner import Work
from kling_async.batch.spend_guard import SpendGuard
from kling_async.download.files import check_folder
from kling_async.errors import ConfigurationError
from kling_async.inputs.base import parse_input
from kling_async.journal.base import Entry, ItemState, Journal, Ownership, Planned, Summary
from kling_async.journal.opening import journal_at
from kling_async.tasks.abandoned import log_journaled
from kling_async.tasks.arguments import check_inputs
from kling_async.tasks.fan_out import Outcome, closing_generator, iterate

if TYPE_CHECKING:
    from types import TracebackType

    from kling_async.client import KlingClient
    from kling_async.inputs.base import Input
    from kling_async.tasks.fan_out import FanOut

# Items planned in one commit, where they are at hand.
_AT_ONCE = 256


class Batch:
    """Generates from many inputs, and goes on after a crash where it was.

    Use it as an async context manager. One process at a time may have a file open as a journal;
    a database may be shared by any number of them, which then do the batch between them.

    Args:
        client: What submits and waits. It is not closed.
        journal: The journal: the path of a SQLite file, made if it is not there, or the URL of a
            PostgreSQL database that several workers may share, such as
            ``postgresql://user@host/database?batch=foxes``, or a journal. A file must not be on
            a network file system, which SQLite cannot lock.
        options: The options; the defaults of :class:`~kling_async.BatchOptions` without them.
        **keywords: Single options, such as ``download_to="videos/"``; they replace those of
            ``options``.

    Raises:
        ConfigurationError: A setting makes no sense.
    """

    def __init__(
        self,
        client: KlingClient,
        *,
        journal: str | os.PathLike[str] | Journal,
        options: BatchOptions | None = None,
        **keywords: Unpack[BatchKeywords],
    ) -> None:
        self._options = options = evolve(options or BatchOptions(), **keywords)
        self._client = client
        self._journal = journal_at(journal) if isinstance(journal, str | os.PathLike) else journal
        self._guard = SpendGuard(client, options)
        self._saving = asyncio.Semaphore(options.downloads)
        self._counts: Counter[ItemState] = Counter()
        self._run: _Run | None = None
        self._cleanups = Cleanups()
        self._over = asyncio.Event()  # unless a run has not ended yet
        self._over.set()

    async def __aenter__(self) -> Self:
        await self._journal.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._cleanups.run(self._close(kind, error, traceback))

    @property
    def counts(self) -> Mapping[ItemState, int]:
        """How many of the items that this run has drawn stand in each state now."""
        return dict(self._counts)

    @property
    def stopped(self) -> str | None:
        """Why the run has submitted nothing more, if it was stopped."""
        return self._guard.stopped

    async def summary(self) -> Summary:
        """Count all items of the journal, and the tasks that may have cost money.

        Raises:
            JournalError: The journal cannot be read.
        """
        return await self._journal.summary()

    def run(
        self,
        items: Iterable[Input | Item] | AsyncIterable[Input | Item] | None = None,
        *,
        ordered: bool = False,
        streaming: bool = False,
    ) -> AsyncGenerator[Outcome]:
        """Bring every item to its end; yield what became of each.

        Items that the journal has as finished are told again and not repeated. Tasks that run
        according to the journal are waited for, whether their items are given again or not.
        An item that is unsure is told with an error that ``may_have_charged``.

        Where several workers share the journal, one of them does an item. The others wait for
        it, without a place or a slot, and then yield the outcome with ``done_by_other`` set. Should
        that worker die or leave, one of them goes on with what it had in hand.

        Args:
            items: Inputs, or items with keys of your own; an iterable of either kind. An
                input without a key has one made of its content, so that the same input twice is
                one item. None: all that the journal holds.
            ordered: Yield in the order given.
            streaming: The items are a stream that may last for weeks. Tasks that run according to
                the journal are left to the callers that give their items. An item that is given
                again while it runs is one item; given again later, its outcome is yielded again.

        Raises:
            JournalError: The journal cannot be written, or a key stands there for another input.
                What runs goes on, and is found by the next run.
            AuthenticationError: The key is refused; nothing more was submitted.
            BalanceError: The balance is too low, or below ``min_balance``; the same.
            ConfigurationError: ``download_to`` cannot be made or written to, or a run of this
                batch has not ended yet; nothing was sent. An option makes no sense: this and the
                next are raised at once.
            InputError: ``items`` is a single input, a text or a mapping, or not iterable.
        """
        if items is not None:
            check_inputs(items)
        work = Work(
            self._client,
            self._journal,
            Claims(self._journal),
            options=self._options,
            guard=self._guard,
            saving=self._saving,
            counts=Counter(),
        )
        fan_out = self._client.fan_out(
            work.do, in_flight=self._options.in_flight, ordered=ordered, on_abandoned=log_journaled
        )
        under_way: set[str] = set()
        entries = self._fed(items, under_way) if streaming else self._entries(items, work)
        return self._outcomes(_Run(fan_out, fan_out.outcomes(entries), work), under_way)

    async def _outcomes(self, run: _Run, under_way: set[str]) -> AsyncGenerator[Outcome]:
        if not self._over.is_set():
            raise ConfigurationError("a run of this batch has not ended yet: end its loop first")
        self._over.clear()
        try:
            if (folder := self._options.folder) is not None:  # a paid video needs a place
                await in_thread(lambda: check_folder(folder))
            self._guard.open(await self._journal.summary())
            self._run, self._counts = run, run.work.counts
            try:
                async for outcome in run.outcomes:
                    under_way.discard(str(outcome.key))
                    yield outcome
            finally:
                await self._cleanups.run(run.end())
        finally:
            self._over.set()
        self._guard.close()

    async def _close(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End a run whose loop was left, then close the journal."""
        try:
            if self._run is not None:
                try:
                    await self._run.end()
                except RuntimeError:  # another asyncio.Task is in that loop: it is waited for
                    await self._over.wait()
                    await self._run.end()  # it may have been cancelled, and left that to this
        finally:
            await self._journal.__aexit__(kind, error, traceback)

    async def _entries(
        self,
        items: Iterable[Input | Item] | AsyncIterable[Input | Item] | None,
        work: Work,
    ) -> AsyncGenerator[tuple[Entry, Input]]:
        """Give the items as the journal has them; those that run take their slots first."""
        seen: set[int] = set()  # hashes: a hundred thousand keys need not stand in memory
        async for entry in self._running(work.claims, seen):
            work.attach(entry, parse_input(entry.input))
        async with aclosing(self._source(items)) as source:
            async for entry, given in source:
                if self._guard.stopped:
                    break
                if hash(entry.key) not in seen:
                    seen.add(hash(entry.key))
                    yield entry, given
        async for entry in self._running(work.claims, seen):
            yield entry, parse_input(entry.input)

    async def _fed(
        self,
        items: Iterable[Input | Item] | AsyncIterable[Input | Item] | None,
        under_way: set[str],
    ) -> AsyncGenerator[tuple[Entry, Input]]:
        """Give the items as the journal has them, as long as there are any."""
        async with aclosing(self._source(items)) as source:
            async for entry, given in source:
                if self._guard.stopped:
                    break
                if entry.key not in under_way:
                    under_way.add(entry.key)
                    yield entry, given

    async def _running(self, claims: Claims, seen: Collection[int]) -> AsyncGenerator[Entry]:
        """Give the other items whose tasks run, unless another worker waits for them."""
        async for some in _together(self._journal.entries(ItemState.SUBMITTED)):
            others = [entry for entry in some if hash(entry.key) not in seen]
            for claim in await claims.take(*others):
                if claim.ownership is Ownership.MINE:
                    yield claim.entry

    def _source(
        self, items: Iterable[Input | Item] | AsyncIterable[Input | Item] | None
    ) -> AsyncGenerator[tuple[Entry, Input]]:
        return self._all() if items is None else self._planned(items)

    async def _all(self) -> AsyncGenerator[tuple[Entry, Input]]:
        async for entry in self._journal.entries():
            yield entry, parse_input(entry.input)

    async def _planned(
        self, items: Iterable[Input | Item] | AsyncIterable[Input | Item]
    ) -> AsyncGenerator[tuple[Entry, Input]]:
        """Plan what is given; as many at once as are at hand."""
        if isinstance(items, AsyncIterable):
            async with aclosing(iterate(items)) as drawn:
                async for item in drawn:
                    for planned in await self._plan([item]):
                        yield planned
            return
        with closing_generator(iter(items)) as source:
            while some := list(islice(source, _AT_ONCE)):
                for planned in await self._plan(some):
                    yield planned

    async def _plan(self, items: list[Input | Item]) -> list[tuple[Entry, Input]]:
        given = [item_of(item) for item in items]
        entries = await self._journal.plan(
            [Planned(item.key, item.input.to_dict()) for item in given]
        )
        return [(entry, item.input) for entry, item in zip(entries, given, strict=True)]


class _Run:
    """What a run has open, until it is left."""

    def __init__(
        self,
        fan_out: FanOut[tuple[Entry, Input]],
        outcomes: AsyncGenerator[Outcome],
        work: Work,
    ) -> None:
        self.outcomes = outcomes
        self.work = work
        self._fan_out = fan_out
        self._ending = asyncio.Lock()

    async def end(self) -> None:
        """End the run; its own loop and the end of the batch may both come here, at one time.

        Raises:
            RuntimeError: It is still going on, in the loop of another asyncio.Task.
        """
        async with self._ending, AsyncExitStack() as last:
            last.push_async_callback(self.work.claims.close)
            try:
                await self.outcomes.aclose()
            except RuntimeError:
                last.pop_all()
                raise
            await self._fan_out.finished()  # a loop that was cancelled has not waited for it
            await self.work.give_up()


async def _together(entries: AsyncIterable[Entry]) -> AsyncGenerator[list[Entry]]:
    """Give as many at a time as are claimed in one commit."""
    some: list[Entry] = []
    async for entry in entries:
        some.append(entry)
        if len(some) == _AT_ONCE:
            yield some
            some = []
    if some:
        yield some
