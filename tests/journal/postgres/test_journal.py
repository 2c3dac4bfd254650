"""Several workers that share a batch on PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from kling_async.errors import ConfigurationError, JournalError
from kling_async.journal.base import INTERRUPTED, ItemState, Ownership, Planned
from kling_async.journal.postgres.journal import PostgresJournal
from tests.journal.examples import REF, SUBMITTED, S, planned, read_entries, transitions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kling_async.journal.base import Journal

MINE, OTHERS, DONE = Ownership


@pytest.fixture
def db(batch_url: str) -> Iterator[psycopg.Connection]:
    """Talk to the database itself."""
    with psycopg.connect(batch_url.partition("?")[0], autocommit=True) as db:
        yield db


async def holds(journal: Journal, *, take: bool = True) -> dict[str, tuple[Ownership, bool]]:
    """Claim all items, or look; tell what became of each, and whether it is news."""
    found = await read_entries(journal)
    claims = await (journal.claim if take else journal.peek)(*found)
    return {claim.entry.key: (claim.ownership, claim.changed) for claim in claims}


@pytest.mark.parametrize("lease", [0, -1.0, float("inf"), float("nan")])
def test_a_lease_that_is_none(lease: float) -> None:
    """A lease is a number of seconds."""
    with pytest.raises(ConfigurationError, match="a lease must be"):
        PostgresJournal("postgresql://h/db", lease=lease)


async def test_an_item_is_in_one_hand(batch_url: str) -> None:
    """What one worker has claimed the others cannot claim, nor move, until he lets go of it."""
    async with PostgresJournal(batch_url) as one, PostgresJournal(batch_url) as two:
        first, second = await one.plan(planned("a", "b"))
        assert [claim.ownership for claim in await one.claim(first)] == [MINE]
        assert [claim.ownership for claim in await one.claim(first)] == [MINE]
        for take in (False, True):
            claims = await (two.claim if take else two.peek)(first, second)
            assert [claim.ownership for claim in claims] == [OTHERS, MINE]
            assert claims[0].entry == first
        with pytest.raises(JournalError, match="'a' is claimed by another worker"):
            await two.record(*transitions("a", S.SUBMITTING))
        await two.release("a")
        with pytest.raises(JournalError, match="'b' is claimed by another worker"):
            await one.record(*transitions("a", S.SUBMITTING), *transitions("b", S.SUBMITTING))
        assert [entry.state for entry in await read_entries(one)] == [S.PLANNED, S.PLANNED]
        await one.release("a")
        await two.record(*transitions("a", S.SUBMITTING))
        assert (await one.claim(first))[0].ownership is OTHERS


async def test_who_asks_disturbs_nobody(batch_url: str, db: psycopg.Connection) -> None:
    """Whether an item is in another's hand is found out without waiting for that one."""
    async with PostgresJournal(batch_url) as one, PostgresJournal(batch_url) as two:
        (first,) = await one.plan(planned(batch_url))
        await one.claim(first)
        with db.transaction():  # as when the other is writing
            db.execute("SELECT FROM kling_async_items WHERE key = %s FOR UPDATE", (batch_url,))
            assert (await two.claim(first))[0].ownership is OTHERS


async def test_a_look_takes_nothing(batch_url: str) -> None:
    """Who has looked at an item does not have it in hand."""
    async with PostgresJournal(batch_url) as one, PostgresJournal(batch_url) as two:
        entry = (await one.plan(planned("a")))[0]
        assert (await one.peek(entry))[0].ownership is MINE
        assert (await two.claim(entry))[0].ownership is MINE
        assert (await one.peek(entry))[0].ownership is OTHERS


async def test_a_move_claims(batch_url: str) -> None:
    """Who moves an item that nobody has in hand has it from then on."""
    async with PostgresJournal(batch_url) as one, PostgresJournal(batch_url) as two:
        await one.plan(planned("a"))
        await one.record(*transitions("a", S.SUBMITTING, S.PLANNED))
        with pytest.raises(JournalError, match="claimed by another"):
            await two.record(*transitions("a", S.SUBMITTING))


@pytest.mark.parametrize("end", [S.FINISHED, S.FAILED])
async def test_what_another_has_ended(batch_url: str, end: ItemState) -> None:
    """What another has ended since I came he tells; who comes later may do with it what he will."""
    async with PostgresJournal(batch_url) as one, PostgresJournal(batch_url) as two:
        await one.plan(planned("a"))
        await one.record(*transitions("a", *SUBMITTED, end))
        assert await holds(two) == {"a": (OTHERS, False)}
        await one.release("a", ended=True)
        assert await holds(one) == {"a": (MINE, False)}
        await one.release("a", ended=True)
        assert await holds(two) == await holds(two, take=False) == {"a": (DONE, True)}
    async with PostgresJournal(batch_url) as three, PostgresJournal(batch_url) as four:
        assert await holds(three) == {"a": (MINE, False)}
        assert await holds(four) == {"a": (OTHERS, False)}


@pytest.mark.parametrize("states", [[], SUBMITTED, [*SUBMITTED, S.FINISHED]])
async def test_what_another_hands_over(batch_url: str, states: list[ItemState]) -> None:
    """What another lets go of before its end is anybody's at once, with all that is known."""
    async with PostgresJournal(batch_url) as one, PostgresJournal(batch_url) as two:
        await one.claim(*(await one.plan(planned("a"))))
        await one.record(*transitions("a", *states))
        await one.release("a")
        assert await holds(two) == {"a": (MINE, True)}
        assert await holds(one) == {"a": (OTHERS, False)}
        (entry,) = await read_entries(two)
        assert entry.ref == (REF if states else None)


async def test_what_is_being_sent_is_not_let_go_of(batch_url: str) -> None:
    """What is being sent stays in hand, and is unsure as soon as its worker goes, to all."""
    async with PostgresJournal(batch_url) as two:
        async with PostgresJournal(batch_url) as one:
            await one.plan(planned("a"))
            await one.record(*transitions("a", S.SUBMITTING))
            await one.release("a")
            assert await holds(two) == {"a": (OTHERS, False)}
        (entry,) = await read_entries(two)
        assert (entry.state, entry.failure) == (S.UNSURE, INTERRUPTED)
        assert await holds(two) == {"a": (MINE, True)}


async def test_batches_are_apart(batch_url: str) -> None:
    """Batches of other names in the same database have other items and other workers."""
    async with PostgresJournal(batch_url) as one, PostgresJournal(f"{batch_url}-2") as two:
        await one.plan(planned("a"))
        await two.plan([Planned("a", {})])
        await two.record(*transitions("a", *SUBMITTED))
        assert [entry.state for entry in await read_entries(one)] == [S.PLANNED]
        assert (await one.summary()).attempts == 0
        assert (await two.summary()).attempts == 1
        assert [len(await one.history("a")), len(await two.history("a"))] == [1, 3]
        assert len(await one.workers()) == 1
