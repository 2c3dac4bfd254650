"""Clean-up that cancellation cannot cut short, and that does not keep a cancelled caller waiting.

A caller may be cancelled again while it cleans up: by a second Ctrl-C, or by an anyio scope, which
cancels at every await until it is left. Waiting in a loop until the work is done would then spin.
So the work runs in a task of its own: a caller that is cancelled leaves at once, the work goes to
its end, and closing the owner later waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

_T = TypeVar("_T")


class Cleanups:
    """The clean-up tasks of one owner, which refers to them until they end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()

    def start(self, work: Coroutine[object, object, _T]) -> asyncio.Task[_T]:
        """Start clean-up work in a task of its own."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def run(self, work: Coroutine[object, object, _T]) -> _T:
        """Run clean-up work and return its result.

        If the caller is cancelled, this raises at once, and the work goes on in its task.
        """
        return await outlive(self.start(work))

    async def finished(self) -> None:
        """Wait until all clean-up on this event loop has ended, however it ends."""
        loop = asyncio.get_running_loop()
        while tasks := [task for task in self._tasks if task.get_loop() is loop]:
            await asyncio.wait(tasks)


async def outlive(task: asyncio.Task[_T]) -> _T:
    """Wait for a task that is not cancelled with its waiter, and return its result."""
    await asyncio.wait((task,))
    return task.result()
