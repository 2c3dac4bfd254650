"""One thread for an engine that blocks, and commits that are shared by concurrent calls."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

from kling_async._utils.shielding import await_uncancelled
from kling_async.errors import ConfigurationError, JournalError, copy_for_waiter

_C = TypeVar("_C")
_T = TypeVar("_T")

# Callers that are resumed in one iteration of the loop. Each of them runs in the next one.
CALLERS_PER_ITERATION = 50


class GroupWriter(Generic[_C]):
    """Runs jobs in one thread, and commits calls in groups.

    A call that arrives during a commit is part of the next one, so that all callers wait for the
    disk or the network once.

    Args:
        name: The journal's name in errors.
        commit: Runs in the thread. Commits calls in one transaction, and returns for each of them
            its result, or the exception that it raises. If ``commit`` itself raises, every caller
            gets that exception.
        most: Calls in one transaction.
    """

    def __init__(self, name: str, commit: Callable[[list[_C]], list[object]], *, most: int) -> None:
        self._name = name
        self._make = commit
        self._most = most
        self._thread: ThreadPoolExecutor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[tuple[_C, asyncio.Future[object]]] = deque()
        self._committing = False

    async def start(self, opening: Callable[[], None], closing: Callable[[], None]) -> None:
        """Start the thread, and open the journal in it."""
        if self._thread is not None:
            self.check()
            raise JournalError(f"the journal {self._name} is open already")
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kling-journal")
        try:
            await self.run(opening)
        except BaseException:  # also if cancelled: the thread closes what it has opened by then
            await self.stop(closing)
            raise

    async def stop(self, closing: Callable[[], None]) -> None:
        """Commit all calls, close the journal, and end the thread. The second time does nothing."""
        thread = self._thread
        if thread is None:
            return
        self._commit(len(self._waiting))
        closed = self.run(closing)  # after the commits: there is one thread
        self._thread = None
        try:
            await await_uncancelled(closed)
        finally:
            thread.shutdown()

    def check(self) -> ThreadPoolExecutor:
        """Return the thread of a journal that is open on this event loop.

        A journal that a loop has left open when it ended is adopted by the running one.

        Raises:
            JournalError: It is not open.
            ConfigurationError: It is open on another event loop that is running.
        """
        if self._thread is None:
            raise JournalError(f"the journal {self._name} is not open: use it in `async with`")
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and self._loop.is_running():
                raise ConfigurationError(
                    f"the journal {self._name} is open on another event loop that is running: use"
                    " it on one loop at a time"
                )
            self._loop, self._committing = loop, False  # no loop awaits that commit any more
        return self._thread

    def run(self, job: Callable[[], _T]) -> asyncio.Future[_T]:
        """Run a function in the thread, after all earlier ones."""
        return asyncio.get_running_loop().run_in_executor(self.check(), job)

    async def write(self, call: _C) -> object:
        """Commit a call with those of others, also if the caller is cancelled."""
        self.check()
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, future))
        if not self._committing:
            self._commit(self._most)
        return await future

    def _commit(self, most: int) -> None:
        group = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        if group:
            self._committing = True
            # A future, not a task: a loop that ends cancels its tasks.
            job = self.run(partial(self._make, [call for call, _ in group]))
            job.add_done_callback(partial(self._committed, [future for _, future in group]))

    def _committed(
        self, callers: list[asyncio.Future[object]], job: asyncio.Future[list[object]]
    ) -> None:
        self._committing = False
        self._commit(self._most)
        error = job.exception()
        # Each caller gets its own copy of the error, to which it may add a note about its item.
        answers = [copy_for_waiter(error) for _ in callers] if error is not None else job.result()
        self._resume(list(zip(callers, answers, strict=True)))

    def _resume(self, answered: list[tuple[asyncio.Future[object], object]]) -> None:
        for caller, answer in answered[:CALLERS_PER_ITERATION]:
            if caller.done():
                continue  # it was cancelled
            if isinstance(answer, BaseException):
                caller.set_exception(answer)
            else:
                caller.set_result(answer)
        if rest := answered[CALLERS_PER_ITERATION:]:
            asyncio.get_running_loop().call_soon(self._resume, rest)
