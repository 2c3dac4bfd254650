from __future__ import annotations

from pathlib import Path

import pytest

from kling_async.errors import ConfigurationError, JournalError
from kling_async.journal.opening import journal_at, journal_exists, redact_location
from kling_async.journal.postgres.journal import PostgresJournal
from kling_async.journal.sqlite.journal import SqliteJournal


@pytest.mark.parametrize("place", ["run.sqlite", Path("run.sqlite")])
def test_a_file(place: str | Path) -> None:
    """A path is that of a SQLite file."""
    journal = journal_at(place)
    assert isinstance(journal, SqliteJournal)
    assert not journal.shared


def test_a_database() -> None:
    """A URL is that of a PostgreSQL database."""
    journal = journal_at("postgresql://me:secret@h/db?batch=foxes")
    assert isinstance(journal, PostgresJournal)
    assert journal.shared
    assert str(journal) == "postgresql://me@h/db (batch foxes)"
    assert repr(journal) == "<PostgresJournal postgresql://me@h/db (batch foxes)>"


def test_something_else() -> None:
    """Another URL is not taken for a strange file."""
    with pytest.raises(ConfigurationError, match="not at redis://"):
        journal_at("redis://:secret@h/0")


def test_redacted_locations() -> None:
    """A location is shown as it was passed, without the password."""
    assert redact_location(Path("a")) == redact_location("a") == "a"
    assert redact_location("postgresql://me:secret@h/db?batch=a") == "postgresql://me@h/db?batch=a"


async def test_whether_there_is_a_file(tmp_path: Path) -> None:
    """A file is a journal unless it is empty."""
    place = tmp_path / "a"
    assert not await journal_exists(place)
    place.touch()
    assert not await journal_exists(str(place))
    async with SqliteJournal(place):
        assert await journal_exists(place)
    with pytest.raises(JournalError, match="there cannot be a journal"):
        await journal_exists(tmp_path / ("x" * 300))


async def test_whether_there_is_a_batch(postgres_url: str) -> None:
    """A batch exists once it was opened; the check creates nothing."""
    for _ in range(2):
        assert not await journal_exists(f"{postgres_url}?batch=a")
    async with PostgresJournal(postgres_url, name="a"):
        assert await journal_exists(f"{postgres_url}?batch=a")
    assert await journal_exists(f"{postgres_url}?batch=a")
    assert not await journal_exists(f"{postgres_url}?batch=b")
