"""Work that is not cut short when its caller is cancelled.

A caller may be cancelled repeatedly: by a second Ctrl-C, or by an anyio scope, which cancels its
tasks in every cycle of the event loop until they have left it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from attrs import define, field

_T = TypeVar("_T")


@define(eq=False)
class Cleanups:
    """Clean-up that runs in tasks of its own, to which this object keeps references.

    A cancelled caller does not wait for its clean-up. The owner waits for it when it is closed.
    """

    _tasks: set[asyncio.Task[object]] = field(factory=set, init=False)

    def start(self, work: Coroutine[object, object, _T]) -> asyncio.Task[_T]:
        """Start clean-up in a task."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def run(self, work: Coroutine[object, object, _T]) -> _T:
        """Run clean-up and return its result.

        If the caller is cancelled, this raises at once, and the clean-up continues.
        """
        return await await_task(self.start(work))

    async def finished(self) -> None:
        """Wait until all clean-up on the running event loop has ended."""
        loop = asyncio.get_running_loop()
        while tasks := [task for task in self._tasks if task.get_loop() is loop]:
            await asyncio.wait(tasks)


async def await_task(task: asyncio.Task[_T]) -> _T:
    """Return the result of a task that is not cancelled together with the caller."""
    await asyncio.wait((task,))
    return task.result()


async def run_in_thread(work: Callable[[], _T]) -> _T:
    """Run a blocking function in a thread, and wait until it has returned, even if cancelled."""
    return await await_uncancelled(asyncio.get_running_loop().run_in_executor(None, work))


async def await_uncancelled(job: asyncio.Future[_T]) -> _T:
    """Return the result of a future; if cancelled, raise only after the future is done.

    A thread cannot be stopped. If its caller continued, both could use the same file.
    """
    cancelled: asyncio.CancelledError | None = None
    while not job.done():
        try:
            with nullcontext() if cancelled is None else _anyio_shield():
                await asyncio.wait((job,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not job.cancelled():
            job.exception()  # retrieved; the cancellation takes precedence
        raise cancelled
    return job.result()


def _anyio_shield() -> AbstractContextManager[Any]:
    """Return what keeps the scopes of anyio, if it was imported, from cancelling repeatedly."""
    anyio: Any = sys.modules.get("anyio")
    shield: AbstractContextManager[Any] = (
        anyio.CancelScope(shield=True) if anyio is not None else nullcontext()
    )
    return shield
