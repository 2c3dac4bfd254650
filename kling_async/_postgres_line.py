"""One connection to PostgreSQL that may be lost at any time, and is never waited for in vain."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias, TypeVar
from urllib.parse import urlsplit

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict

from kling_async._servers import cut, in_time
from kling_async.errors import ConfigurationError

__all__ = ["Connection", "Line"]

_T = TypeVar("_T")
Connection: TypeAlias = AsyncConnection[tuple[object, ...]]

# Seconds more for an answer when whoever asked gives up, so that the connection may be kept.
_GRACE = 0.1

# What is asked of libpq unless the address says otherwise.
_DEFAULTS = {"connect_timeout": "10", "application_name": "kling_async"}


class Line:
    """A connection that is made when it is needed, and again after it was lost.

    One thing at a time may be done on it.

    Args:
        url: The address, as libpq reads it.
        prepare: What is done with each new connection before anything else.
        silent: Whether the server says nothing unasked, unless it ends the connection. One that
            was ended while nothing was done on it is then noticed before it is used again.

    Raises:
        ConfigurationError: The address makes no sense.
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

    async def do(
        self, work: Callable[[Connection], Awaitable[_T]], *, within: float | None = None
    ) -> _T:
        """Do something on it, and give it up with all that goes wrong.

        Args:
            work: What to do.
            within: Seconds after which the network is taken to be dead.

        Raises:
            TimeoutError: There was no answer in time.
            psycopg.Error: Whatever else went wrong.
        """
        # In a task that nobody else cancels: psycopg would answer that by asking the server
        # to stop, and wait for it without end, while the network may be dead.
        task = asyncio.ensure_future(self._work(work))
        given_up = False
        try:
            with suppress(TimeoutError):
                async with in_time(within):
                    await asyncio.wait([task])
        finally:
            if not task.done() and not (await asyncio.wait([task], timeout=_GRACE))[0]:
                given_up = True
                self._cut(task)
                await asyncio.wait([task])
            if task.cancelled() or task.exception() is not None:
                await self.close()
        if given_up and (task.cancelled() or isinstance(task.exception(), psycopg.Error)):
            raise TimeoutError(f"no answer within {within} s")  # what libpq says is our doing
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
            self._db = await AsyncConnection.connect(**self._given, autocommit=True)  # type: ignore[arg-type] # all of them text
            await self._prepare(self._db)
        return await work(self._db)

    def _cut(self, task: asyncio.Future[_T]) -> None:
        """Let what waits for the network fail now."""
        if self._db is None:
            task.cancel()
            return
        with suppress(psycopg.Error):  # it may be closed already
            cut(self._db.fileno())


def _ended(db: Connection) -> bool:
    """Return whether a silent server has said something, which is that it ends the connection."""
    if db.closed:
        return True
    with selectors.DefaultSelector() as selector:
        selector.register(db.fileno(), selectors.EVENT_READ)
        return bool(selector.select(0))


def _checked(url: str) -> dict[str, str]:
    """Return what libpq reads in an address."""
    try:
        login, _, _ = urlsplit(url).netloc.rpartition("@")
        if "@" in login:  # libpq would take what follows the first for the host, and tell it
            raise ValueError  # noqa: TRY301 - as the others
        given = conninfo_to_dict(url)
    except (ValueError, psycopg.Error):  # whose words may show a password
        raise ConfigurationError(
            "the address at postgresql:// is none: write an @, /, ? or # in a password as %40,"
            " %2F, %3F or %23"
        ) from None
    return {**_DEFAULTS, **{key: str(value) for key, value in given.items()}}
