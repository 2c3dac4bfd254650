"""Waiting for what runs in a thread: it cannot be stopped, so it is not left alone either."""

from __future__ import annotations

import asyncio
from typing import TypeVar

__all__ = ["to_its_end"]

_T = TypeVar("_T")


async def to_its_end(job: asyncio.Future[_T]) -> _T:
    """Wait for a job in a thread, and pass a cancellation on only when it has ended.

    So nobody ever works on a file beside the thread.
    """
    cancelled: asyncio.CancelledError | None = None
    while not job.done():
        try:
            await asyncio.wait((job,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        job.exception()  # seen; the cancellation comes first
        raise cancelled
    return job.result()
