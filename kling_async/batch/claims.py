"""Which items a run has in hand, where several workers share a journal, and which it waits for."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from kling_async.errors import JournalError, copy_for_waiter
from kling_async.journal.base import Claim, Ownership

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kling_async.journal.base import Entry, Journal

# Seconds between two looks for items that others have in hand: soon enough to go on with what
# another has handed over, and seldom enough for a thousand of them.
_EVERY = 2.0

# Items in one look.
_AT_ONCE = 256


class Claims:
    """The claims of one run. All of them are let go of when it ends."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._mine: set[str] = set()
        self._waiting: dict[str, tuple[Entry, asyncio.Future[Claim]]] = {}
        self._looking: asyncio.Task[None] | None = None

    async def take(self, *entries: Entry) -> list[Claim]:
        """Claim items; see :meth:`Journal.claim`."""
        # Before it is certain: who is cancelled meanwhile may have them all the same.
        self._mine.update(entry.key for entry in entries)
        claims = await self._journal.claim(*entries)
        self._mine.difference_update(
            claim.entry.key for claim in claims if claim.ownership is not Ownership.MINE
        )
        return claims

    async def peek(self, entry: Entry) -> Claim:
        """Tell what would become of a claim."""
        (claim,) = await self._journal.peek(entry)
        return claim

    async def wait_for(self, entry: Entry) -> Claim:
        """Wait until the other worker that has an item in hand has ended it, or lets go of it."""
        future: asyncio.Future[Claim] = asyncio.get_running_loop().create_future()
        self._waiting[entry.key] = entry, future
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_after())
        try:
            return await future
        finally:
            del self._waiting[entry.key]

    async def let_go(self, key: str, *, ended: bool) -> None:
        """Leave an item to the others; see :meth:`Journal.release`."""
        if key in self._mine:
            self._mine.discard(key)
            await self._journal.release(key, ended=ended)

    async def close(self) -> None:
        """Leave everything to the others; the second time does nothing."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait((self._looking,))
            self._looking = None
        mine, self._mine = self._mine, set()
        if mine:
            with suppress(JournalError):  # then they have it when this worker is not heard of
                await self._journal.release(*mine)

    async def _look_after(self) -> None:
        while self._waiting:
            await asyncio.sleep(_EVERY)
            waiting = iter(list(self._waiting.values()))
            while some := list(islice(waiting, _AT_ONCE)):
                await self._try(some)
        self._looking = None

    async def _try(self, waiting: Iterable[tuple[Entry, asyncio.Future[Claim]]]) -> None:
        entries, futures = zip(*waiting, strict=True)
        try:
            claims = await self.take(*entries)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody shall wait for ever
            for future in [future for future in futures if not future.done()]:
                future.set_exception(copy_for_waiter(error))
            return
        for claim, future in zip(claims, futures, strict=True):
            if claim.ownership is not Ownership.OTHERS and not future.done():
                future.set_result(claim)
