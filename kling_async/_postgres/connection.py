"""One connection to PostgreSQL that may be lost at any time, and how statements are sent on it.

:func:`execute` sends all statements of a transaction in one message. The server runs it to its end
whatever happens to this process meanwhile, so that no lock is held while a client is suspended or
unreachable. Timeouts and the isolation level are set for that transaction only: a pooler such as
PgBouncer may give the server's session to another application as soon as the transaction ends. (As
``options`` of the connection they would be refused by it, and as settings of the session they would
stay for the others.)
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final, TypeAlias, TypeVar
from urllib.parse import urlsplit

import psycopg
from psycopg import AsyncClientCursor, AsyncConnection, errors
from psycopg.conninfo import conninfo_to_dict

from kling_async._utils.backends import POSTGRES_DEFAULTS, answer_timeout, shut_down_socket
from kling_async.errors import ConfigurationError

_T = TypeVar("_T")
Connection: TypeAlias = AsyncConnection[tuple[object, ...]]
Rows: TypeAlias = list[tuple[object, ...]]

UNDONE: Final = (errors.SerializationFailure, errors.DeadlockDetected)
"""What the server reports when it has undone a transaction because of another one: repeat it."""

# Of several hosts the one that writes, also after a failover.
_DEFAULTS: Final = {**POSTGRES_DEFAULTS, "target_session_attrs": "read-write"}

# How often a transaction that was undone so is repeated.
_REPEATS = 5

# Seconds more for an answer after the caller's time is over, so that the connection may be kept.
_GRACE = 0.1

# Seconds for a statement where the caller sets no limit.
_LONGEST = 10.0

# Several statements in one message are one transaction, and SET LOCAL ends with it. The isolation
# level is ours whatever the database's default is: what others have committed while this one waited
# for a lock must be visible. A lock is waited for half as long as the statement may take, so that
# few connections wait for it if it is held for long. With a limit for every statement the server
# needs not check whether the client is still there (client_connection_check_interval).
_BEGIN = (
    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; "
    "SET LOCAL statement_timeout = {statement:d}; SET LOCAL lock_timeout = {lock:d};\n"
)
_BEGIN_STATEMENTS = 3


class Line:
    """A connection that is made when it is needed, and again after it was lost.

    One thing at a time may be done on it.

    Args:
        url: The address, as libpq reads it.
        prepare: What is done with each new connection before anything else.
        silent: Whether the server says nothing unasked, unless it ends the connection. One that
            was ended while nothing was done on it is then noticed before it is used again.

    Raises:
        ConfigurationError: The URL is invalid.
    """

    def __init__(
        self,
        url: str,
        prepare: Callable[[Connection], Awaitable[None]],
        *,
        silent: bool = False,
    ) -> None:
        self._given = _checked(url)
        self._silent = silent
        self._prepare = prepare
        self._db: Connection | None = None

    async def execute(
        self,
        query: str,
        values: Mapping[str, object] | None = None,
        *,
        within: float | None = None,
    ) -> list[Rows]:
        """Run statements in one transaction of one message; see :func:`execute`.

        Args:
            query: One statement or several.
            values: The values of their parameters, by name.
            within: Seconds after which the network is taken to be dead; the server, too, ends
                each statement after as long.

        Raises:
            TimeoutError: There was no answer in time.
            psycopg.Error: Anything else went wrong.
        """
        work = partial(execute, query=query, values=values, within=within)
        return await self.do(work, within=within)

    async def do(
        self, work: Callable[[Connection], Awaitable[_T]], *, within: float | None = None
    ) -> _T:
        """Do something on it. The connection is closed if anything goes wrong.

        Args:
            work: What to do.
            within: Seconds after which the network is taken to be dead.

        Raises:
            TimeoutError: There was no answer in time.
            psycopg.Error: Anything else went wrong.
        """
        # In a task that is never cancelled while it is connected: psycopg would then ask the
        # server to stop, and wait for its answer without end, while the network may be dead.
        task = asyncio.ensure_future(self._work(work))
        was_cut = False

        def give_up() -> None:
            nonlocal was_cut
            was_cut = True
            self._cut(task)

        try:
            with suppress(TimeoutError):
                async with answer_timeout(within):
                    await asyncio.wait([task])
        finally:
            # By a timer, and not by what comes after an await: the caller may be cancelled again.
            timer = asyncio.get_running_loop().call_later(_GRACE, give_up)
            cancelled = await _until_done(task)
            timer.cancel()
            if task.cancelled() or task.exception() is not None:
                await self.close()
            if cancelled is not None:
                raise cancelled
        if was_cut and (task.cancelled() or isinstance(task.exception(), psycopg.Error)):
            raise TimeoutError(f"no answer within {within} s")  # libpq describes the shutdown
        return task.result()

    async def close(self) -> None:
        """Close it. It may be used again."""
        db, self._db = self._db, None
        if db is not None:
            await db.close()

    async def _work(self, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        if self._silent and self._db is not None and _ended(self._db):
            await self.close()
        if self._db is None:
            # Nothing is prepared in the session: a pooler may change it between two statements.
            self._db = await AsyncConnection.connect(
                **self._given,  # type: ignore[arg-type] # all of them text
                autocommit=True,
                prepare_threshold=None,
            )
            await self._prepare(self._db)
        return await work(self._db)

    def _cut(self, task: asyncio.Future[_T]) -> None:
        """Let what waits for the network fail now."""
        if self._db is None:
            task.cancel()
            return
        with suppress(psycopg.Error):  # it may be closed already
            shut_down_socket(self._db.fileno())


async def execute(
    db: Connection,
    query: str,
    values: Mapping[str, object] | None = None,
    *,
    within: float | None = None,
) -> list[Rows]:
    """Run statements in one transaction (READ COMMITTED) that is sent in one message.

    The parameters are quoted here, as such a message has none: a list becomes the text of an array,
    for example, which the statement casts (``%(keys)s::text[]``). A transaction that the server
    has undone because of another one is repeated a few times. If anything else fails, nothing was
    done, and the connection is in no transaction.

    Args:
        db: The connection, in autocommit mode.
        query: One statement or several, none of which begins or ends a transaction.
        values: The values of their parameters, by name.
        within: Seconds after which the server ends a statement, and half as many after which it no
            longer waits for a lock.

    Returns:
        The rows of each statement; none for those that return no rows.

    Raises:
        psycopg.Error: It failed.
    """
    limit = round(1000 * (_LONGEST if within is None else within))
    message = _BEGIN.format(statement=max(2, limit), lock=max(1, limit // 2)) + query
    for _ in range(_REPEATS):
        with suppress(*UNDONE):
            return await _send(db, message, values)
    return await _send(db, message, values)


async def _send(db: Connection, message: str, values: Mapping[str, object] | None) -> list[Rows]:
    answers: list[Rows] = []
    async with AsyncClientCursor(db) as cursor:
        # Typed as text that is known beforehand; all of it is.
        await cursor.execute(message.encode(), values)
        more: bool | None = True
        while more:
            answers.append(await cursor.fetchall() if cursor.description else [])
            more = cursor.nextset()
    return answers[_BEGIN_STATEMENTS:]


async def is_pooled(db: Connection) -> bool:
    """Return whether there is a pooler, such as PgBouncer, between this process and the server.

    Then the session may be another one with each transaction: what it is set to, or listens for,
    is for others, too.
    """
    cursor = await db.execute("SELECT pg_backend_pid()")
    return await cursor.fetchone() != (db.info.backend_pid,)


async def _until_done(task: asyncio.Future[_T]) -> asyncio.CancelledError | None:
    """Wait until a task has ended; return a cancellation that arrived meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


def _ended(db: Connection) -> bool:
    """Return whether a silent server has said something, which is that it ends the connection."""
    if db.closed:
        return True
    with selectors.DefaultSelector() as selector:
        selector.register(db.fileno(), selectors.EVENT_READ)
        return bool(selector.select(0))


def _checked(url: str) -> dict[str, str]:
    """Return libpq's parameters of a URL."""
    try:
        login, _, _ = urlsplit(url).netloc.rpartition("@")
        if "@" in login:  # libpq would take what follows the first for the host, and show it
            raise ValueError  # noqa: TRY301 - as the others
        given = conninfo_to_dict(url)
    except (ValueError, psycopg.Error):  # whose words may show a password
        raise ConfigurationError(
            "invalid postgresql:// URL: write an @, /, ? or # in a password as %40, %2F, %3F or %23"
        ) from None
    return {**_DEFAULTS, **{key: str(value) for key, value in given.items()}}
