"""A connection to PostgreSQL that is opened on first use and replaced after a failure."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Final, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from kling_async._postgres.errors import BUSY, UnreachableError, describe_error
from kling_async._postgres.transaction import Connection, Rows, transact
from kling_async._postgres.url import invalid_url, split_url
from kling_async._utils.backends import AnswerTimer, answer_timeout, shut_down_socket
from kling_async._utils.shielding import await_uncancelled
from kling_async.policy.retry import backoff

_T = TypeVar("_T")

# libpq's parameters, unless the URL sets them. A dead network is noticed within half a minute,
# before other workers may take over the items of this one.
_DEFAULTS: Final[Mapping[str, str]] = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",  # milliseconds
    "application_name": "kling_async",
}

# Seconds more for an answer after the caller's timeout, so that the connection may be kept.
_GRACE = 0.1

# Seconds for the server to cancel a statement whose caller is cancelled.
_CANCEL = 1.0


class ConnectionManager:
    """Connects on first use, and again after the connection is lost.

    One call runs at a time. A connection on which anything failed is closed: the next call opens
    another one, possibly to another server. If the caller is cancelled, the server is asked to
    cancel the statement. If it does not answer, the connection is cut.

    Args:
        url: As libpq takes it. Of several hosts the one that accepts writes is used.
        prepare: Called with each new connection.
        timeout: Seconds without an answer after which the connection is cut, unless a call sets
            others. None waits without end.
        patience: Seconds for which work is repeated while the server cannot be reached or is too
            busy. After such a failure it is tried once per call until the server is back.
        listens: Whether the server sends notifications. If not, a connection that was closed
            while idle is noticed before it is used.
        read_only: Whether a read-only server is accepted.

    Raises:
        ConfigurationError: The URL is invalid.
    """

    def __init__(  # noqa: PLR0913 - keywords with defaults
        self,
        url: str,
        *,
        prepare: Callable[[Connection], Awaitable[object]] | None = None,
        timeout: float | None = None,
        patience: float = 0.0,
        listens: bool = False,
        read_only: bool = False,
    ) -> None:
        self._conninfo = parse_conninfo(url, read_only=read_only)
        self._prepare = prepare
        self._timeout = timeout
        self._patience = self._patience_left = patience
        self._listens = listens
        self._hurry: float | None = None
        self._lock = asyncio.Lock()
        self._db: Connection | None = None
        self._prepared = False
        self._timer: AnswerTimer | None = None

    async def transact(
        self,
        query: str,
        values: Mapping[str, object] | None = None,
        *,
        timeout: float | None = None,
    ) -> list[Rows]:
        """Run statements in one transaction and one message; see :func:`.transaction.transact`.

        Raises:
            UnreachableError: The server cannot be reached or does not answer.
            psycopg.Error: The server reports an error.
        """
        timeout = self._timeout if timeout is None else timeout
        work = partial(transact, query=query, values=values, timeout=timeout)
        return await self.run(work, timeout=timeout)

    async def run(
        self,
        work: Callable[[Connection], Awaitable[_T]],
        *,
        timeout: float | None = None,
        patience: float | None = None,
    ) -> _T:
        """Call ``work`` with the connection.

        After a failure it is called again with another connection, so it must be able to detect
        what an earlier call has done.

        Args:
            work: What to do.
            timeout: Seconds without an answer after which the connection is cut.
            patience: Seconds for which the work is repeated.

        Raises:
            UnreachableError: The server cannot be reached or does not answer.
            psycopg.Error: The server reports an error.
        """
        timeout = self._timeout if timeout is None else timeout
        async with self._lock:
            patience = self._patience_left if patience is None else patience
            loop = asyncio.get_running_loop()
            end = loop.time() + patience
            for attempt in count(1):
                try:
                    result = await self._run_once(work, timeout)
                except (UnreachableError, *BUSY):
                    # Even if there is no time left, another connection may work.
                    is_over = self._hurry is not None or loop.time() >= end
                    if is_over and (attempt > 1 or not patience):
                        self._patience_left = 0.0
                        raise
                else:
                    self._patience_left = self._patience
                    return result
                await asyncio.sleep(backoff(attempt, 0.02, 1.0))
        raise AssertionError  # pragma: no cover - count() does not end

    def hurry(self, timeout: float | None) -> None:
        """Wait no longer than ``timeout`` for an answer, also for one that is awaited already.

        A failed call is repeated once. None restores the usual timeouts.
        """
        self._hurry = timeout
        if timeout is not None and self._timer is not None:
            self._timer.restart(timeout)

    async def close(self) -> None:
        """Close the connection. The next call opens another one."""
        db, self._db = self._db, None
        self._prepared = False
        if db is not None:
            await db.close()

    async def _run_once(
        self, work: Callable[[Connection], Awaitable[_T]], timeout: float | None
    ) -> _T:
        if self._hurry is not None:
            timeout = self._hurry if timeout is None else min(timeout, self._hurry)
        # The task is not cancelled with the caller while it is connected: psycopg would wait for
        # the server, while the network may be dead, and log its outcome.
        task = asyncio.ensure_future(self._use(work))
        was_cut = False
        try:
            async with answer_timeout(timeout) as self._timer:
                await asyncio.wait([task])
        except TimeoutError:
            was_cut = await await_uncancelled(
                asyncio.ensure_future(self._end_task(task, cancel=False))
            )
        except asyncio.CancelledError:
            await await_uncancelled(asyncio.ensure_future(self._end_task(task, cancel=True)))
            raise
        finally:
            self._timer = None
            if not self._can_be_kept(task):
                await self.close()
        if was_cut:
            seconds = timeout if self._hurry is None else self._hurry
            raise UnreachableError(f"no answer within {seconds:g} s")
        return task.result()

    async def _use(self, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        if self._db is not None and not self._listens and _has_ended(self._db):
            await self.close()
        try:
            if self._db is None:
                # Nothing is prepared in the session: a pooler may change it at any time.
                self._db = await psycopg.AsyncConnection.connect(
                    **self._conninfo,  # type: ignore[arg-type] # all of them text
                    autocommit=True,
                    prepare_threshold=None,
                )
                if self._prepare is not None:
                    await self._prepare(self._db)
                self._prepared = True
            return await work(self._db)
        except (psycopg.Error, OSError) as error:
            if self._db is None or self._db.closed:
                raise UnreachableError(describe_error(error)) from error
            raise

    async def _end_task(self, task: asyncio.Future[_T], *, cancel: bool) -> bool:
        """End the task, and return whether the connection had to be cut."""
        try:
            if cancel and self._is_idle():
                task.cancel()  # it waits for a notification, and the server for us
            await asyncio.wait([task], timeout=_GRACE)
            if cancel and self._db is not None and not task.done():
                with suppress(psycopg.Error, TimeoutError):
                    async with asyncio.timeout(_CANCEL):
                        await self._db.cancel_safe(timeout=_CANCEL)
                await asyncio.wait([task], timeout=_GRACE)
        finally:
            was_cut = not task.done()
            if was_cut and self._db is not None:
                with suppress(psycopg.Error):  # it may be closed already
                    shut_down_socket(self._db.fileno())
            elif was_cut:
                task.cancel()
            await asyncio.wait([task])
        return was_cut

    def _is_idle(self) -> bool:
        return self._db is not None and self._db.info.transaction_status is TransactionStatus.IDLE

    def _can_be_kept(self, task: asyncio.Future[_T]) -> bool:
        if not task.done() or task.cancelled():
            return False
        error = task.exception()
        if isinstance(error, psycopg.errors.QueryCanceled):
            return self._prepared
        return not isinstance(error, psycopg.Error | OSError | UnreachableError)


def timeout_for_lease(lease: float) -> float:
    """Return the seconds to wait for an answer where others take over after ``lease`` seconds.

    The connection may be lost several times in a lease. The least is enough for a thousand items.
    """
    return max(lease / 4, 5.0)


def parse_conninfo(url: str, *, read_only: bool = False) -> dict[str, str]:
    """Return libpq's parameters of a URL, with ours where it sets none.

    Raises:
        ConfigurationError: The URL is invalid.
    """
    split_url(url)
    try:
        given = conninfo_to_dict(url)
    except psycopg.Error:  # its text may contain the password
        raise invalid_url() from None
    defaults = dict(_DEFAULTS)
    if not read_only:  # of several hosts the one that accepts writes, also after a failover
        defaults["target_session_attrs"] = "read-write"
    return {**defaults, **{key: str(value) for key, value in given.items()}}


def _has_ended(db: Connection) -> bool:
    """Return whether the server has closed an idle connection, on which it sends nothing else."""
    if db.closed:
        return True
    with selectors.DefaultSelector() as selector:
        selector.register(db.fileno(), selectors.EVENT_READ)
        return bool(selector.select(0))
