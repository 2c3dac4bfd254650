from __future__ import annotations

from kling_async.cli.format import STATE_NAMES, format_counts, format_states
from kling_async.journal.base import ItemState


def test_states_that_occur() -> None:
    """Only states with items are listed, the good ones first."""
    counts = {ItemState.UNSURE: 1, ItemState.SAVED: 1200, ItemState.FAILED: 0}
    assert format_states(counts) == "1,200 saved, 1 unsure"
    assert format_states({}) == "nothing"
    assert format_counts({"saved": 2, "failed": 0}) == "2 saved"


def test_every_state_has_a_name() -> None:
    """No state is missing."""
    assert set(STATE_NAMES) == set(ItemState)
