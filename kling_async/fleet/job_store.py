"""The jobs of a queue, as pgqueuer keeps them on PostgreSQL: one says that an item is to be done.

pgqueuer's tables and queries are used, its ``QueueManager`` is not. On psycopg that one listens on
the connection with which it works, and holds it for up to a second, while heartbeats and whatever
has ended wait. The job of a worker that is cancelled it deletes, where ours goes back to the queue.
It ends with its connection, and takes as many jobs as it may, not as many as can be begun with.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Self, TypeVar
from uuid import uuid4

from kling_async._utils.backends import shut_down_socket
from kling_async._utils.extras import missing_extra
from kling_async.errors import JournalError
from kling_async.journal.postgres._watch import longest
from kling_async.policy.retry import backoff

try:
    import psycopg
    from pgqueuer.domain.models import Job, TableChangedEvent, TracebackRecord, utc_now
    from pgqueuer.domain.types import QueueEntrypoint, QueueManagerId
    from pgqueuer.ports.repository import EntrypointExecutionParameter
    from pgqueuer.queries import Queries
    from psycopg import sql

    from kling_async._postgres.connection import UNDONE
    from kling_async.journal.postgres._link import COMPLAINTS, reading
except ImportError:
    raise missing_extra("queue", "a queue needs another package") from None

if TYPE_CHECKING:
    from types import TracebackType

    from kling_async.journal.address import Address

_T = TypeVar("_T")

_log = logging.getLogger("kling_async")

# What a server complains of, by the beginning of its code, and what to do about it.
_COMPLAINTS = {
    **COMPLAINTS,
    "42703": "has the tables of an older pgqueuer ({error}): run `pgq upgrade`",
}

# Seconds for a server to answer one who is in a hurry, or who goes away meanwhile.
_BRISK = 1.0

# Rows of pgqueuer's log that are in its statistics already; the journal tells of each item.
_TIDY = "DELETE FROM {log} WHERE entrypoint = $1 AND aggregated AND status <> 'failed'"


class JobStore:
    """The jobs of one queue. Use it as an async context manager.

    A connection that is lost is made anew. Whatever was under way is done again: a job that was
    put in twice is there once, and one that nobody knows to have taken comes back by itself. So it
    is with a server that does not answer: the connection is cut.

    Args:
        address: The database, and the name of the batch, which is the queue's.
        lease: Seconds after which the jobs of a worker that is not heard of are anybody's. For
            half as long the database may be out of reach.
    """

    def __init__(self, address: Address, lease: float = 60.0) -> None:
        self._given = reading(address)
        self._address = address
        self._lease = timedelta(seconds=lease)
        self._patience = lease / 2  # as long as the journal seeks its connection
        self._longest = longest(lease)  # as long as the journal waits for an answer
        self._limits: set[asyncio.Timeout] = set()  # of what the server is being asked
        self._queue = QueueEntrypoint(f"kling_async:{address.batch}")
        self._me = QueueManagerId(uuid4())
        self._db: psycopg.AsyncConnection | None = None
        self._turn = asyncio.Lock()
        self._news = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._do(_make_tables)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait([self._listener])
        await self._close()

    async def enqueue(self, payloads: Sequence[tuple[str, bytes]]) -> int:
        """Put jobs in by the keys of their items; return how many were not there."""
        number = len(payloads)
        ids = await self._do(
            lambda queries: queries.enqueue(
                [self._queue] * number,
                [payload for _, payload in payloads],
                [0] * number,
                dedupe_key=[f"{self._queue}:{key}" for key, _ in payloads],
                on_conflict="skip",
            )
        )
        return sum(one is not None for one in ids)

    async def dequeue(self, limit: int) -> list[Job]:
        """Take jobs out, those first that are waiting longest; none if there are none."""
        return await self._do(
            lambda queries: queries.dequeue(
                limit,
                {self._queue: EntrypointExecutionParameter(concurrency_limit=0)},
                self._me,
                global_concurrency_limit=None,
                heartbeat_timeout=self._lease,
            )
        )

    async def wait_for_jobs(self, timeout: float) -> None:
        """Wait until jobs may have come, or so many seconds."""
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen())
        later = await self._do(lambda queries: queries.next_deferred_eta([self._queue]))
        if later is not None:
            timeout = min(timeout, later.total_seconds() + 0.01)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._news.wait()
        self._news.clear()

    def wake(self) -> None:
        """End the waiting."""
        self._news.set()

    def hurry(self) -> None:
        """Seek a connection that is lost no longer than it takes to try once; wait for no server.

        What the server is being asked at this moment has a second left.
        """
        self._patience = 0.0
        self._longest = _BRISK
        self._go_on()

    async def renew(self, jobs: Collection[Job]) -> None:
        """Say that these are in the hands of one who lives."""
        ids = [job.id for job in jobs]
        await self._do(lambda queries: queries.update_heartbeat(ids))

    async def finish(self, jobs: Collection[tuple[Job, Exception | None]]) -> None:
        """Remove jobs that have ended; set those aside as failed that have an error."""
        rows = [
            (job, "failed" if error else "successful", _traceback_record(job, error))
            for job, error in jobs
        ]
        await self._do(lambda queries: queries.log_jobs(rows))  # type: ignore[arg-type]

    async def requeue(self, jobs: Collection[Job], delay: float = 0.0) -> None:
        """Let others have jobs, at once or so many seconds later."""
        later = timedelta(seconds=delay)

        async def back(queries: Queries) -> None:
            for job in jobs:
                await queries.retry_job(job, later, None)
                self._go_on()
            if not delay:  # the table's trigger tells of new rows only
                await queries.driver.notify(_channel(queries), _notice(queries))

        await self._do(back)

    async def count_open(self) -> int:
        """Count the jobs that wait, or that somebody has in hand."""
        return sum(
            row.count
            for row in await self._do(lambda queries: queries.queue_size())
            if row.entrypoint == self._queue and row.status in {"queued", "picked"}
        )

    async def fold_log(self) -> None:
        """Fold pgqueuer's log of this queue into its statistics: it would grow without end."""

        async def fold(queries: Queries) -> None:
            await queries.aggregate_logs()
            log = queries.qbq.qualified.queue_table_log
            await queries.driver.execute(_TIDY.format(log=log), self._queue)

        await self._do(fold, slow=True)

    async def _do(self, call: Callable[[Queries], Awaitable[_T]], *, slow: bool = False) -> _T:
        """Do something with the database, again and again while it cannot be reached.

        Raises:
            JournalError: It cannot, for so long; or it says no.
        """
        async with self._turn:
            began, had = time.monotonic(), self._db is not None
            for attempt in count():
                try:
                    if self._db is None:
                        self._db = await self._connect()
                    queries = Queries.from_psycopg_connection(self._db)
                    # A whole lease, and nothing more in a hurry.
                    longest = max(self._longest, 2 * self._patience) if slow else self._longest
                    return await self._answer(self._db, call(queries), longest)
                except psycopg.Error as error:
                    if self._db is not None and self._db.closed:
                        await self._close()
                    passing = self._db is None or isinstance(error, UNDONE)
                    over = time.monotonic() > began + self._patience
                    # One that may have been lost long ago is made anew, in any hurry.
                    if not passing or (over and (attempt or not had)):
                        raise self._complaint(error) from error
                await asyncio.sleep(backoff(attempt + 1, 0.02, 1.0))
        raise AssertionError  # pragma: no cover - count() does not end

    async def _connect(self) -> psycopg.AsyncConnection:
        async with self._limited(self._longest):
            return await psycopg.AsyncConnection.connect(**self._given, autocommit=True)

    async def _answer(
        self, db: psycopg.AsyncConnection, asking: Awaitable[_T], longest: float
    ) -> _T:
        """Wait for what the server is asked, and for no server that does not answer.

        Left to itself the driver would wait for it even if it is cancelled.
        """
        asked = asyncio.ensure_future(asking)
        try:
            async with self._limited(longest):
                await asyncio.wait((asked,))
        except psycopg.Error:
            await _cut_off(db, asked)
            raise
        except asyncio.CancelledError:
            asked.cancel()
            try:
                await asyncio.wait((asked,), timeout=_BRISK)
            finally:
                asked.cancel()  # no more waiting for a server that is to cancel it
                await _cut_off(db, asked)
            raise
        return asked.result()

    @asynccontextmanager
    async def _limited(self, longest: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(longest) as limit:
                self._limits.add(limit)
                try:
                    yield
                finally:
                    self._limits.discard(limit)
        except TimeoutError:
            raise psycopg.OperationalError("no answer in time") from None

    def _go_on(self) -> None:
        """Give the server its time once more: it has answered, or there is less of it now."""
        end = asyncio.get_running_loop().time() + self._longest
        for limit in self._limits:
            with suppress(RuntimeError):  # it is over at this moment
                limit.reschedule(end)

    async def _close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            await db.close()

    async def _listen(self) -> None:
        """Hear of new jobs, on a connection of its own."""
        while True:
            with suppress(psycopg.Error):  # whoever works with the queue says so
                await self._hear(await self._connect())
            await asyncio.sleep(1.0)

    async def _hear(self, db: psycopg.AsyncConnection) -> None:
        try:
            channel = _channel(Queries.from_psycopg_connection(db))
            listen = sql.SQL("LISTEN {}").format(sql.Identifier(channel))
            await self._answer(db, db.execute(listen), self._longest)
            self._news.set()  # what came before was not heard
            async for note in db.notifies():
                if _is_news(note.payload):
                    self._news.set()
        finally:
            await db.close()

    def _complaint(self, error: psycopg.Error) -> JournalError:
        if self._db is None:
            words = "cannot be reached ({error}): see that the server runs, and that it lets in"
            words += " this user"
        else:
            words = _COMPLAINTS.get(error.sqlstate or "", "cannot be used ({error})")
        told = " ".join(str(error).split())
        return JournalError(f"the queue {self._address} {words.format(error=told)}")


async def _make_tables(queries: Queries) -> None:
    """Make pgqueuer's tables unless they are there, one worker at a time."""
    if not await queries.schema_is_installed():
        async with queries.schema_lock():
            if not await queries.schema_is_installed():
                await queries.install()


async def _cut_off(db: psycopg.AsyncConnection, asked: asyncio.Future[_T]) -> None:
    """End what the server is asked; if it is still under way, so does the connection."""
    if not asked.done():
        with suppress(psycopg.Error):  # it is lost already
            shut_down_socket(db.fileno())
        await asyncio.wait((asked,))
        await db.close()
    if not asked.cancelled():
        asked.exception()  # seen; there is a better one


def _is_news(payload: str) -> bool:
    """Whether jobs may have come: whatever else happens to the table is told there, too."""
    try:
        told = json.loads(payload)
    except (ValueError, RecursionError):  # not pgqueuer's
        return False
    return isinstance(told, dict) and told.get("operation") in ("insert", "update")


def _channel(queries: Queries) -> str:
    return queries.qbq.settings.channel


def _notice(queries: Queries) -> str:
    """Write what pgqueuer's trigger does."""
    settings = queries.qbq.settings
    return TableChangedEvent(
        channel=settings.channel,
        operation="update",
        sent_at=utc_now(),
        table=settings.queue_table,
        type="table_changed_event",
    ).model_dump_json()


def _traceback_record(job: Job, error: Exception | None) -> TracebackRecord | None:
    if error is None:
        return None
    return TracebackRecord.from_exception(
        exc=error, job_id=job.id, additional_context={"entrypoint": job.entrypoint}
    )
