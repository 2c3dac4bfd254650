"""A cache whose values are computed once for all callers that wait at the same time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable


class SharedCache:
    """Keeps the most recently used values, up to `most_bytes` together. Failures are not kept."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._size = 0
        self._kept: OrderedDict[Hashable, tuple[float, bytes]] = OrderedDict()
        self._making: dict[Hashable, asyncio.Task[bytes]] = {}

    async def get(
        self,
        key: Hashable,
        make: Callable[[], Awaitable[bytes]],
        *,
        max_age: float = inf,
    ) -> bytes:
        """Return the value of a key; call `make` if it is missing or older than `max_age` seconds.

        Raises what `make` raises. The cancellation of one caller does not affect the others.
        """
        now = asyncio.get_running_loop().time()
        if key in self._kept and now - self._kept[key][0] <= max_age:
            self._kept.move_to_end(key)
            return self._kept[key][1]
        making = self._making.get(key)
        if making is None:
            making = asyncio.create_task(self._make(key, make))
            making.add_done_callback(_retrieve_exception)
            if not making.done():  # pragma: no branch - an eager task may be
                self._making[key] = making
        return await asyncio.shield(making)

    async def close(self) -> None:
        """Cancel the calls of `make`."""
        making = list(self._making.values())
        for task in making:
            task.cancel()
        await asyncio.gather(*making, return_exceptions=True)

    async def _make(self, key: Hashable, make: Callable[[], Awaitable[bytes]]) -> bytes:
        try:
            value = await make()
        finally:
            self._making.pop(key, None)
        self._size += len(value) - len(self._kept.pop(key, (0.0, b""))[1])
        self._kept[key] = (asyncio.get_running_loop().time(), value)
        while self._size > self._most_bytes:
            _, (_, dropped) = self._kept.popitem(last=False)
            self._size -= len(dropped)
        return value


def _retrieve_exception(task: asyncio.Task[bytes]) -> None:
    """Prevent asyncio's report of an exception if all callers have been cancelled."""
    if not task.cancelled():
        task.exception()
