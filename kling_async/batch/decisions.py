"""What to do next with an item of a batch: a pure decision on how the journal says it stands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum, auto
from hashlib import sha256
from typing import TYPE_CHECKING

from attrs import frozen

from kling_async import errors
from kling_async.errors import KlingError, TaskFailedError
from kling_async.inputs.base import Input
from kling_async.journal.base import Entry, Failure, ItemState, Transition, attempt_after

if TYPE_CHECKING:
    from kling_async.batch.options import BatchOptions

_WITH_STATUS = (errors.APIError, errors.ContractError)


@frozen
class Item:
    """An input with the caller's name for it, which must be the only one in its batch."""

    key: str
    input: Input

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.key, str) or not self.key or not self.key.isprintable():
            raise errors.InputError(f"a key must be printable text, not {self.key!r:.80}")


class Step(Enum):
    """What an item needs next."""

    SUBMIT = auto()
    RESUBMIT = auto()  # a new attempt, which costs money again unless it was rejected
    WAIT = auto()
    SAVE = auto()
    REPORT = auto()


def next_step(entry: Entry, options: BatchOptions, *, fresh: bool) -> Step:
    """Decide on an item.

    Args:
        entry: How it stands.
        options: What the caller has allowed.
        fresh: It got there in this run. A caller who allows that unsure or rejected items are
            submitted again means those that were reported before, not those to come.
    """
    match entry.state:
        case ItemState.PLANNED:
            return Step.SUBMIT
        case ItemState.SUBMITTED:
            return Step.WAIT
        case ItemState.FINISHED if options.download_to is not None:
            return Step.SAVE
        case ItemState.UNSURE if options.resubmit_unsure and not fresh:
            return Step.RESUBMIT
        case ItemState.FAILED if _again(entry, options, fresh=fresh):
            return Step.RESUBMIT
        case _:
            return Step.REPORT


def _again(entry: Entry, options: BatchOptions, *, fresh: bool) -> bool:
    """Whether a failed item is submitted again."""
    if entry.was_rejected:
        return options.resubmit_rejected and not fresh
    reason = entry.failure.reason if entry.failure else None
    return entry.attempt <= options.resubmit_failed and reason in options.resubmit_reasons


def apply(entry: Entry, move: Transition) -> Entry:
    """Return how an item stands after a move that its journal has taken."""
    attempt = attempt_after(entry.state, entry.attempt, move)
    same = attempt == entry.attempt
    return Entry(
        key=entry.key,
        input=entry.input,
        state=move.state,
        attempt=attempt,
        changed_at=move.at,
        ref=move.ref or (entry.ref if same else None),
        result=move.result or (entry.result if same else None),
        failure=move.failure,
        files=move.files or (entry.files if same else ()),
    )


def content_key(fields: Mapping[str, object]) -> str:
    """Return the key of an input that has none: a checksum of what it asks for."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()[:32]


def item_of(given: Input | Item) -> Item:
    """Return the item that is meant by an input or an item.

    Raises:
        InputError: It is neither.
    """
    if isinstance(given, Item):
        return given
    if isinstance(given, Input):
        return Item(content_key(given.to_dict()), given)
    raise errors.InputError(f"not an input such as MasterTextToVideo, nor an Item: {given!r:.80}")


def failure_of(error: KlingError) -> Failure:
    """Return what the journal keeps of an error."""
    failed = error if isinstance(error, TaskFailedError) else None
    return Failure(
        kind=type(error).__name__,
        message=str(error),
        fail_code=failed.fail_code if failed else "",
        reason=failed.reason if failed else None,
        may_have_charged=error.may_have_charged,
        status=error.status or None if isinstance(error, _WITH_STATUS) else None,
    )


def error_of(entry: Entry) -> KlingError | None:
    """Make the error anew that the journal keeps of an item, if it keeps one."""
    failure = entry.failure
    if failure is None or entry.state not in (ItemState.FAILED, ItemState.UNSURE):
        return None
    if failure.kind == TaskFailedError.__name__:
        return TaskFailedError(
            failure.message,
            fail_code=failure.fail_code,
            reason=failure.reason,
            ref=entry.ref,
        )
    kind = getattr(errors, failure.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, KlingError)):
        kind = KlingError  # another version may know more
    error = kind(failure.message)
    error.may_have_charged, error.ref = failure.may_have_charged, entry.ref
    if isinstance(error, _WITH_STATUS):
        error.status = failure.status or 0
    return error
