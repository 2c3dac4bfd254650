"""What a batch has done, so that a process that was killed can go on: the facts, not the files.

An item is written as planned, and every act that follows is written before it is done or as
soon as it is known. Where the process may have died tells what the next one may do: go on with
a task, fetch its files, submit the item, or, where an answer was lost, ask the user.

An engine keeps these values: a file (:mod:`kling_async.journal.sqlite`), or a server that several
workers share (:mod:`kling_async.journal.postgres`). :class:`Journal` is what every engine promises.
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
    """The journal refuses an item. Nothing is wrong with the journal, nor with other items."""


class ConflictError(ItemError):
    """An item is not in the state, or the attempt, that a move expects: another has moved it.

    Nothing was written. What the caller believed of the item is out of date.

    Attributes:
        state: The state in which the item is.
        attempt: The attempt in which it is.
    """

    def __init__(
        self, message: str = "", *, state: ItemState | None = None, attempt: int = 0
    ) -> None:
        super().__init__(message)
        self.state = state
        self.attempt = attempt


class LostError(JournalError):
    """This worker was not heard of for too long, and others have its items: run again."""


class ItemState(StrEnum):
    """How an item of a batch stands."""

    PLANNED = "planned"  # nothing was sent
    SUBMITTING = "submitting"  # being sent; written before it is
    SUBMITTED = "submitted"  # accepted: from here on it costs money
    FINISHED = "finished"  # there is a result
    FAILED = "failed"  # there is none, and none will come
    SAVED = "saved"  # the result's files are on disk
    UNSURE = "unsure"  # it was sent, and no answer came: a task may be running


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
                ItemState.PLANNED,  # refused: nothing was charged, so it may be sent again
                ItemState.SUBMITTED,
                ItemState.FAILED,  # rejected: it would be again
                ItemState.UNSURE,  # the answer was lost, or the process that waited for it
            }
        ),
        ItemState.SUBMITTED: frozenset({ItemState.FINISHED, ItemState.FAILED}),
        ItemState.FINISHED: frozenset(
            {
                ItemState.FINISHED,  # with new URLs: the old ones had expired
                ItemState.SAVED,
            }
        ),
        ItemState.SAVED: frozenset({ItemState.SAVED}),  # the files were fetched again
        # A new attempt, by explicit choice only: it costs money again, unless the submit was
        # rejected.
        ItemState.FAILED: frozenset({ItemState.PLANNED}),
        ItemState.UNSURE: frozenset(
            {
                ItemState.PLANNED,  # the same: it may be paid twice
                ItemState.SUBMITTED,  # the task's reference was learned after all
            }
        ),
    }
)


@frozen
class Planned:
    """An item to be done: the caller's key, and its input as plain values for JSON."""

    key: str
    input: Mapping[str, object]


@frozen
class Failure:
    """What went wrong.

    Attributes:
        kind: The name of the error's class, such as ``TaskFailedError``.
        message: The error in words.
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


# What is known of an item that a process was sending when it died.
GIVEN_UP = Failure(
    "AnswerLostError",
    "the process ended while it was sending this item; a task may have been started",
    may_have_charged=True,
)


@frozen
class Transition:
    """One transition of an item: to which state, when, and what came with it.

    Attributes:
        key: The item's key.
        state: The state that it reaches.
        at: When, in UTC.
        ref: The remote task; a move to ``SUBMITTED`` must have it.
        result: What the task gave; a move to ``FINISHED`` must have it.
        failure: Why the item got here, where something went wrong.
        files: What was saved.
        expected: The state in which the item must be before the move, or None for any. A caller
            that acts on what it has read passes it: of two that act at once, one is refused.
        attempt: The attempt in which it must be, or None for any. Neither is kept in the journal,
            nor compared.
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


@frozen
class Entry:
    """How an item stands.

    Attributes:
        key: The caller's name for it.
        input: What is asked for, as plain values.
        state: Its state.
        attempt: Which attempt this is, from 1. A new one begins without reference, result and
            files; those of earlier attempts are in the history.
        changed_at: When its last move was made.
        ref: The remote task of this attempt.
        result: What it gave.
        failure: What the last move said of a failure.
        files: What was saved last.
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

    @property
    def was_rejected(self) -> bool:
        """Whether it failed before a task existed, so that nothing was charged."""
        failure = self.failure
        return (
            self.state is ItemState.FAILED
            and self.ref is None
            and failure is not None
            and failure.reason is None  # of a task that has failed
            and not failure.may_have_charged
        )


class Ownership(StrEnum):
    """Who has an item in hand."""

    MINE = "mine"  # this worker, or nobody
    OTHERS = "others"  # another worker, which lives
    TOLD = "told"  # another has brought it to its end since this journal was opened, and tells it


@frozen
class Claim:
    """What became of a claim.

    Attributes:
        entry: How the item stands now.
        hold: Who has it in hand.
        news: Another worker has moved it since this journal was opened.
    """

    entry: Entry
    ownership: Ownership = Ownership.MINE
    news: bool = False


@frozen
class Summary:
    """How the whole batch stands.

    Attributes:
        counts: How many items stand in each state; every state is there.
        attempts: How many submits may have cost money, of all runs together: those that were
            accepted, those whose answer was lost, and those that are being sent.
    """

    counts: Mapping[ItemState, int]
    attempts: int


def attempt_after(state: ItemState, attempt: int, move: Transition) -> int:
    """Judge a move of an item that stands so; return the attempt in which it stands afterwards.

    Raises:
        ConflictError: The item is not in the state, or the attempt, that the move expects.
        JournalError: The move is illegal, or lacks what the next process could not go on without.
    """
    expected = (move.expected or state, move.attempt or attempt)
    if expected != (state, attempt):
        raise ConflictError(
            f"item {move.key!r} is {state} (attempt {attempt}), not {expected[0]} (attempt"
            f" {expected[1]}): another run has moved it, and it was not moved to {move.state}",
            state=state,
            attempt=attempt,
        )
    if move.state not in TRANSITIONS[state]:
        raise JournalError(f"item {move.key!r} is {state}, and cannot become {move.state}")
    if move.state is ItemState.SUBMITTED and move.ref is None:
        raise JournalError(f"item {move.key!r} cannot be submitted without the task's reference")
    if move.state is ItemState.FINISHED and move.result is None:
        raise JournalError(f"item {move.key!r} cannot be finished without a result")
    anew = move.state is ItemState.PLANNED and state is not ItemState.SUBMITTING
    return attempt + anew


class Journal(Protocol):
    """What keeps the items of a batch, through crashes. Use it as an async context manager.

    Each that is open for writing is one worker. An engine may let several of them share a batch:
    then an item is in the hand of one worker at a time, which claims it before it moves it. What
    a worker that has died had in hand is anybody's, but what it was sending is unsure.

    Every method raises :class:`~kling_async.errors.JournalError` where the journal cannot be read
    or written.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    async def plan(self, items: Sequence[Planned]) -> list[Entry]:
        """Write those items that are new, and return all, in the order given, as they stand.

        Raises:
            JournalError: A key is there already with another input. Nothing was written.
        """
        ...

    async def record(self, *moves: Transition) -> None:
        """Write moves, all or none; they are durable when this returns.

        If the caller is cancelled meanwhile, they are written all the same. An item that nobody
        has in hand is claimed by that.

        Raises:
            ConflictError: An item is not in the state, or the attempt, that its move expects.
                Nothing was written.
            JournalError: An item is not known or in the hand of another worker, or a move is
                illegal. Nothing was written.
        """
        ...

    @property
    def shared(self) -> bool:
        """Whether other workers may have the batch open, here or on other machines."""
        ...

    async def claim(self, *entries: Entry) -> list[Claim]:
        """Take items in hand, those that no other worker has; tell of each how it stands now.

        Of those that another has, the entries may come back as they were given.
        """
        ...

    async def peek(self, *entries: Entry) -> list[Claim]:
        """Tell what would become of a claim, and of each item how it stands now."""
        ...

    async def release(self, *keys: str, ended: bool = False) -> None:
        """Let go of items.

        Args:
            keys: Those of the items. What is not in this worker's hand stays as it is, and so does
                what is being sent: that is unsure as soon as the worker goes.
            ended: This worker tells how they have ended; to others they are ``Ownership.TOLD``.
        """
        ...

    def entries(self, *states: ItemState) -> AsyncIterator[Entry]:
        """Go through the items in these states, or all, in the order in which they were planned.

        Items may move meanwhile: each comes at most once, as it stands when it is reached.
        """
        ...

    async def summary(self) -> Summary:
        """Count the items, and the submits that may have cost money."""
        ...

    async def history(self, key: str) -> list[Transition]:
        """Return every move of an item, the planning included, oldest first.

        Raises:
            JournalError: There is no such item.
        """
        ...
