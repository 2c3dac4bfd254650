"""Waiting for what runs in a thread: it cannot be stopped, so it is not left alone either."""

from __future__ import annotations

import asyncio
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

_T = TypeVar("_T")


async def in_thread(work: Callable[[], _T]) -> _T:
    """Run a blocking function in a thread, and wait until it has ended, even if cancelled."""
    return await to_its_end(asyncio.get_running_loop().run_in_executor(None, work))


async def to_its_end(job: asyncio.Future[_T]) -> _T:
    """Wait for a job in a thread, and pass a cancellation on only when it has ended.

    So that a file is never used by two at a time, the thread and the code that was cancelled.
    """
    cancelled: asyncio.CancelledError | None = None
    while not job.done():
        try:
            with nullcontext() if cancelled is None else _shield():
                await asyncio.wait((job,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not job.cancelled():
            job.exception()  # retrieved; the cancellation comes first
        raise cancelled
    return job.result()


def _shield() -> AbstractContextManager[Any]:
    """Keep the cancel scopes of anyio from cancelling the same wait again and again.

    A scope that is cancelled cancels its tasks in every cycle of the event loop until they have
    left it, which would use a whole core for as long as the thread runs. Only a scope of anyio's
    own can be a shield, and there is none around us if anyio was never imported.
    """
    anyio: Any = sys.modules.get("anyio")
    shield: AbstractContextManager[Any] = (
        anyio.CancelScope(shield=True) if anyio is not None else nullcontext()
    )
    return shield
