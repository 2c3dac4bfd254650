"""What is to be done, put where every worker of a fleet finds it."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from contextlib import AsyncExitStack, aclosing
from itertools import islice
from typing import TYPE_CHECKING, Self

from attrs import evolve, frozen

from kling_async.batch.decisions import item_of
from kling_async.errors import ConfigurationError
from kling_async.fleet.serialization import write
from kling_async.journal.address import Address
from kling_async.journal.base import ItemState, Planned
from kling_async.tasks.fan_out import iterate

if TYPE_CHECKING:
    from types import TracebackType

    from kling_async.batch.decisions import Item
    from kling_async.inputs.base import Input

# Items planned and put in at once, where they are at hand.
_AT_ONCE = 500

# How an item may stand while there is something left to do.
_OPEN = frozenset({ItemState.PLANNED, ItemState.SUBMITTING, ItemState.SUBMITTED})


@frozen
class Enqueued:
    """What became of items that were put in a queue.

    Attributes:
        added: These wait there now.
        waiting: These waited there already, or a worker has them in hand.
        ended: The journal has the ends of these: nothing is left to do.
    """

    added: int = 0
    waiting: int = 0
    ended: int = 0


class Queue:
    """Puts items where workers find them. Use it as an async context manager.

    Args:
        journal: The URL of the batch's journal, such as ``postgresql://user@host/database``. The
            queue is in the same database, in pgqueuer's tables, which are made if they are
            not there.
        name: The batch's name, if it is not in the URL as ``?batch=``; else ``default``.

    Raises:
        ConfigurationError: The URL makes no sense.
        MissingExtraError: pgqueuer or psycopg is not installed.
    """

    def __init__(self, journal: str, *, name: str | None = None) -> None:
        from kling_async.fleet.job_store import Jobs
        from kling_async.journal.postgres.journal import PostgresJournal

        self._address = Address.parse(journal, name)
        self._journal = PostgresJournal(journal, name=name)
        self._jobs = Jobs(self._address)
        self._open = AsyncExitStack()
        self._opened = False

    def __repr__(self) -> str:
        return f"<Queue {self._address}>"

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._journal)
            await stack.enter_async_context(self._jobs)
            self._open = stack.pop_all()
        self._opened = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._opened = False
        await self._open.aclose()

    async def put(self, items: Iterable[Input | Item] | AsyncIterable[Input | Item]) -> Enqueued:
        """Write items in the journal, then put those in the queue that have not ended.

        It does no harm to do so twice: an item that waits, or is in hand, is not put in again.
        One that has failed or is unsure is not, either, since it would be paid again: a batch
        does that, by ``resubmit_failed`` and ``resubmit_unsure``.

        Args:
            items: Inputs, or items with keys of your own, as for a batch.

        Raises:
            InputError: Something is neither.
            JournalError: The journal cannot be written, or a key stands there for another input.
                What came before is in the queue.
        """
        if not self._opened:
            raise ConfigurationError("the queue is not open: use it in `async with`")
        told = Enqueued()
        if isinstance(items, AsyncIterable):
            async with aclosing(iterate(items)) as drawn:
                async for item in drawn:
                    told = await self._put([item_of(item)], told)
            return told
        source = iter(items)
        while some := [item_of(item) for item in islice(source, _AT_ONCE)]:
            told = await self._put(some, told)
        return told

    async def _put(self, items: list[Item], told: Enqueued) -> Enqueued:
        planned = [Planned(item.key, item.input.to_dict()) for item in items]
        entries = await self._journal.plan(planned)
        todo = [
            (item.key, write(item))
            for item, entry in zip(items, entries, strict=True)
            if entry.state in _OPEN
        ]
        added = await self._jobs.add(todo) if todo else 0
        return evolve(
            told,
            added=told.added + added,
            waiting=told.waiting + len(todo) - added,
            ended=told.ended + len(items) - len(todo),
        )
