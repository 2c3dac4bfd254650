"""The items that one run processes, and those it waits for, if several workers share a journal."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from kling_async.errors import JournalError, copy_for_waiter
from kling_async.journal.base import Ownership

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kling_async.journal.base import Claim, Entry, Journal

# Seconds between two attempts to claim the items of other workers: soon enough after a worker has
# released them, and rarely enough for a thousand items.
_RETRY_INTERVAL = 2.0

# Items that are claimed in one commit.
_CLAIMED_AT_ONCE = 256


class Claims:
    """The claims of one run on items of a shared journal. All are released when the run ends."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._keys: set[str] = set()  # of items that this worker owns
        self._waiting: dict[str, tuple[Entry, asyncio.Future[Claim]]] = {}
        self._retrying: asyncio.Task[None] | None = None

    async def claim(self, *entries: Entry) -> list[Claim]:
        """Claim items; see :meth:`Journal.claim`."""
        # Before it is known: if this is cancelled, the journal may own them for this worker.
        self._keys.update(entry.key for entry in entries)
        claims = await self._journal.claim(*entries)
        self._keys.difference_update(
            claim.entry.key for claim in claims if claim.ownership is not Ownership.MINE
        )
        return claims

    async def claim_all(self, entries: Sequence[Entry]) -> list[Entry]:
        """Claim very many items, and return those that no other worker owns."""
        claims: list[Claim] = []
        for first in range(0, len(entries), _CLAIMED_AT_ONCE):
            claims += await self.claim(*entries[first : first + _CLAIMED_AT_ONCE])
        return [claim.entry for claim in claims if claim.ownership is Ownership.MINE]

    async def wait_for(self, entry: Entry) -> Claim:
        """Wait until the worker that owns an item has ended it or has released it."""
        future: asyncio.Future[Claim] = asyncio.get_running_loop().create_future()
        self._waiting[entry.key] = entry, future
        if self._retrying is None:
            self._retrying = asyncio.create_task(self._retry())
        try:
            return await future
        finally:
            del self._waiting[entry.key]

    async def release(self, key: str, *, ended: bool) -> None:
        """Release an item, if this worker owns it; see :meth:`Journal.release`."""
        if key in self._keys:
            self._keys.discard(key)
            await self._journal.release(key, ended=ended)

    async def close(self) -> None:
        """Release everything; a second call does nothing."""
        if self._retrying is not None:
            self._retrying.cancel()
            await asyncio.wait((self._retrying,))
            self._retrying = None
        keys, self._keys = self._keys, set()
        if keys:
            with suppress(JournalError):  # then the items are released when the lease ends
                await self._journal.release(*keys)

    async def _retry(self) -> None:
        """Claim the items of other workers from time to time."""
        while self._waiting:
            await asyncio.sleep(_RETRY_INTERVAL)
            waiting = iter(list(self._waiting.values()))
            while chunk := list(islice(waiting, _CLAIMED_AT_ONCE)):
                try:
                    claims = await self.claim(*(entry for entry, _ in chunk))
                except Exception as error:  # noqa: BLE001 - a waiter must not wait forever
                    for future in [future for _, future in chunk if not future.done()]:
                        future.set_exception(copy_for_waiter(error))
                    continue
                for claim, (_, future) in zip(claims, chunk, strict=True):
                    if claim.ownership is not Ownership.OTHERS and not future.done():
                        future.set_result(claim)
        self._retrying = None
