"""The loop of one worker: which jobs it takes from the queue, and when it ends or returns them."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from kling_async.errors import (
    DownloadError,
    InputError,
    JournalError,
    KlingError,
    ResultExpiredError,
    StorageError,
    TaskFailedError,
)
from kling_async.fleet.serialization import load_item
from kling_async.policy.retry import backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pgqueuer.domain.models import Job

    from kling_async.batch.decisions import Item
    from kling_async.fleet.item_stream import ItemStream
    from kling_async.fleet.job_store import JobStore
    from kling_async.tasks.fan_out import Outcome

_log = logging.getLogger("kling_async")

# Jobs that are dequeued at once. Other workers cannot take a job that waits here.
_DEQUEUED_AT_ONCE = 50

# How often a job may return to the queue.
_MOST_ATTEMPTS = 10

# Seconds between two checks whether other workers still have jobs.
_CHECK_INTERVAL = 1.0

# Heartbeats in a lease. An idle worker checks for jobs of dead workers as often.
_HEARTBEATS = 4

# The longest wait before a job is tried again, in leases.
_MOST_LEASES = 32


def has_ended(outcome: Outcome) -> bool:
    """Return whether trying the item again, without another charge, cannot change its outcome."""
    error = outcome.error
    if error is None or isinstance(error, TaskFailedError):
        return True
    if outcome.task_ref is None and error.may_have_charged:
        return True  # it is unsure, and stays so
    if outcome.task_ref is not None and outcome.result is None:
        return False  # its task runs, and is paid
    if isinstance(error, DownloadError) and not isinstance(error, ResultExpiredError):
        return False  # another machine may have more room
    if isinstance(error, StorageError) and outcome.result is not None:
        return False  # another machine may be allowed to use the archive
    return not error.retryable


class WorkerLoop:
    """Takes jobs from an open queue while a stream is ready for their items; good for one run."""

    def __init__(
        self,
        jobs: JobStore,
        stream: ItemStream,
        *,
        concurrency: int,
        lease: float,
        until_empty: bool,
    ) -> None:
        self._jobs = jobs
        self._stream = stream
        self._concurrency = concurrency
        self._lease = lease
        self._until_empty = until_empty
        self._held: dict[int, Job] = {}  # by id, until the queue has recorded how they ended
        self._finished: list[tuple[Job, KlingError | None]] = []
        self._to_retry: list[Job] = []
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()

    async def run(
        self,
        on_outcome: Callable[[Outcome], object] | None,
        stop: asyncio.Event,
        stop_now: asyncio.Event,
        drain: float,
    ) -> None:
        """Process jobs until ``stop`` is set, then wait up to ``drain`` seconds for their ends."""
        running = asyncio.create_task(self._stream.run(on_outcome))
        dequeuing = asyncio.create_task(self._dequeue())
        renewing = asyncio.create_task(self._renew())
        settling = asyncio.create_task(self._settle_all())
        stopping = asyncio.create_task(stop.wait())
        stopping_now = asyncio.create_task(stop_now.wait())
        working = (running, dequeuing, renewing, settling)
        try:
            await _first_of(*working, stopping)
            self._stopping.set()
            self._stream.close()
            self._jobs.wake()
            with suppress(TimeoutError):
                async with asyncio.timeout(drain):
                    await _first_of(dequeuing, stopping_now)  # its last jobs are put back
                    await _first_of(running, renewing, settling, stopping_now)
        finally:
            tasks = (*working, stopping, stopping_now)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in working:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def hand_over(self) -> int:
        """Return the jobs that have not ended to the queue; return how many there were."""
        self._jobs.hurry()
        with suppress(JournalError):  # then others take them after the lease
            await self._settle_jobs()
            if self._held:
                await self._jobs.requeue(self._held.values())
            await self._jobs.fold_log()
        return len(self._held)

    async def _dequeue(self) -> None:
        """Take jobs whenever the stream is ready for more."""
        while True:
            await self._stream.ready.wait()
            if self._stream.closed:
                await self._stopping.wait()  # what runs may end first
                return
            room = max(1, self._concurrency - len(self._stream))
            jobs = await self._jobs.dequeue(min(_DEQUEUED_AT_ONCE, room))
            # If its heartbeats were late, a worker gets its own jobs again.
            jobs = [job for job in jobs if job.id not in self._held]
            self._held |= {job.id: job for job in jobs}
            if self._stopping.is_set():
                return
            if jobs:
                await self._begin_items(jobs)
            elif self._until_empty and not self._held and not await self._jobs.count_open():
                return
            else:
                interval = _CHECK_INTERVAL if self._until_empty else self._lease / _HEARTBEATS
                await self._jobs.wait_for_jobs(interval)

    async def _begin_items(self, jobs: Sequence[Job]) -> None:
        items: list[tuple[Job, Item]] = []
        for job in jobs:
            try:
                items.append((job, load_item(job.payload)))
            except InputError as error:
                self._set_aside(job, error)
        futures = await self._stream.put([item for _, item in items])
        for (job, _), future in zip(items, futures, strict=True):
            future.add_done_callback(partial(self._item_ended, job))

    def _item_ended(self, job: Job, future: asyncio.Future[Outcome]) -> None:
        error = future.exception()
        if error is None:
            outcome = future.result()
            if has_ended(outcome):
                self._finished.append((job, None))
            elif job.attempts + 1 < _MOST_ATTEMPTS:
                self._to_retry.append(job)
            else:
                error = outcome.error
        if error is not None:
            self._set_aside(job, error)
        self._changed.set()

    def _set_aside(self, job: Job, error: BaseException) -> None:
        assert isinstance(error, KlingError)  # noqa: S101 - neither items nor streams raise others
        _log.error("job %d of the queue is set aside as failed: %s", job.id, error)
        self._finished.append((job, error))
        self._changed.set()

    async def _settle_all(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._settle_jobs()

    async def _settle_jobs(self) -> None:
        """Record in the queue which jobs have ended, all at once."""
        finished, to_retry = list(self._finished), list(self._to_retry)
        if finished:
            await self._jobs.finish(finished)
        for job in to_retry:
            wait = backoff(job.attempts + 1, self._lease, _MOST_LEASES * self._lease)
            await self._jobs.requeue([job], wait)
        # Only now: if this is cancelled before, it is done again.
        del self._finished[: len(finished)], self._to_retry[: len(to_retry)]
        for job in (*(job for job, _ in finished), *to_retry):
            del self._held[job.id]

    async def _renew(self) -> None:
        """Send heartbeats, and fold the log of the jobs that have ended."""
        while True:
            await asyncio.sleep(self._lease / _HEARTBEATS)
            if self._held:
                await self._jobs.renew(self._held.values())
            await self._jobs.fold_log()


async def _first_of(*tasks: asyncio.Task[object]) -> None:
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
