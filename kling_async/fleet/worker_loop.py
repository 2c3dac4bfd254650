"""The work of one worker from its start to its end: which jobs it has in hand, and what for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from kling_async.errors import (
    DownloadError,
    InputError,
    JournalError,
    KlingError,
    ResultExpiredError,
    TaskFailedError,
)
from kling_async.fleet.job_store import Done
from kling_async.fleet.serialization import read
from kling_async.policy.retry import backoff

if TYPE_CHECKING:
    from pgqueuer.domain.models import Job

    from kling_async.batch.decisions import Item
    from kling_async.fleet.item_stream import Feed
    from kling_async.fleet.job_store import Jobs
    from kling_async.tasks.fan_out import Outcome

_log = logging.getLogger("kling_async")

# Jobs taken at once. What is taken and cannot be begun with would be missed by other workers.
_AT_ONCE = 50

# How often an item may go back to the queue without an end.
_TRIES = 10

# The longest wait before an item is tried again, in leases.
_MOST_LEASES = 32

# Seconds between two looks at whether others still have jobs, where the end is waited for.
_LOOK = 1.0

# A worker that waits looks for the jobs of dead ones so many times in a lease.
_LOOKS = 4


def has_ended(outcome: Outcome) -> bool:
    """Tell whether anything could become of an item if it were tried again, for free."""
    error = outcome.error
    if error is None or isinstance(error, TaskFailedError):
        return True
    if outcome.task_ref is None and error.may_have_charged:
        return True  # it is unsure, and stays so
    if outcome.task_ref is not None and outcome.result is None:
        return False  # its task runs, and is paid
    if isinstance(error, DownloadError) and not isinstance(error, ResultExpiredError):
        return False  # another machine may have more room
    return not error.retryable


class Shift:
    """The work of one worker; good for one run.

    Args:
        jobs: Where the jobs are; they must be open.
        feed: What brings their items to their ends.
        most: How many jobs may be in hand.
        lease: Seconds after which jobs that nobody is heard of with are anybody's.
        until_empty: End when there are no jobs left, in nobody's hands.
    """

    def __init__(
        self,
        jobs: Jobs,
        feed: Feed,
        *,
        most: int,
        lease: float,
        until_empty: bool,
    ) -> None:
        self._jobs = jobs
        self._feed = feed
        self._most = most
        self._lease = lease
        self._until_empty = until_empty
        self._held: dict[int, Job] = {}  # by their numbers, until the queue knows of their ends
        self._done: list[Done] = []
        self._again: list[Job] = []
        self._news = asyncio.Event()
        self._over = asyncio.Event()
        self._untidy = False

    async def work(
        self,
        told: Callable[[Outcome], object] | None,
        stop: asyncio.Event,
        at_once: asyncio.Event,
        drain: float,
    ) -> None:
        """Take jobs until ``stop`` is set, and then wait ``drain`` seconds for their ends."""
        running = asyncio.create_task(self._feed.run(told))
        taking = asyncio.create_task(self._take())
        beating = asyncio.create_task(self._beat())
        settling = asyncio.create_task(self._settle_all())
        stopping = asyncio.create_task(stop.wait())
        hurrying = asyncio.create_task(at_once.wait())
        working = (running, taking, beating, settling)
        try:
            await _first(*working, stopping)
            self._over.set()
            self._feed.end()
            self._feed.hungry.set()
            self._jobs.wake()
            clock = asyncio.get_running_loop().time
            end = clock() + drain
            # What it takes at this moment is put back.
            await _first(taking, hurrying, timeout=drain)
            left = max(0.0, end - clock())
            await _first(running, beating, settling, hurrying, timeout=left)
        finally:
            everything = (*working, stopping, hurrying)
            for task in everything:
                task.cancel()
            await asyncio.gather(*everything, return_exceptions=True)
        for task in working:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def hand_over(self) -> int:
        """Put back what has not ended; return how many jobs that were."""
        self._jobs.hurry()
        with suppress(JournalError):  # then they come back by themselves
            await self._settle()
            left = list(self._held.values())
            if left:
                await self._jobs.put_back(left)
            await self._tidy()
            return len(left)
        return len(self._held)

    async def _take(self) -> None:
        """Take jobs as soon as the batch can begin with them."""
        while not self._over.is_set():
            await self._feed.hungry.wait()
            if self._feed.over:  # what runs may end, and the batch with it
                await self._over.wait()
            if self._over.is_set():
                return
            room = max(1, self._most - len(self._feed))
            jobs = await self._jobs.take(min(_AT_ONCE, room))
            # One whose heart has stood still for a while is its own heir.
            jobs = [job for job in jobs if job.id not in self._held]
            self._held |= {job.id: job for job in jobs}
            if self._over.is_set():
                return
            if jobs:
                await self._begin(jobs)
            elif self._until_empty and not self._held and not await self._jobs.left():
                return
            else:
                await self._jobs.wait(_LOOK if self._until_empty else self._lease / _LOOKS)

    async def _begin(self, jobs: Sequence[Job]) -> None:
        items: list[tuple[Job, Item]] = []
        for job in jobs:
            try:
                items.append((job, read(job.payload)))
            except InputError as error:
                self._refuse(job, error)
        futures = await self._feed.put([item for _, item in items])
        for (job, _), future in zip(items, futures, strict=True):
            future.add_done_callback(partial(self._ended, job))

    def _ended(self, job: Job, future: asyncio.Future[Outcome]) -> None:
        """Note what has become of a job's item."""
        error = future.exception()
        if error is not None:
            assert isinstance(error, KlingError)  # noqa: S101 - the feed raises no other
            self._refuse(job, error)
            return
        outcome = future.result()
        if has_ended(outcome):
            self._done.append(Done(job))
        elif job.attempts + 1 < _TRIES:
            self._again.append(job)
        else:
            assert outcome.error is not None  # noqa: S101 - else it had ended
            self._refuse(job, outcome.error)
        self._news.set()

    def _refuse(self, job: Job, error: KlingError) -> None:
        _log.error("job %d of the queue is set aside as failed: %s", job.id, error)
        self._done.append(Done(job, error))
        self._news.set()

    async def _settle_all(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await self._settle()

    async def _settle(self) -> None:
        """Tell the queue what is done with, all at once."""
        done, again = list(self._done), list(self._again)
        if done:
            await self._jobs.done(done)
        for job in again:
            wait = backoff(job.attempts + 1, self._lease, _MOST_LEASES * self._lease)
            await self._jobs.put_back([job], wait)
        # Only now: who is cancelled meanwhile may do it again.
        del self._done[: len(done)], self._again[: len(again)]
        for job in (*(one.job for one in done), *again):
            del self._held[job.id]
        self._untidy = True

    async def _beat(self) -> None:
        """Say that this worker lives, and tidy up behind it."""
        while True:
            await asyncio.sleep(self._lease / _LOOKS)
            if self._held:
                await self._jobs.beat(self._held.values())
            await self._tidy()

    async def _tidy(self) -> None:
        if self._untidy:
            self._untidy = False
            await self._jobs.tidy()


async def _first(*tasks: asyncio.Task[object], timeout: float | None = None) -> None:
    await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
