"""Items and transitions for the tests of journals."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kling_async.journal.base import Entry, Failure, ItemState, Planned, Transition
from kling_async.journal.calls import Call
from kling_async.results import Result, SavedFile, TaskRef

if TYPE_CHECKING:
    from kling_async.journal.base import Journal, Ownership

S = ItemState
NOW = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
REF = TaskRef("kling-2-1", "task_1")
RESULT = Result(REF, ("https://example.com/a.mp4",), NOW, NOW, 61.5)
FILES = (SavedFile("https://example.com/a.mp4", "a.mp4", 10, "00"),)
LOST = Failure("AnswerLostError", "gone", may_have_charged=True)
SUBMITTED = (S.SUBMITTING, S.SUBMITTED)


def planned(*keys: str) -> list[Planned]:
    """Return items with one input."""
    return [Planned(key, {"prompt": "a fox"}) for key in keys]


def plan_call(*items: Planned) -> Call[Any]:
    """Return a call of a journal that plans items."""
    return Call([item.key for item in items], lambda changes: changes.plan(items))


def sending(key: str) -> Transition:
    """Return the first transition of an item."""
    return Transition(key, S.SUBMITTING, NOW)


def transitions(key: str, *states: ItemState) -> list[Transition]:
    """Return transitions of one item, with the details that they require."""
    return [Transition(key, state, NOW, ref=REF, result=RESULT) for state in states]


async def read_entries(journal: Journal, *states: ItemState) -> list[Entry]:
    """Return all entries in these states."""
    return [entry async for entry in journal.entries(*states)]


async def ownerships(journal: Journal, *, claim: bool = True) -> dict[str, tuple[Ownership, bool]]:
    """Claim all items, or peek; return the ownership of each, and whether it has changed."""
    found = await read_entries(journal)
    claims = await (journal.claim if claim else journal.peek)(*found)
    return {claim.entry.key: (claim.ownership, claim.changed) for claim in claims}
