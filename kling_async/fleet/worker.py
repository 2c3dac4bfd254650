"""A worker of a fleet: it processes the items of a queue as one long batch."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Unpack

from attrs import evolve

from kling_async._utils.numbers import is_number
from kling_async.batch.batch import Batch
from kling_async.batch.options import BatchKeywords, BatchOptions
from kling_async.errors import ConfigurationError
from kling_async.fleet.item_stream import ItemStream
from kling_async.journal.address import Address
from kling_async.tasks.arguments import check_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kling_async.client import KlingClient
    from kling_async.journal.base import ItemState
    from kling_async.tasks.fan_out import Outcome


class Worker:
    """Processes the items of a batch's queue.

    Any number of workers may share a queue. If one fails, the others get its items after ``lease``
    seconds: tasks that run are attached, not submitted again; an item that was being submitted at
    that moment becomes unsure, and stays so. If the database cannot be reached, a worker waits for
    half a lease and then ends with a :class:`~kling_async.JournalError`; a process manager may
    start it again.

    An item that has not ended, because the service could not be reached or the task took too long,
    returns to the queue. It is tried again ``lease`` seconds later, then after twice that time and
    so on. After the tenth time the queue marks it as failed.

    Args:
        client: Submits the inputs and waits for the tasks. It is not closed.
        journal: The URL of the batch's journal, such as ``postgresql://user@host/database``.
        name: The name of the batch, unless the URL has it as ``?batch=``; by default ``default``.
        concurrency: How many tasks may run at one time.
        drain: Seconds for which running items may continue when the worker is stopped.
        lease: Seconds after which a worker that does not renew its lease is considered dead.
        until_empty: End when the queue is empty and no other worker is processing any of it.
        options: The options of the batch, without ``in_flight`` and ``resubmit_unsure``: an item
            that a worker has left unsure is not submitted again.
        **keywords: Single options, such as ``download_to="videos/"``. They replace those of
            ``options``; see :class:`~kling_async.BatchOptions`.

    Attributes:
        handed_over: How many items the worker has returned to the queue at its end.

    Raises:
        ConfigurationError: An argument is out of range, or the URL is invalid.
        MissingExtraError: pgqueuer or psycopg is not installed.
    """

    def __init__(  # noqa: PLR0913 - every one is a keyword with a default
        self,
        client: KlingClient,
        journal: str,
        *,
        name: str | None = None,
        concurrency: int = 100,
        drain: float = 30.0,
        lease: float = 60.0,
        until_empty: bool = False,
        options: BatchOptions | None = None,
        **keywords: Unpack[BatchKeywords],
    ) -> None:
        from kling_async.fleet.job_store import JobStore
        from kling_async.journal.postgres.journal import PostgresJournal

        if not is_number(drain) or drain < 0:
            raise ConfigurationError(f"drain must be a number of seconds, not {drain!r}")
        checked = worker_options(options, keywords, concurrency)
        self.handed_over: int = 0
        self._address = Address.parse(journal, name)
        self._concurrency = concurrency
        self._drain = drain
        self._lease = lease
        self._until_empty = until_empty
        self._journal = PostgresJournal(journal, name=name, lease=lease)
        self._jobs = JobStore(self._address, lease)
        self._batch = Batch(client, journal=self._journal, options=checked)
        self._stopping = asyncio.Event()
        self._stopping_now = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Worker {self._address}>"

    @property
    def counts(self) -> Mapping[ItemState, int]:
        """The number of items in each state, of those that this run has started."""
        return self._batch.counts

    @property
    def stopped(self) -> str | None:
        """Why the worker submits nothing more, if it was stopped by a limit or a refusal."""
        return self._batch.stopped

    def stop(self) -> None:
        """Start no more items; end when the running items have ended, or after ``drain`` seconds.

        Items that are still running then return to the queue, and another worker attaches their
        tasks at once. A second call does not wait for running items.
        """
        if self._stopping.is_set():
            self._stopping_now.set()
        self._stopping.set()

    async def run(self, on_outcome: Callable[[Outcome], object] | None = None) -> None:
        """Process items until :meth:`stop` is called.

        Args:
            on_outcome: Receives the outcome of every item that this worker has processed.

        Raises:
            JournalError: The database cannot be used; other workers find the running tasks.
            AuthenticationError: The service refused the key; nothing more was submitted.
            BalanceError: The balance is too low, or below ``min_balance``; nothing more was
                submitted.
        """
        from kling_async.fleet.worker_loop import WorkerLoop

        if on_outcome is not None and not callable(on_outcome):
            raise ConfigurationError(f"on_outcome must be a function, not {on_outcome!r:.80}")
        async with self._jobs as jobs:
            loop = WorkerLoop(
                jobs,
                ItemStream(self._batch, self._journal),
                concurrency=self._concurrency,
                lease=self._lease,
                until_empty=self._until_empty,
            )
            try:
                async with self._batch:
                    await loop.run(on_outcome, self._stopping, self._stopping_now, self._drain)
            finally:
                # Only now that the journal has released the items, others may have the jobs.
                self.handed_over = await loop.hand_over()


def worker_options(
    options: BatchOptions | None, keywords: BatchKeywords, concurrency: int
) -> BatchOptions:
    """Return the options of a worker's batch.

    Raises:
        ConfigurationError: A value is out of range, or the option is not for workers.
    """
    if type(concurrency) is not int or concurrency < 1:
        raise ConfigurationError(f"concurrency must be at least 1, not {concurrency!r}")
    check_kind("options", options, BatchOptions)
    checked = evolve(options or BatchOptions(), **keywords)
    if checked.resubmit_unsure:
        raise ConfigurationError("resubmit_unsure is not for workers: use a Batch")
    return evolve(checked, in_flight=concurrency)
