"""A stream of items, from a queue or a broker, for a batch that runs for weeks."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import aclosing
from typing import TYPE_CHECKING

from kling_async.errors import InputError, copy_for_waiter
from kling_async.journal.base import ItemError, Planned

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from kling_async.batch.batch import Batch
    from kling_async.batch.decisions import Item
    from kling_async.errors import KlingError
    from kling_async.journal.base import Journal
    from kling_async.tasks.fan_out import Outcome

# Seconds after which an idle stream checks whether the batch was stopped, and whether this worker
# has lost its lease: a process that was suspended for too long must not wait for more items.
_CHECK_INTERVAL = 2.0


class ItemStream:
    """Passes items to a batch as they arrive, and delivers their outcomes.

    Args:
        batch: Processes the items; it must be open.
        journal: The journal of the batch.

    Attributes:
        ready: Set while the batch can start another item immediately.
        closed: The batch starts no more items: :meth:`close` was called, or it was stopped.
    """

    def __init__(self, batch: Batch, journal: Journal) -> None:
        self.ready: asyncio.Event = asyncio.Event()
        self.closed: bool = False
        self._batch = batch
        self._journal = journal
        self._waiting: deque[Item] = deque()
        self._arrived = asyncio.Event()
        self._futures: dict[str, asyncio.Future[Outcome]] = {}
        self._error: KlingError | None = None

    def __len__(self) -> int:
        return len(self._futures)

    async def put(self, items: Sequence[Item]) -> list[asyncio.Future[Outcome]]:
        """Add items and return a future for each; an item that is in progress keeps its future.

        A future fails with :class:`~kling_async.InputError` if the journal has its key with
        another input. If the stream ends before the batch has started an item, its future
        stays pending until :meth:`fail_all` is called.

        Raises:
            JournalError: The journal cannot be written.
        """
        if not items:
            return []
        try:
            await self._journal.plan([Planned(item.key, item.input.to_dict()) for item in items])
        except ItemError as error:
            if len(items) == 1:
                return [_failed(InputError(str(error)))]
            return [future for item in items for future in await self.put([item])]
        return [self._add_item(item) for item in items]

    async def run(self, on_outcome: Callable[[Outcome], object] | None = None) -> None:
        """Process the items until :meth:`close` is called and none is left.

        Args:
            on_outcome: Receives every outcome.

        Raises:
            KlingError: What :meth:`kling_async.Batch.run` raises.
        """
        async with aclosing(self._batch.run(self._items(), streaming=True)) as outcomes:
            async for outcome in outcomes:
                future = self._futures.pop(str(outcome.key))
                if not future.done():
                    future.set_result(outcome)
                if on_outcome is not None:
                    on_outcome(outcome)

    def close(self) -> None:
        """Start no more items. Items that the batch has not started are dropped."""
        self.closed = True
        for item in self._waiting:
            del self._futures[item.key]
        self._waiting.clear()
        self._arrived.set()
        self.ready.set()

    def fail_all(self, error: KlingError) -> None:
        """Set an exception on the futures of all remaining and all later items."""
        self.closed, self._error = True, error
        futures, self._futures = self._futures, {}
        for future in futures.values():
            if not future.done():
                future.set_exception(copy_for_waiter(error))

    def _add_item(self, item: Item) -> asyncio.Future[Outcome]:
        if self._error is not None:
            return _failed(copy_for_waiter(self._error))
        known = self._futures.get(item.key)
        if known is not None and not known.done():
            return known
        future = self._futures[item.key] = asyncio.get_running_loop().create_future()
        if known is None and not self.closed:  # else the item is in progress, or never will be
            self._waiting.append(item)
            self.ready.clear()
            self._arrived.set()
        return future

    async def _items(self) -> AsyncGenerator[Item]:
        try:
            while not self.closed and self._batch.stopped is None:
                if self._waiting:
                    yield self._waiting.popleft()
                    continue
                self.ready.set()
                self._arrived.clear()
                try:
                    async with asyncio.timeout(_CHECK_INTERVAL):
                        await self._arrived.wait()
                except TimeoutError:
                    await self._journal.claim()
        finally:
            self.closed = True
            self.ready.set()


def _failed(error: KlingError) -> asyncio.Future[Outcome]:
    future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future
