from __future__ import annotations

import asyncio

import pytest

from kling_async import StorageError
from kling_async.images.shared_calls import SharedCalls

pytestmark = pytest.mark.virtual_time


class Work:
    """Takes a second, and records how it ends."""

    def __init__(self, error: Exception | None = None) -> None:
        self.started = self.ended = self.cancelled = 0
        self._error = error

    async def run(self) -> str:
        self.started += 1
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            await asyncio.sleep(0.5)  # to clean up
            self.cancelled += 1
            raise
        if self._error is not None:
            raise self._error
        self.ended += 1
        return "done"


async def test_once() -> None:
    """Callers that need the same at the same time share a call; later ones make another."""
    work, calls = Work(), SharedCalls[str]()
    assert await asyncio.gather(*(calls.run("a", work.run) for _ in range(5))) == ["done"] * 5
    assert work.started == 1
    await asyncio.gather(calls.run("a", work.run), calls.run("b", work.run))
    assert work.started == 3


async def test_failure() -> None:
    """A failure is that of all callers, each of which may add a note to its own."""
    work, calls = Work(StorageError("full")), SharedCalls[str]()
    tasks = [calls.run("a", work.run) for _ in range(3)]
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(error) for error in errors] == ["full"] * 3
    assert len(set(map(id, errors))) == 3
    assert work.started == 1


async def test_cancellation() -> None:
    """The call continues for the others, and is cancelled with its last caller, which waits."""
    work, calls = Work(), SharedCalls[str]()
    first, second = (asyncio.create_task(calls.run("a", work.run)) for _ in range(2))
    await asyncio.sleep(0.1)
    first.cancel()
    assert await second == "done"
    third = asyncio.create_task(calls.run("a", work.run))
    await asyncio.sleep(0.1)
    third.cancel()
    await asyncio.wait((third,))
    assert (work.started, work.ended, work.cancelled) == (2, 1, 1)
    assert third.cancelled()
    assert first.cancelled()
