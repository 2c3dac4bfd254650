"""What a batch does next with an item: pure decisions on the item's entry in the journal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum, auto
from hashlib import sha256
from typing import TYPE_CHECKING

from attrs import frozen

from kling_async import errors
from kling_async.errors import InputError, KlingError, TaskFailedError
from kling_async.inputs.base import Input
from kling_async.inputs.local_image import SCHEME, to_identity
from kling_async.journal.base import Entry, Failure, ItemState, Planned, Transition, attempt_after

if TYPE_CHECKING:
    from kling_async.batch.options import BatchOptions

_WITH_STATUS = (errors.APIError, errors.ContractError)


@frozen
class Item:
    """An input with a key of the caller's, which must be unique in its batch."""

    key: str
    input: Input

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.key, str) or not self.key or not self.key.isprintable():
            raise InputError(f"a key must be printable text, not {self.key!r:.80}")
        if not isinstance(self.input, Input):
            raise InputError(f"not an input such as MasterTextToVideo(...): {self.input!r:.80}")


@frozen
class UnreadableItem:
    """In place of an entry in the journal: an item whose local image cannot be read."""

    key: str | None  # None for an input, whose key would be a checksum
    input: Input
    error: InputError


def plan_item(given: Input | Item) -> Planned:
    """Return what the journal stores of an item, or of an input, whose key is a checksum.

    Raises:
        InputError: It is neither.
    """
    sent = given.input if isinstance(given, Item) else given
    if not isinstance(sent, Input):
        raise InputError(f"not an input such as MasterTextToVideo, nor an Item: {given!r:.80}")
    fields = sent.to_dict()
    return Planned(given.key if isinstance(given, Item) else content_key(fields), fields)


def content_key(fields: Mapping[str, object]) -> str:
    """Return the key of an input that has no key: a checksum of its fields.

    A local image counts by its content: where it was found may differ from run to run.
    """
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    if SCHEME in text:
        identity = {name: to_identity(value) for name, value in fields.items()}
        text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()[:32]


class Step(Enum):
    """What an item needs next."""

    SUBMIT = auto()
    RESUBMIT = auto()  # a new attempt, which costs money again unless the last was rejected
    WAIT = auto()
    SAVE = auto()
    REPORT = auto()


def next_step(entry: Entry, options: BatchOptions, *, fresh: bool) -> Step:
    """Return the next step of an item.

    Args:
        entry: The item's entry in the journal.
        options: What the caller has allowed.
        fresh: The entry has changed in this run. ``resubmit_unsure`` and ``resubmit_rejected``
            apply only to items that were in that state before.
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
        case ItemState.FAILED if _may_resubmit(entry, options, fresh=fresh):
            return Step.RESUBMIT
        case _:
            return Step.REPORT


def _may_resubmit(entry: Entry, options: BatchOptions, *, fresh: bool) -> bool:
    """Whether a failed item is submitted again."""
    if entry.was_rejected:
        return options.resubmit_rejected and not fresh
    reason = entry.failure.reason if entry.failure else None
    return entry.attempt <= options.resubmit_failed and reason in options.resubmit_reasons


def apply(entry: Entry, transition: Transition) -> Entry:
    """Return an item's entry after a transition that the journal has recorded."""
    attempt = attempt_after(entry.state, entry.attempt, transition)
    same = attempt == entry.attempt
    return Entry(
        key=entry.key,
        input=entry.input,
        state=transition.state,
        attempt=attempt,
        changed_at=transition.at,
        ref=transition.ref or (entry.ref if same else None),
        result=transition.result or (entry.result if same else None),
        failure=transition.failure,
        files=transition.files or (entry.files if same else ()),
        traceparent=transition.traceparent or (entry.traceparent if same else ""),
    )


def to_failure(error: KlingError) -> Failure:
    """Return an error as the journal records it."""
    failed = error if isinstance(error, TaskFailedError) else None
    return Failure(
        kind=type(error).__name__,
        message=str(error),
        fail_code=failed.fail_code if failed else "",
        reason=failed.reason if failed else None,
        may_have_charged=error.may_have_charged,
        status=error.status or None if isinstance(error, _WITH_STATUS) else None,
    )


def to_error(entry: Entry) -> KlingError | None:
    """Return the error that the journal has recorded of a failed or unsure item, if any."""
    failure = entry.failure
    if failure is None or entry.state not in (ItemState.FAILED, ItemState.UNSURE):
        return None
    if failure.kind == TaskFailedError.__name__:
        return TaskFailedError(
            failure.message, fail_code=failure.fail_code, reason=failure.reason, ref=entry.ref
        )
    kind = getattr(errors, failure.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, KlingError)):
        kind = KlingError  # a class of another version of this library
    error = kind(failure.message)
    error.may_have_charged, error.ref = failure.may_have_charged, entry.ref
    if isinstance(error, _WITH_STATUS):
        error.status = failure.status or 0
    return error
