"""The journal at a location: the path of a file, or the URL of a server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from kling_async.errors import ConfigurationError
from kling_async.journal.address import Address, is_postgres_url
from kling_async.journal.sqlite.journal import SqliteJournal, has_content

if TYPE_CHECKING:
    import os

    from kling_async.journal.postgres.journal import PostgresJournal


def journal_at(
    location: str | os.PathLike[str], *, read_only: bool = False
) -> SqliteJournal | PostgresJournal:
    """Return the journal at a location. It is not opened.

    Args:
        location: The path of a SQLite file, or ``postgresql://user@host/database?batch=foxes``.
        read_only: Whether the journal will only be read.

    Raises:
        ConfigurationError: The location is a URL of another kind.
        MissingExtraError: The location is a URL, and the driver is not installed.
    """
    if isinstance(location, str) and "://" in location:
        if not is_postgres_url(location):
            scheme = location.partition("://")[0]
            raise ConfigurationError(
                f"a journal is a file, or a database at postgresql://, not at {scheme}://"
            )
        from kling_async.journal.postgres.journal import PostgresJournal

        return PostgresJournal(location, read_only=read_only)
    return SqliteJournal(location, read_only=read_only)


def redact_location(location: str | os.PathLike[str]) -> str:
    """Return a location to be shown or used on a command line: a URL without its password."""
    if is_postgres_url(location):
        return Address.parse(location).url
    return str(location)


async def journal_exists(location: str | os.PathLike[str]) -> bool:
    """Return whether there is a journal at a location, which a batch would resume.

    Raises:
        JournalError: The location cannot be read.
    """
    if is_postgres_url(location):
        from kling_async.journal.postgres.journal import batch_exists

        return await batch_exists(location)
    return await asyncio.to_thread(has_content, Path(location))
