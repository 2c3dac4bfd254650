"""A worker of a fleet: a batch that is fed by the queue, and says there what is done with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Unpack

from attrs import evolve

from kling_async.batch.batch import Batch
from kling_async.batch.options import BatchKeywords, BatchOptions
from kling_async.errors import ConfigurationError
from kling_async.fleet.item_stream import Feed
from kling_async.journal.address import Address

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kling_async.client import KlingClient
    from kling_async.journal.base import ItemState
    from kling_async.tasks.fan_out import Outcome


class Worker:
    """Takes items from the queue of a batch, and brings them to their ends.

    Any number of workers may share a queue. If one dies, its items are with the others after
    ``lease`` seconds: tasks that run are attached, not submitted again; what it was sending in
    that moment is unsure, and stays so. Where the database cannot be reached, a worker
    waits for half a lease, and ends then with a :class:`~kling_async.errors.JournalError`:
    whatever starts processes may start it again.

    An item that could not be brought to its end, since the service could not be reached or the
    task took too long, goes back to the queue: it is tried again ``lease`` seconds later, then
    after twice that time and so on, and set aside as failed after the tenth time.

    Args:
        client: What submits and waits. It is not closed.
        journal: The URL of the batch's journal, such as ``postgresql://user@host/database``.
        name: The batch's name, if it is not in the URL as ``?batch=``; else ``default``.
        concurrency: How many tasks may run at one time.
        drain: Seconds that are left to what runs when the worker is stopped.
        lease: Seconds after which a worker that is not heard of is believed dead.
        until_empty: End when nothing is left in the queue, and no other worker has any of it.
        options: The options of the batch, except ``in_flight``, which is ``concurrency``, and
            ``resubmit_unsure``: an item that a worker has left unsure is not submitted again.
        **keywords: Single options, such as ``download_to="videos/"``; they replace those of
            ``options``.

    Attributes:
        handed_over: How many items were given back to the others in the end.

    Raises:
        ConfigurationError: A setting makes no sense.
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
        from kling_async.fleet.job_store import Jobs
        from kling_async.journal.postgres.journal import PostgresJournal

        if not 0 <= drain < float("inf"):
            raise ConfigurationError(f"drain must be a number of seconds, not {drain!r}")
        options = worker_options(options, keywords, concurrency)
        self.handed_over: int = 0
        self._address = Address.parse(journal, name)
        self._concurrency = concurrency
        self._drain = drain
        self._lease = lease
        self._until_empty = until_empty
        self._journal = PostgresJournal(journal, name=name, lease=lease)
        self._jobs = Jobs(self._address, lease)
        self._batch = Batch(client, journal=self._journal, options=options)
        self._stop = asyncio.Event()
        self._at_once = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Worker {self._address}>"

    @property
    def counts(self) -> Mapping[ItemState, int]:
        """How many of the items that this run has taken stand in each state now."""
        return self._batch.counts

    @property
    def stopped(self) -> str | None:
        """Why the worker has submitted nothing more, if it was stopped by a limit of yours."""
        return self._batch.stopped

    def stop(self) -> None:
        """Take nothing more, and end when what runs has ended, or ``drain`` seconds later.

        What runs then is handed over: another worker attaches it at once. If this is called a
        second time, that is done without waiting.
        """
        if self._stop.is_set():
            self._at_once.set()
        self._stop.set()

    async def run(self, told: Callable[[Outcome], object] | None = None) -> None:
        """Work until :meth:`stop` is called.

        Args:
            told: Is given the outcome of every item that this worker has had in hand.

        Raises:
            JournalError: The database cannot be used; what ran is found by the others.
            AuthenticationError: The key is refused; nothing more was submitted.
            BalanceError: The balance is too low, or below ``min_balance``; the same.
        """
        from kling_async.fleet.worker_loop import Shift

        async with self._jobs as jobs:
            shift = Shift(
                jobs,
                Feed(self._batch, self._journal),
                most=self._concurrency,
                lease=self._lease,
                until_empty=self._until_empty,
            )
            try:
                async with self._batch:
                    await shift.work(told, self._stop, self._at_once, self._drain)
            finally:
                # Now that the journal lets go of the items, somebody else may have the jobs.
                self.handed_over = await shift.hand_over()


def worker_options(
    options: BatchOptions | None, keywords: BatchKeywords, concurrency: int
) -> BatchOptions:
    """Return the options of a worker, which runs ``concurrency`` tasks at one time.

    Raises:
        ConfigurationError: A value is out of range, or no option of a worker.
    """
    if type(concurrency) is not int or concurrency < 1:
        raise ConfigurationError(f"concurrency must be at least 1, not {concurrency!r}")
    checked = evolve(options or BatchOptions(), **keywords)
    if checked.resubmit_unsure:
        raise ConfigurationError("a worker does not submit unsure items again: use a Batch")
    return evolve(checked, in_flight=concurrency)
