"""Items that come one by one, from a queue or a broker, for a batch that goes on for weeks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

from kling_async.errors import InputError, copy_for_waiter
from kling_async.journal.base import ItemError, Planned

if TYPE_CHECKING:
    from kling_async.batch.batch import Batch
    from kling_async.batch.decisions import Item
    from kling_async.errors import KlingError
    from kling_async.journal.base import Journal
    from kling_async.tasks.fan_out import Outcome

# Seconds between two looks at whether the batch was stopped: items that it does not begin with
# tell nobody.
_LOOK = 1.0

# Looks without news after which the journal is asked whether this worker is among the living:
# who has been asleep for too long must not wait for more.
_SILENT = 5


class Feed:
    """Gives items to a batch as they come, and tells each that came what became of it.

    Args:
        batch: What brings them to their ends; it must be open.
        journal: The batch's.

    Attributes:
        hungry: Set while the batch could begin with another item at once.
    """

    def __init__(self, batch: Batch, journal: Journal) -> None:
        self.hungry: asyncio.Event = asyncio.Event()
        self._batch = batch
        self._journal = journal
        self._waiting: deque[Item] = deque()
        self._news = asyncio.Event()
        self._futures: dict[str, asyncio.Future[Outcome]] = {}
        self._ended = False
        self._over = False
        self._error: KlingError | None = None

    @property
    def over(self) -> bool:
        """Whether the batch begins with nothing more: the feed was ended, or a limit of yours."""
        return self._over

    def __len__(self) -> int:
        return len(self._futures)

    async def put(self, items: Sequence[Item]) -> list[asyncio.Future[Outcome]]:
        """Take items in; give a future for each, the same one for the same item.

        A future fails with :class:`~kling_async.errors.InputError` if the journal has its key for
        another input. If the run is over before the item is, nothing becomes of it, until
        :meth:`fail` is called.

        Raises:
            JournalError: The journal cannot be written.
        """
        errors = await self._plan(items) if items else {}
        return [self._put(item, errors.get(id(item))) for item in items]

    async def run(self, told: Callable[[Outcome], object] | None = None) -> None:
        """Bring the items to their ends, until :meth:`end` is called and none is left.

        Args:
            told: Is given every outcome.

        Raises:
            KlingError: What :meth:`kling_async.Batch.run` raises.
        """
        async with aclosing(self._batch.run(self._items(), streaming=True)) as outcomes:
            async for outcome in outcomes:
                future = self._futures.pop(str(outcome.key))
                if not future.done():
                    future.set_result(outcome)
                if told is not None:
                    told(outcome)

    def end(self) -> None:
        """Begin with nothing more: what the batch has not begun with is forgotten."""
        self._ended = True
        for item in self._waiting:
            del self._futures[item.key]
        self._waiting.clear()
        self._news.set()

    def fail(self, error: KlingError) -> None:
        """Tell all that are left, and all to come, that nothing becomes of them here."""
        self._ended, self._error = True, error
        futures, self._futures = self._futures, {}
        for future in futures.values():
            if not future.done():
                future.set_exception(copy_for_waiter(error))

    async def _plan(self, items: Sequence[Item]) -> dict[int, InputError]:
        """Have items written in the journal; return what it says to those that it refuses."""
        try:
            await self._journal.plan([Planned(item.key, item.input.to_dict()) for item in items])
        except ItemError as error:
            if len(items) == 1:
                return {id(items[0]): InputError(str(error))}
            errors: dict[int, InputError] = {}
            for item in items:
                errors |= await self._plan([item])
            return errors
        return {}

    def _put(self, item: Item, refused: InputError | None) -> asyncio.Future[Outcome]:
        error = refused if self._error is None else copy_for_waiter(self._error)
        known = self._futures.get(item.key)
        if error is None and known is not None and not known.done():
            return known
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        if error is not None:
            future.set_exception(error)
            return future
        self._futures[item.key] = future
        if known is None and not self._ended:  # else its outcome is yet to come, or never will
            self._waiting.append(item)
            self.hungry.clear()
            self._news.set()
        return future

    async def _items(self) -> AsyncGenerator[Item]:
        try:
            async for item in self._given():
                yield item
        finally:
            self._ended = self._over = True
            self.hungry.set()  # who waits for that is to see that it is over

    async def _given(self) -> AsyncGenerator[Item]:
        silent = 0
        while not self._ended and self._batch.stopped is None:
            if self._waiting:
                silent = 0
                yield self._waiting.popleft()
                continue
            self.hungry.set()
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._news.wait()
            silent += 1
            if silent % _SILENT == 0:
                await self._journal.claim()
