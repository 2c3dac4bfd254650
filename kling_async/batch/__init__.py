"""Batches that survive: a journal says how every item stands, whatever happens to the process.

Each act is written before it is done: *submitting* before the request leaves, the task's
reference before anybody waits for it, the result before its download begins. Run the same
program again and it goes on where the journal ends. What was sent and not heard of is *unsure*:
it is reported, and submitted again only if you say so, because it may cost money twice.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Collection,
    Iterable,
    Mapping,
)
from contextlib import aclosing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Self

from kling_async._threads import in_thread
from kling_async.batch.claims import Claims
from kling_async.batch.steps import PASSING, Item, Rules, item_of
from kling_async.batch.work import Guard, Work
from kling_async.download.folder import check_folder
from kling_async.errors import ConfigurationError
from kling_async.fanout import Outcome, draw
from kling_async.inputs import Input, parse_input
from kling_async.journal import Entry, Hold, ItemState, Journal, Planned, Summary
from kling_async.journal.opening import journal_at
from kling_async.task import DEFAULT_TIMEOUT, check_timeout

if TYPE_CHECKING:
    from types import TracebackType

    from kling_async.client import KlingClient
    from kling_async.results import FailReason

__all__ = ["Batch", "Item"]

_log = logging.getLogger("kling_async")

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
        download_to: A folder for the videos; None keeps only their URLs, which die after days.
        in_flight: How many may run at one time; else the limit of concurrent tasks.
        timeout: Seconds to wait for each task. What takes longer stays submitted in the
            journal, and is waited for again in the next run.
        downloads: How many downloads may run at one time, beside the generation; the client
            runs 16 at the most.
        resubmit_unsure: Submit again what the journal holds as unsure when it is opened.
            This may pay twice.
        resubmit_failed: How often an item may be submitted again after its task has failed
            for one of the reasons below. Each time costs money again.
        resubmit_reasons: The reasons. Content, prompt and image are not accepted: the same
            input fails again.
        max_tasks: Stop before more tasks than these have been started, all runs of the journal
            together. Of several workers that share a journal, each counts what was started
            before its run began, and its own.
        min_balance: Stop when the account's balance is below this, in US dollars. It is asked
            for before the first submit and then after every fifty.

    Raises:
        ConfigurationError: A setting makes no sense.
    """

    def __init__(  # noqa: PLR0913 - every one is a keyword with a default
        self,
        client: KlingClient,
        *,
        journal: str | os.PathLike[str] | Journal,
        download_to: str | os.PathLike[str] | None = None,
        in_flight: int | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        downloads: int = 4,
        resubmit_unsure: bool = False,
        resubmit_failed: int = 0,
        resubmit_reasons: Collection[FailReason] = PASSING,
        max_tasks: int | None = None,
        min_balance: float | None = None,
    ) -> None:
        for name, value in (("downloads", downloads), ("max_tasks", max_tasks)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigurationError(f"{name} must be at least 1, not {value!r}")
        check_timeout(timeout)
        self._client = client
        self._journal = journal_at(journal) if isinstance(journal, str | os.PathLike) else journal
        self._folder = None if download_to is None else Path(download_to)
        self._in_flight = in_flight
        self._timeout = timeout
        self._rules = Rules(
            save=download_to is not None,
            resubmit_unsure=resubmit_unsure,
            resubmit_failed=resubmit_failed,
            resubmit_reasons=tuple(resubmit_reasons),
        )
        self._guard = Guard(client, max_tasks=max_tasks, min_balance=min_balance)
        self._saving = asyncio.Semaphore(downloads)
        self._counts: Counter[ItemState] = Counter()
        self._outcomes: AsyncGenerator[Outcome] | None = None
        self._work: Work | None = None
        self._closing = asyncio.Lock()
        self._over = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self._journal.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._end()
        finally:
            await self._journal.__aexit__(kind, error, traceback)

    @property
    def counts(self) -> Mapping[ItemState, int]:
        """How many of the items that this run has drawn stand in each state now."""
        return dict(self._counts)

    @property
    def stopped(self) -> str | None:
        """Why the run has submitted nothing more, if it was stopped: a limit of yours."""
        return self._guard.stopped

    async def summary(self) -> Summary:
        """Count all items of the journal, and the tasks that may have cost money.

        Raises:
            JournalError: The journal cannot be read.
        """
        return await self._journal.summary()

    async def run(
        self,
        items: Iterable[Input | Item] | AsyncIterable[Input | Item] | None = None,
        *,
        ordered: bool = False,
        feed: bool = False,
    ) -> AsyncGenerator[Outcome]:
        """Bring every item to its end; yield what became of each.

        Items that the journal has as finished are told again and not repeated. Tasks that run
        according to the journal are waited for, whether their items are given again or not.
        An item that is unsure is told with an error that ``may_have_charged``.

        Where several workers share the journal, one of them does an item. The others wait for
        it, without a place or a slot, and then yield the outcome with ``elsewhere`` set. Should
        that worker die or leave, one of them goes on with what it had in hand.

        Args:
            items: Inputs, or items with keys of your own; an iterable of either kind. An
                input without a key has one made of its content, so that the same input twice is
                one item. None: all that the journal holds.
            ordered: Yield in the order given.
            feed: The items are a feed that may go on for weeks. Tasks that run according to the
                journal are left to whom they are given. An item that is given again while it is
                under way is one; if it is given again later, it is told again.

        Raises:
            JournalError: The journal cannot be written, or a key stands there for another input.
                What runs goes on, and is found by the next run.
            AuthenticationError: The key is refused; nothing more was submitted.
            BalanceError: The balance is too low, or below ``min_balance``; the same.
            ConfigurationError: ``download_to`` cannot be made or written to; nothing was sent.
        """
        if (folder := self._folder) is not None:  # a paid video needs a place
            await in_thread(lambda: check_folder(folder))
        self._guard.open(await self._journal.summary())
        self._counts = Counter()
        self._work = work = Work(
            self._client,
            self._journal,
            Claims(self._journal),
            rules=self._rules,
            guard=self._guard,
            folder=self._folder,
            saving=self._saving,
            timeout=self._timeout,
            counts=self._counts,
        )
        under_way: set[str] = set()
        entries = self._fed(items, under_way) if feed else self._entries(items, work)
        outcomes = self._client.carry(
            work.do,
            entries,
            in_flight=self._in_flight,
            ordered=ordered,
            left=lambda refs: _log.info("%d tasks go on; the journal has them", len(refs)),
        )
        self._outcomes = outcomes
        self._over.clear()
        try:
            async for outcome in outcomes:
                under_way.discard(str(outcome.key))
                yield outcome
        finally:
            try:
                await self._close(outcomes, work)
                await entries.aclose()
            finally:
                self._over.set()
        self._guard.close()

    async def _end(self) -> None:
        """End a run whose loop was left, before the journal is closed."""
        if self._outcomes is not None and self._work is not None:
            try:
                await self._close(self._outcomes, self._work)
            except RuntimeError:  # another asyncio.Task is in that loop: it is waited for
                await self._over.wait()

    async def _close(self, outcomes: AsyncGenerator[Outcome], work: Work) -> None:
        """End a run; both who leaves its loop and the end of the batch may come here at a time."""
        async with self._closing:
            over = True
            try:
                await outcomes.aclose()
                await work.give_up()
            except RuntimeError:  # it goes on, in the loop of another asyncio.Task
                over = False
                raise
            finally:
                if over:
                    await work.claims.close()

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
                if claim.hold is Hold.MINE:
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
            async with aclosing(draw(items)) as drawn:
                async for item in drawn:
                    for planned in await self._plan([item]):
                        yield planned
            return
        source = iter(items)
        while some := list(islice(source, _AT_ONCE)):
            for planned in await self._plan(some):
                yield planned

    async def _plan(self, items: list[Input | Item]) -> list[tuple[Entry, Input]]:
        given = [item_of(item) for item in items]
        entries = await self._journal.plan(
            [Planned(item.key, item.input.to_dict()) for item in given]
        )
        return [(entry, item.input) for entry, item in zip(entries, given, strict=True)]


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
