"""Several workers that share a batch on PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kling_async.errors import ConfigurationError, JournalError
from kling_async.journal.base import INTERRUPTED, ItemState, Ownership, Planned
from kling_async.journal.postgres.journal import PostgresJournal
from tests.journal.examples import REF, SUBMITTED, S, ownerships, planned, read_entries, transitions

if TYPE_CHECKING:
    import psycopg

MINE, OTHERS, DONE = Ownership


@pytest.mark.parametrize("lease", [0, -1.0, float("inf"), float("nan")])
def test_an_invalid_lease(lease: float) -> None:
    """A lease is a number of seconds."""
    with pytest.raises(ConfigurationError, match="a lease must be"):
        PostgresJournal("postgresql://h/db", lease=lease)


async def test_an_item_has_one_worker(batch_url: str) -> None:
    """An item that one worker has claimed others can neither claim nor change until its release."""
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


async def test_a_claim_does_not_wait(batch_url: str, db: psycopg.Connection) -> None:
    """A claim of another worker's item does not wait for a transaction of that worker."""
    async with PostgresJournal(batch_url) as one, PostgresJournal(batch_url) as two:
        (first,) = await one.plan(planned(batch_url))
        await one.claim(first)
        with db.transaction():  # as when the other is writing
            db.execute("SELECT FROM kling_async_items WHERE key = %s FOR UPDATE", (batch_url,))
            assert (await two.claim(first))[0].ownership is OTHERS


async def test_a_peek_claims_nothing(batch_url: str) -> None:
    """An item that was peeked at is not claimed."""
    async with PostgresJournal(batch_url) as one, PostgresJournal(batch_url) as two:
        entry = (await one.plan(planned("a")))[0]
        assert (await one.peek(entry))[0].ownership is MINE
        assert (await two.claim(entry))[0].ownership is MINE
        assert (await one.peek(entry))[0].ownership is OTHERS


async def test_a_transition_claims(batch_url: str) -> None:
    """A transition claims an item that no worker has."""
    async with PostgresJournal(batch_url) as one, PostgresJournal(batch_url) as two:
        await one.plan(planned("a"))
        await one.record(*transitions("a", S.SUBMITTING, S.PLANNED))
        with pytest.raises(JournalError, match="claimed by another"):
            await two.record(*transitions("a", S.SUBMITTING))


@pytest.mark.parametrize("end", [S.FINISHED, S.FAILED])
async def test_what_another_has_ended(batch_url: str, end: ItemState) -> None:
    """The worker that has ended an item reports it; workers that come later may claim it."""
    async with PostgresJournal(batch_url) as one, PostgresJournal(batch_url) as two:
        await one.plan(planned("a"))
        await one.record(*transitions("a", *SUBMITTED, end))
        assert await ownerships(two) == {"a": (OTHERS, False)}
        await one.release("a", ended=True)
        assert await ownerships(one) == {"a": (MINE, False)}
        await one.release("a", ended=True)
        assert await ownerships(two) == await ownerships(two, claim=False) == {"a": (DONE, True)}
    async with PostgresJournal(batch_url) as three, PostgresJournal(batch_url) as four:
        assert await ownerships(three) == {"a": (MINE, False)}
        assert await ownerships(four) == {"a": (OTHERS, False)}


@pytest.mark.parametrize("states", [[], SUBMITTED, [*SUBMITTED, S.FINISHED]])
async def test_what_another_releases(batch_url: str, states: list[ItemState]) -> None:
    """An item that is released before its end can be claimed at once, with all its details."""
    async with PostgresJournal(batch_url) as one, PostgresJournal(batch_url) as two:
        await one.claim(*(await one.plan(planned("a"))))
        await one.record(*transitions("a", *states))
        await one.release("a")
        assert await ownerships(two) == {"a": (MINE, True)}
        assert await ownerships(one) == {"a": (OTHERS, False)}
        (entry,) = await read_entries(two)
        assert entry.ref == (REF if states else None)


async def test_what_is_being_sent_is_not_released(batch_url: str) -> None:
    """An item that is being sent is not released, and is unsure when its worker closes."""
    async with PostgresJournal(batch_url) as two:
        async with PostgresJournal(batch_url) as one:
            await one.plan(planned("a"))
            await one.record(*transitions("a", S.SUBMITTING))
            await one.release("a")
            assert await ownerships(two) == {"a": (OTHERS, False)}
        (entry,) = await read_entries(two)
        assert (entry.state, entry.failure) == (S.UNSURE, INTERRUPTED)
        assert await ownerships(two) == {"a": (MINE, True)}


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
