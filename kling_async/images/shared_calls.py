"""Calls that several callers need at the same time are made once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from attrs import define

from kling_async._utils.shielding import await_uncancelled
from kling_async.errors import copy_for_waiter

_T = TypeVar("_T")


@define(eq=False)
class _SharedCall(Generic[_T]):
    task: asyncio.Task[_T]
    callers: int = 0


class SharedCalls(Generic[_T]):
    """The calls that are under way on one event loop, by their keys."""

    def __init__(self) -> None:
        self._calls: dict[Hashable, _SharedCall[_T]] = {}

    async def run(self, key: Hashable, make: Callable[[], Awaitable[_T]]) -> _T:
        """Await ``make()``, or a call of the same key that is under way; raise what it raises.

        The call is cancelled when its last caller is. Then this returns after the call has ended.
        """
        call = self._calls.get(key)
        if call is None:
            task = asyncio.create_task(self._make(key, make))
            call = _SharedCall(task)
            if not task.done():  # pragma: no branch - an eager task may be
                self._calls[key] = call
        call.callers += 1
        try:
            await asyncio.wait((call.task,))
        finally:
            call.callers -= 1
            if not call.callers and not call.task.done():
                self._calls.pop(key, None)
                call.task.cancel()
                await await_uncancelled(asyncio.gather(call.task, return_exceptions=True))
        try:
            return call.task.result()
        except Exception as error:
            if not call.callers:
                raise
            raise copy_for_waiter(error) from None

    async def _make(self, key: Hashable, make: Callable[[], Awaitable[_T]]) -> _T:
        try:
            return await make()
        finally:
            self._calls.pop(key, None)
