"""What a batch has done with each item, so that it can be resumed after a crash.

An item is first written as planned. Every later step is written before it is taken, or as soon as
its outcome is known. What the next process does depends on the last step that was written: it waits
for the task, downloads its files, submits the item, or, if an answer was lost, leaves the decision
to the user.

The values are stored in a file (:mod:`kling_async.journal.sqlite`), or in a database that several
workers share (:mod:`kling_async.journal.postgres`). :class:`Journal` is the protocol of both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, Self

from attrs import field, frozen

from kling_async.errors import JournalError
from kling_async.results import FailReason, Result, SavedFile, TaskRef

if TYPE_CHECKING:
    from types import TracebackType


class ItemError(JournalError):
    """The journal rejects one item. The journal itself and other items are fine."""


class ConflictError(ItemError):
    """An item is not in the state or attempt that a transition expects.

    Another run has changed it since the caller read it. Nothing was written.

    Attributes:
        state: The item's state.
        attempt: The item's attempt.
    """

    def __init__(
        self, message: str = "", *, state: ItemState | None = None, attempt: int = 0
    ) -> None:
        super().__init__(message)
        self.state = state
        self.attempt = attempt


class LostError(JournalError):
    """This worker's lease has expired, and other workers have taken over its items."""


class ItemState(StrEnum):
    """The state of an item."""

    PLANNED = "planned"  # nothing was sent
    SUBMITTING = "submitting"  # written before the request is sent
    SUBMITTED = "submitted"  # accepted: from here on it costs money
    FINISHED = "finished"  # there is a result
    FAILED = "failed"  # there is no result, and there will be none
    SAVED = "saved"  # the result's files are on disk
    UNSURE = "unsure"  # it was sent, and the answer was lost: a task may be running


TRANSITIONS: Mapping[ItemState, frozenset[ItemState]] = MappingProxyType(
    {
        ItemState.PLANNED: frozenset(
            {
                ItemState.SUBMITTING,
                ItemState.FAILED,  # it could not even be sent
            }
        ),
        ItemState.SUBMITTING: frozenset(
            {
                ItemState.PLANNED,  # refused at no charge, so it may be sent again
                ItemState.SUBMITTED,
                ItemState.FAILED,  # rejected, as it would be again
                ItemState.UNSURE,  # the answer was lost, or the process that waited for it
            }
        ),
        ItemState.SUBMITTED: frozenset({ItemState.FINISHED, ItemState.FAILED}),
        ItemState.FINISHED: frozenset(
            {
                ItemState.FINISHED,  # with new URLs, since the old ones had expired
                ItemState.SAVED,
            }
        ),
        ItemState.SAVED: frozenset({ItemState.SAVED}),  # the files were downloaded again
        # A new attempt, only if the user asks for it: it costs money again, unless the submit
        # was rejected.
        ItemState.FAILED: frozenset({ItemState.PLANNED}),
        ItemState.UNSURE: frozenset(
            {
                ItemState.PLANNED,  # the same; it may be paid twice
                ItemState.SUBMITTED,  # the task's reference was found later
            }
        ),
    }
)


@frozen
class Planned:
    """An item to be written: the caller's key, and its input as plain values for JSON."""

    key: str
    input: Mapping[str, object]


@frozen
class Failure:
    """What went wrong.

    Attributes:
        kind: The name of the error's class, such as ``TaskFailedError``.
        message: The error's message.
        fail_code: The vendor's code of a failed task.
        reason: Our small enum over the code.
        may_have_charged: A task may have been started and billed.
        status: The HTTP status, if the service answered with an error.
    """

    kind: str
    message: str
    fail_code: str = ""
    reason: FailReason | None = None
    may_have_charged: bool = False
    status: int | None = None


# The failure of an item that a process was sending when it ended.
INTERRUPTED = Failure(
    "AnswerLostError",
    "the process ended while it was sending this item; a task may have been started",
    may_have_charged=True,
)


@frozen
class Transition:
    """One transition of an item to another state.

    Attributes:
        key: The item's key.
        state: The new state.
        at: When, in UTC.
        ref: The remote task; required for ``SUBMITTED``.
        result: The task's result; required for ``FINISHED``.
        failure: What went wrong, if anything did.
        files: What was saved.
        expected: The state in which the item must be before, or None for any. Of two callers that
            act on the same item at once, and pass it, one is refused.
        attempt: The attempt in which it must be, or None for any. Neither ``expected`` nor
            ``attempt`` is stored or compared.
        traceparent: The W3C trace context of the task, if it is traced. It is not compared, and
            not in the history.
    """

    key: str
    state: ItemState
    at: datetime
    ref: TaskRef | None = None
    result: Result | None = None
    failure: Failure | None = None
    files: tuple[SavedFile, ...] = ()
    expected: ItemState | None = field(default=None, kw_only=True, eq=False)
    attempt: int | None = field(default=None, kw_only=True, eq=False)
    traceparent: str = field(default="", kw_only=True, eq=False)


@frozen
class Entry:
    """An item as it is stored.

    Attributes:
        key: The caller's name for it.
        input: The input as plain values.
        state: Its state.
        attempt: The number of the attempt, from 1. A new one begins without reference, result and
            files; those of earlier attempts are in the history.
        changed_at: The time of its last transition.
        ref: The remote task of this attempt.
        result: The task's result.
        failure: The failure of the last transition.
        files: What was saved last.
        traceparent: The W3C trace context of this attempt's task, if it is traced. It is not
            compared.
    """

    key: str
    input: Mapping[str, object]
    state: ItemState
    attempt: int
    changed_at: datetime
    ref: TaskRef | None = None
    result: Result | None = None
    failure: Failure | None = None
    files: tuple[SavedFile, ...] = ()
    traceparent: str = field(default="", eq=False)

    @property
    def was_rejected(self) -> bool:
        """Whether the item failed before a task existed, so that nothing was charged."""
        failure = self.failure
        return (
            self.state is ItemState.FAILED
            and self.ref is None
            and failure is not None
            and failure.reason is None  # that of a failed task
            and not failure.may_have_charged
        )


class Ownership(StrEnum):
    """Which worker has claimed an item."""

    MINE = "mine"  # this worker, or none
    OTHERS = "others"  # another worker, whose lease has not expired
    DONE = "done"  # none; another one ended it since this journal was opened, and reports the end


@frozen
class Claim:
    """The outcome of a claim.

    Attributes:
        entry: The item as it is stored.
        ownership: Which worker has the item.
        changed: Another worker has changed the item since this journal was opened.
    """

    entry: Entry
    ownership: Ownership = Ownership.MINE
    changed: bool = False


@frozen
class Summary:
    """The counts of a batch.

    Attributes:
        counts: How many items are in each state; every state is a key.
        attempts: How many submits of all runs may have cost money: those that were accepted, those
            whose answer was lost, and those that are being sent.
    """

    counts: Mapping[ItemState, int]
    attempts: int


def attempt_after(state: ItemState, attempt: int, transition: Transition) -> int:
    """Check a transition of an item, and return the item's attempt after it.

    Raises:
        ConflictError: The item is not in the state or attempt that the transition expects.
        JournalError: There is no such transition, or the reference or result is missing.
    """
    key, new = transition.key, transition.state
    expected = (transition.expected or state, transition.attempt or attempt)
    if expected != (state, attempt):
        raise ConflictError(
            f"item {key!r} is {state} (attempt {attempt}), not {expected[0]} (attempt"
            f" {expected[1]}): another run has changed it, and it did not become {new}",
            state=state,
            attempt=attempt,
        )
    if new not in TRANSITIONS[state]:
        raise JournalError(f"item {key!r} is {state}, and cannot become {new}")
    if new is ItemState.SUBMITTED and transition.ref is None:
        raise JournalError(f"item {key!r} cannot be submitted without the task's reference")
    if new is ItemState.FINISHED and transition.result is None:
        raise JournalError(f"item {key!r} cannot be finished without a result")
    is_new_attempt = new is ItemState.PLANNED and state is not ItemState.SUBMITTING
    return attempt + is_new_attempt


class Journal(Protocol):
    """Stores the items of a batch. Use it as an async context manager.

    Each journal that is open for writing is one worker. Several workers may share a batch, if the
    engine allows it. Then a worker claims an item before it changes it, and other workers cannot
    change it until it is released or the worker's lease expires. An item that a worker was sending
    when its lease expired becomes unsure.

    Every method raises :class:`~kling_async.errors.JournalError` if the journal cannot be read or
    written.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    async def plan(self, items: Sequence[Planned]) -> list[Entry]:
        """Write the items that are not stored yet, and return the entries of all, in order.

        Raises:
            JournalError: A key is stored with another input. Nothing was written.
        """
        ...

    async def record(self, *transitions: Transition) -> None:
        """Write transitions, all or none. They are durable when this returns.

        If the caller is cancelled meanwhile, they are written nevertheless. An item that no worker
        has is claimed.

        Raises:
            ConflictError: An item is not in the state or attempt that its transition expects.
                Nothing was written.
            JournalError: An item is unknown or another worker's, or a transition is not allowed.
                Nothing was written.
        """
        ...

    @property
    def shared(self) -> bool:
        """Whether other workers may have the batch open, here or on other machines."""
        ...

    async def claim(self, *entries: Entry) -> list[Claim]:
        """Claim the items that no other worker has, and return the outcome for each item.

        Of those that another worker has, the entries may be returned as they were passed.
        """
        ...

    async def peek(self, *entries: Entry) -> list[Claim]:
        """Return what :meth:`claim` would return, without claiming anything."""
        ...

    async def release(self, *keys: str, ended: bool = False) -> None:
        """Release items that this worker has claimed.

        Args:
            keys: The keys of the items. An item that is another worker's is left as it is, and so
                is one that is being sent: it becomes unsure when this journal is closed.
            ended: Whether this worker reports how they have ended. If so, they are
                ``Ownership.DONE`` to other workers.
        """
        ...

    def entries(self, *states: ItemState) -> AsyncIterator[Entry]:
        """Iterate over the items in these states, or all, in the order in which they were planned.

        Items may change meanwhile: each is returned at most once, as it is when it is read.
        """
        ...

    async def summary(self) -> Summary:
        """Count the items, and the submits that may have cost money."""
        ...

    async def history(self, key: str) -> list[Transition]:
        """Return every transition of an item, including the planning, oldest first.

        Raises:
            JournalError: There is no such item.
        """
        ...
