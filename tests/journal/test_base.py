from __future__ import annotations

import pickle
from datetime import UTC, datetime
from itertools import product

import pytest

from kling_async.errors import JournalError
from kling_async.journal.base import (
    TRANSITIONS,
    Entry,
    Failure,
    ItemState,
    Planned,
    Summary,
    Transition,
    attempt_after,
)
from kling_async.results import FailReason, Result, SavedFile, TaskRef

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
REF = TaskRef("kling-2-1", "task_1")
RESULT = Result(REF, ("https://example.com/a.mp4",))
LEGAL = {
    ("planned", "submitting"),
    ("planned", "failed"),
    ("submitting", "planned"),
    ("submitting", "submitted"),
    ("submitting", "failed"),
    ("submitting", "unsure"),
    ("submitted", "finished"),
    ("submitted", "failed"),
    ("finished", "finished"),
    ("finished", "saved"),
    ("saved", "saved"),
    ("failed", "planned"),
    ("unsure", "planned"),
    ("unsure", "submitted"),
}


def test_the_table() -> None:
    """Every state is in the table of moves, and the moves are these and no others."""
    assert set(TRANSITIONS) == set(ItemState)
    assert {(str(a), str(b)) for a, reached in TRANSITIONS.items() for b in reached} == LEGAL


@pytest.mark.parametrize(("state", "reached"), sorted(product(ItemState, ItemState)))
def test_judging(state: ItemState, reached: ItemState) -> None:
    """A move is judged by the table, and an illegal one is named with both states."""
    move = Transition("a-key", reached, NOW, ref=REF, result=RESULT)
    if (state, reached) in LEGAL:
        assert attempt_after(state, 1, move) >= 1
    else:
        with pytest.raises(JournalError, match=f"'a-key' is {state}, and cannot .* {reached}"):
            attempt_after(state, 1, move)


@pytest.mark.parametrize("state", [ItemState.FAILED, ItemState.UNSURE])
def test_a_new_attempt(state: ItemState) -> None:
    """Planning again what failed or is unsure is a new attempt."""
    assert attempt_after(state, 3, Transition("a", ItemState.PLANNED, NOW)) == 4


def test_refused_is_no_new_attempt() -> None:
    """A submit that was refused is sent again within the same attempt."""
    assert attempt_after(ItemState.SUBMITTING, 3, Transition("a", ItemState.PLANNED, NOW)) == 3


@pytest.mark.parametrize(("state", "reached"), sorted(LEGAL - {("failed", "planned")}))
def test_other_moves_keep_the_attempt(state: str, reached: str) -> None:
    """Nothing else begins an attempt."""
    move = Transition("a", ItemState(reached), NOW, ref=REF, result=RESULT)
    expected = 3 if (state, reached) == ("unsure", "planned") else 2
    assert attempt_after(ItemState(state), 2, move) == expected


def test_submitted_needs_the_reference() -> None:
    """Without its reference a running task could not be found again: that is refused."""
    with pytest.raises(JournalError, match="without the task's reference"):
        attempt_after(ItemState.SUBMITTING, 1, Transition("a", ItemState.SUBMITTED, NOW))


def test_finished_needs_the_result() -> None:
    """Without its result a finished item could not be saved: that is refused."""
    with pytest.raises(JournalError, match="without a result"):
        attempt_after(ItemState.SUBMITTED, 1, Transition("a", ItemState.FINISHED, NOW, ref=REF))


@pytest.mark.parametrize(
    "value",
    [
        Planned("a", {"prompt": "a fox"}),
        Failure("TaskFailedError", "no", "NSFW", FailReason.CONTENT, may_have_charged=True),
        Transition("a", ItemState.SAVED, NOW, files=(SavedFile("u", "n", 1, "0"),)),
        Entry("a", {}, ItemState.PLANNED, 1, NOW),
        Summary({ItemState.PLANNED: 1}, 0),
    ],
)
def test_values_pickle(value: object) -> None:
    """What the journal speaks of are values: they pickle and compare."""
    assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301 - our own bytes
