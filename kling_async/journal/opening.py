"""Which engine keeps a journal: the path of a file, or the URL of a server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from kling_async.errors import ConfigurationError, JournalError
from kling_async.journal.address import Address, is_address
from kling_async.journal.sqlite.journal import SqliteJournal

if TYPE_CHECKING:
    import os

    from kling_async.journal.postgres.journal import PostgresJournal


def journal_at(
    place: str | os.PathLike[str], *, read_only: bool = False
) -> SqliteJournal | PostgresJournal:
    """Return the journal at a place; it is to be opened.

    Args:
        place: The path of a SQLite file, or ``postgresql://user@host/database?batch=foxes``.
        read_only: Only look.

    Raises:
        ConfigurationError: It is neither.
        MissingExtraError: It is a URL, and the driver is not installed.
    """
    if isinstance(place, str) and is_address(place):
        from kling_async.journal.postgres.journal import (
            PostgresJournal,
        )  # an extra, and it takes time

        return PostgresJournal(place, read_only=read_only)
    if isinstance(place, str) and "://" in place:
        scheme = place.partition("://")[0]
        raise ConfigurationError(
            f"a journal is a file, or a database at postgresql://, not at {scheme}://"
        )
    return SqliteJournal(place, read_only=read_only)


def shown(place: str | os.PathLike[str]) -> str:
    """Return a place as it may be told, also on a command line: a URL without its password."""
    return Address.parse(place).url if isinstance(place, str) and is_address(place) else str(place)


async def is_there(place: str | os.PathLike[str]) -> bool:
    """Whether there is a journal at a place, so that a batch would go on with it.

    Raises:
        JournalError: There cannot be one, or it cannot be looked for.
    """
    if isinstance(place, str) and is_address(place):
        from kling_async.journal.postgres.journal import exists

        return await exists(place)
    return await asyncio.to_thread(_is_file, Path(place))


def _is_file(path: Path) -> bool:
    try:
        return path.exists() and path.stat().st_size > 0
    except OSError as error:
        raise JournalError(f"there cannot be a journal at {path}: {error}") from None
