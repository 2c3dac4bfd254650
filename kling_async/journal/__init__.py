"""The journal of a batch: the state of each item, stored so that the batch can be resumed."""

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
