"""The jobs of a queue, in pgqueuer's tables on PostgreSQL: one job for each item to process.

This module uses pgqueuer's tables and queries, but not its ``QueueManager``. With psycopg, the
manager listens on the connection that it also works with, and blocks it for up to a second, which
delays heartbeats and reports of ended jobs. It deletes the job of a cancelled worker; here the job
returns to the queue. It stops when its connection is lost, and it dequeues as many jobs as it may
hold instead of as many as can be started.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Self
from uuid import uuid4

from kling_async._utils.extras import missing_extra
from kling_async.errors import JournalError

try:
    import psycopg
    from pgqueuer.domain.models import Job, TableChangedEvent, TracebackRecord, utc_now
    from pgqueuer.domain.types import QueueEntrypoint, QueueManagerId
    from pgqueuer.ports.repository import EntrypointExecutionParameter
    from psycopg import sql

    from kling_async._postgres.connection import ConnectionManager, timeout_for_lease
    from kling_async._postgres.errors import ADVICE, UnreachableError, explain_error
    from kling_async._postgres.transaction import Connection, is_pooled, next_notification
    from kling_async.fleet._driver import make_queries
except ImportError:
    raise missing_extra("queue", "a queue needs another package") from None

if TYPE_CHECKING:
    from pgqueuer.queries import Queries

    from kling_async.journal.address import Address

_ADVICE = {
    **ADVICE,
    "42703": "has the tables of an older pgqueuer ({error}): run `pgq upgrade`",
}

# Seconds to wait for each answer of the server while the worker shuts down.
_BRISK = 1.0

# Seconds between two attempts to listen.
_LISTEN_AGAIN = 1.0

# Workers install the tables one at a time. pgqueuer's own lock belongs to a session.
_INSTALL = "SELECT pg_advisory_xact_lock(hashtext('kling_async_queue'));\n{}"

# Rows of pgqueuer's log that are in its statistics already; the journal has each item's history.
_DELETE_FOLDED = "DELETE FROM {log} WHERE entrypoint = $1 AND aggregated AND status <> 'failed'"


class JobStore:
    """The jobs of one queue. Use it as an async context manager.

    A call whose answer is lost is repeated: a job that is added twice is stored once, and a job
    that was dequeued by a call whose answer was lost returns to the queue after the lease.

    Args:
        address: The database, and the name of the batch, which is the queue's.
        lease: Seconds after which the jobs of a worker that sends no heartbeat are available to
            others. Calls are repeated for half as long while the database cannot be reached.
    """

    def __init__(self, address: Address, lease: float = 60.0) -> None:
        self._address = address
        self._lease = timedelta(seconds=lease)
        timeout = timeout_for_lease(lease)
        self._connection = ConnectionManager(address.conninfo, patience=lease / 2)
        self._queries = make_queries(self._connection, timeout)
        self._slow_queries = make_queries(self._connection, max(timeout, lease))
        self._listening = ConnectionManager(address.conninfo, prepare=self._listen, listens=True)
        self._queue = QueueEntrypoint(f"kling_async:{address.batch}")
        self._worker = QueueManagerId(uuid4())
        self._jobs_changed = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._connection.hurry(None)
        try:
            with self._explaining():
                await self._install()
        except BaseException:
            await self._connection.close()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait([self._listener])
        await self._listening.close()
        await self._connection.close()

    async def enqueue(self, payloads: Sequence[tuple[str, bytes]]) -> int:
        """Add jobs by the keys of their items; return how many were not in the queue yet."""
        number = len(payloads)
        with self._explaining():
            ids = await self._queries.enqueue(
                [self._queue] * number,
                [payload for _, payload in payloads],
                [0] * number,
                dedupe_key=[f"{self._queue}:{key}" for key, _ in payloads],
                on_conflict="skip",
            )
        return sum(one is not None for one in ids)

    async def dequeue(self, limit: int) -> list[Job]:
        """Take the oldest jobs, up to ``limit``; an empty list if the queue is empty."""
        with self._explaining():
            return await self._queries.dequeue(
                limit,
                {self._queue: EntrypointExecutionParameter(concurrency_limit=0)},
                self._worker,
                global_concurrency_limit=None,
                heartbeat_timeout=self._lease,
            )

    async def wait_for_jobs(self, timeout: float) -> None:
        """Wait until jobs may have been added, or ``timeout`` seconds."""
        if self._listener is None:
            self._listener = asyncio.create_task(self._watch())
        with self._explaining():
            later = await self._queries.next_deferred_eta([self._queue])
        if later is not None:
            timeout = min(timeout, later.total_seconds() + 0.01)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._jobs_changed.wait()
        self._jobs_changed.clear()

    def wake(self) -> None:
        """End :meth:`wait_for_jobs`."""
        self._jobs_changed.set()

    def hurry(self) -> None:
        """Wait a second for each answer, and repeat a failed call once."""
        self._connection.hurry(_BRISK)

    async def renew(self, jobs: Collection[Job]) -> None:
        """Send the heartbeat of these jobs."""
        with self._explaining():
            await self._queries.update_heartbeat([job.id for job in jobs])

    async def finish(self, jobs: Collection[tuple[Job, Exception | None]]) -> None:
        """Remove jobs that have ended; set those aside as failed that have an error."""
        rows = [
            (job, "failed" if error else "successful", _traceback_record(job, error))
            for job, error in jobs
        ]
        with self._explaining():
            await self._queries.log_jobs(rows)  # type: ignore[arg-type]

    async def requeue(self, jobs: Collection[Job], delay: float = 0.0) -> None:
        """Return jobs to the queue, for any worker to take at once or ``delay`` seconds later."""
        with self._explaining():
            for job in jobs:
                await self._queries.retry_job(job, timedelta(seconds=delay), None)
            if not delay:  # the table's trigger notifies of new rows only
                await self._queries.driver.notify(_channel(self._queries), _notice(self._queries))

    async def count_open(self) -> int:
        """Return how many jobs are waiting or taken."""
        with self._explaining():
            return sum(
                row.count
                for row in await self._queries.queue_size()
                if row.entrypoint == self._queue and row.status in {"queued", "picked"}
            )

    async def fold_log(self) -> None:
        """Fold pgqueuer's log of this queue into its statistics, because it grows without bound."""
        with self._explaining():
            await self._slow_queries.aggregate_logs()
            log = self._slow_queries.qbq.qualified.queue_table_log
            await self._slow_queries.driver.execute(_DELETE_FOLDED.format(log=log), self._queue)

    async def _install(self) -> None:
        """Create pgqueuer's tables unless they exist."""
        if await self._queries.schema_is_installed():
            return
        install = self._queries.qbe.build_install_query(create_schema=True)
        try:
            await self._queries.driver.execute(_INSTALL.format(install))
        except psycopg.Error:
            if not await self._queries.schema_is_installed():  # by another worker meanwhile
                raise

    async def _watch(self) -> None:
        """Wake the waiters when jobs may have been added."""
        while True:
            try:
                payload = await self._listening.run(next_notification)
            except (UnreachableError, psycopg.Error):  # other calls report it
                await asyncio.sleep(_LISTEN_AGAIN)
            else:
                if _is_about_jobs(payload):
                    self._jobs_changed.set()

    async def _listen(self, db: Connection) -> None:
        if not await is_pooled(db):  # else the session may be another application's
            channel = sql.Identifier(_channel(self._queries))
            await db.execute(sql.SQL("LISTEN {}").format(channel))
        self._jobs_changed.set()  # earlier notifications were not received

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except (UnreachableError, psycopg.Error) as error:
            raise JournalError(
                f"the queue {self._address} {explain_error(error, _ADVICE)}"
            ) from error


def _is_about_jobs(payload: str | None) -> bool:
    """Return whether a notification reports a change of the jobs: pgqueuer sends others, too."""
    try:
        notice = json.loads(payload or "")
    except (ValueError, RecursionError):  # not pgqueuer's
        return False
    return isinstance(notice, dict) and notice.get("operation") in ("insert", "update")


def _channel(queries: Queries) -> str:
    return queries.qbq.settings.channel


def _notice(queries: Queries) -> str:
    """Return the payload that pgqueuer's trigger sends."""
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
