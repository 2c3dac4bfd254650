"""What a batch writes down of each of its items, so that it can be resumed."""

from kling_async.journal.base import (
    Claim,
    ConflictError,
    Entry,
    Failure,
    ItemError,
    ItemState,
    Journal,
    LostError,
    Ownership,
    Planned,
    Summary,
    Transition,
)

__all__ = [
    "Claim",
    "ConflictError",
    "Entry",
    "Failure",
    "ItemError",
    "ItemState",
    "Journal",
    "LostError",
    "Ownership",
    "Planned",
    "Summary",
    "Transition",
]
