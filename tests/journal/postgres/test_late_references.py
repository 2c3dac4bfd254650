"""References of paid tasks that arrive when the worker's lease has expired."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
from attrs import evolve

from kling_async.journal.base import LostError, Transition
from kling_async.journal.postgres.journal import LEASE, PostgresJournal
from tests.journal.examples import NOW, REF, S, planned, read_entries, transitions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import psycopg

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ACCEPTED = Transition(
    "a", S.SUBMITTED, NOW, REF, expected=S.SUBMITTING, attempt=1, traceparent=TRACE
)


@pytest.fixture
async def workers(
    batch_url: str, db: psycopg.Connection
) -> AsyncIterator[tuple[PostgresJournal, PostgresJournal]]:
    """Give a worker that was sending "a" when its lease expired, and one that took it over."""
    async with AsyncExitStack() as stack:
        lost = await stack.enter_async_context(PostgresJournal(batch_url))
        await lost.plan(planned("a", "b"))
        await lost.claim(*await read_entries(lost))
        await lost.record(*transitions("a", S.SUBMITTING))
        db.execute("UPDATE kling_async_workers SET until = '-infinity'")
        yield lost, await stack.enter_async_context(PostgresJournal(batch_url, lease=LEASE * 10))


async def test_a_late_reference(workers: tuple[PostgresJournal, PostgresJournal]) -> None:
    """It replaces *unsure* with all that it brings, and is counted as one submit."""
    lost, other = workers
    assert {entry.key: entry.state for entry in await read_entries(other)}["a"] is S.UNSURE
    await lost.record(ACCEPTED)
    entry, _ = await read_entries(other)
    assert (entry.state, entry.ref, entry.traceparent) == (S.SUBMITTED, REF, TRACE)
    assert entry.changed_at == NOW
    assert entry.failure is None
    states = [move.state for move in await other.history("a")]
    assert states == [S.PLANNED, S.SUBMITTING, S.UNSURE, S.SUBMITTED]
    assert (await other.summary()).attempts == 1
    await other.record(*transitions("a", S.FINISHED))


async def test_the_item_was_submitted_again(
    workers: tuple[PostgresJournal, PostgresJournal],
) -> None:
    """The reference of an earlier attempt is not recorded, and the error says so."""
    lost, other = workers
    await other.record(*(Transition("a", state, NOW) for state in (S.PLANNED, S.SUBMITTING)))
    with pytest.raises(LostError, match="lease of 60 s has expired"):
        await lost.record(ACCEPTED)
    entry, _ = await read_entries(other)
    assert (entry.state, entry.attempt, entry.ref) == (S.SUBMITTING, 2, None)


@pytest.mark.parametrize(
    "refused",
    [(evolve(ACCEPTED, state=S.PLANNED, ref=None),), (ACCEPTED, evolve(ACCEPTED, key="b"))],
)
async def test_other_transitions(
    workers: tuple[PostgresJournal, PostgresJournal], refused: tuple[Transition, ...]
) -> None:
    """Nothing else is recorded without a lease."""
    lost, other = workers
    with pytest.raises(LostError):
        await lost.record(*refused)
    assert {entry.state for entry in await read_entries(other)} == {S.UNSURE, S.PLANNED}
