"""Rows of a PostgreSQL journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kling_async.errors import JournalError
from kling_async.journal.postgres._rows import is_storable
from kling_async.journal.postgres.journal import PostgresJournal
from tests.journal.examples import S, planned, read_entries, transitions

if TYPE_CHECKING:
    import psycopg


@pytest.mark.parametrize("damage", ["state = 'lost'", "input = '{'", "ref = 'x'", "files = '5'"])
async def test_damaged_rows(batch_url: str, db: psycopg.Connection, damage: str) -> None:
    """A row that cannot be read is reported as damage; other rows can be read and written."""
    async with PostgresJournal(batch_url) as journal:
        first, _ = await journal.plan(planned(batch_url, "b"))
        change = f"UPDATE kling_async_items SET {damage} WHERE key = %s"  # noqa: S608 - our own words
        db.execute(change.encode(), (batch_url,))
        for use in (journal.claim(first), journal.peek(first)):
            with pytest.raises(JournalError, match=r"is damaged .*cannot be read"):
                await use
        if damage[0] != "s":
            with pytest.raises(JournalError, match="is damaged"):
                await read_entries(journal)
        await journal.record(*transitions("b", S.SUBMITTING))
        assert [entry.key for entry in await read_entries(journal, S.SUBMITTING)] == ["b"]
        db.execute(
            "UPDATE kling_async_history SET state = 'lost' WHERE item ="
            " (SELECT id FROM kling_async_items WHERE key = %s)",
            (batch_url,),
        )
        with pytest.raises(JournalError, match="is damaged"):
            await journal.history(batch_url)


@pytest.mark.parametrize(
    ("key", "answer"), [("", True), ("\U0001f98a", True), ("a\0", False), ("\ud800", False)]
)
def test_which_keys_can_be_stored(key: str, *, answer: bool) -> None:
    """PostgreSQL stores neither NUL nor half a surrogate pair."""
    assert is_storable(key) is answer


async def test_the_history_of_nothing(batch_url: str) -> None:
    """An unknown key has no history, whether it can be stored or not."""
    async with PostgresJournal(batch_url) as journal:
        for key in ("a", "a\0"):
            with pytest.raises(JournalError, match="there is no item 'a"):
                await journal.history(key)
