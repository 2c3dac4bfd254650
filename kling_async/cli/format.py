"""How values are written for a reader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kling_async.journal.base import ItemState

if TYPE_CHECKING:
    from collections.abc import Mapping

STATE_NAMES: Mapping[ItemState, str] = {
    ItemState.SAVED: "saved",
    ItemState.FINISHED: "finished",
    ItemState.SUBMITTED: "running",
    ItemState.SUBMITTING: "being sent",
    ItemState.PLANNED: "queued",
    ItemState.FAILED: "failed",
    ItemState.UNSURE: "unsure",
}


def format_states(counts: Mapping[ItemState, int]) -> str:
    """Return the counts that are not zero, such as ``1,200 saved, 1 unsure``."""
    return format_counts({name: counts.get(state, 0) for state, name in STATE_NAMES.items()})


def format_counts(counts: Mapping[str, int]) -> str:
    """Return the counts that are not zero, or ``nothing``."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "nothing"
