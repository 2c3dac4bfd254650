from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from kling_async import BatchOptions, Item, MasterTextToVideo, StandardImageToVideo
from kling_async.batch.decisions import (
    Step,
    apply,
    content_key,
    next_step,
    plan_item,
    to_error,
    to_failure,
)
from kling_async.errors import (
    AnswerLostError,
    BalanceError,
    ContractError,
    InputError,
    JournalError,
    KlingError,
    TaskFailedError,
)
from kling_async.journal.base import Entry, Failure, ItemState, Planned, Transition
from kling_async.results import FailReason, Result, SavedFile, TaskRef

S = ItemState
START = datetime(2026, 1, 2, tzinfo=UTC)
REF = TaskRef("kling-2-1", "task_1")
FAILED = Failure("TaskFailedError", "no", "MODEL_UNAVAILABLE", FailReason.UNAVAILABLE, True)  # noqa: FBT003


def entry(
    state: ItemState,
    attempt: int = 1,
    failure: Failure | None = None,
    ref: TaskRef | None = None,
    result: Result | None = None,
) -> Entry:
    """Return an entry in this state."""
    return Entry("a", {}, state, attempt, START, ref, result, failure)


# ------------------------------------------------------------------------------------ the next step


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(
    ("state", "options", "step"),
    [
        (S.PLANNED, BatchOptions(), Step.SUBMIT),
        (S.SUBMITTED, BatchOptions(), Step.WAIT),
        (S.FINISHED, BatchOptions(), Step.REPORT),
        (S.FINISHED, BatchOptions(download_to="videos"), Step.SAVE),
        (S.SAVED, BatchOptions(download_to="videos"), Step.REPORT),
        (S.UNSURE, BatchOptions(resubmit_failed=9), Step.REPORT),
        (S.FAILED, BatchOptions(resubmit_unsure=True), Step.REPORT),
        (S.SUBMITTING, BatchOptions(resubmit_unsure=True), Step.REPORT),
    ],
)
def test_next_step(state: ItemState, options: BatchOptions, step: Step, fresh: bool) -> None:  # noqa: FBT001
    """The state of an item decides its next step, unless the options forbid it."""
    assert next_step(entry(state), options, fresh=fresh) is step


def test_unsure_ones_are_resubmitted_once() -> None:
    """If the caller allows it, an item is submitted again that was unsure before this run."""
    options = BatchOptions(resubmit_unsure=True)
    assert next_step(entry(S.UNSURE), options, fresh=False) is Step.RESUBMIT
    assert next_step(entry(S.UNSURE), options, fresh=True) is Step.REPORT


@pytest.mark.parametrize(
    ("attempt", "allowed", "reason", "again"),
    [
        (1, 0, FailReason.UNAVAILABLE, False),
        (1, 1, FailReason.UNAVAILABLE, True),
        (1, 1, FailReason.TIMEOUT, True),
        (2, 1, FailReason.UNAVAILABLE, False),
        (2, 2, FailReason.UNAVAILABLE, True),
        (1, 9, FailReason.CONTENT, False),
        (1, 9, FailReason.GENERATION, False),
        (1, 9, None, False),
    ],
)
def test_failed_ones(attempt: int, allowed: int, reason: FailReason | None, again: bool) -> None:  # noqa: FBT001
    """A failed item is submitted again as often as allowed, for a transient reason."""
    failed = entry(S.FAILED, attempt, Failure("TaskFailedError", "no", "X", reason))
    step = next_step(failed, BatchOptions(resubmit_failed=allowed), fresh=True)
    assert step is (Step.RESUBMIT if again else Step.REPORT)


def test_a_failed_item_without_a_failure() -> None:
    """A failed item without a failure is reported."""
    assert next_step(entry(S.FAILED), BatchOptions(resubmit_failed=1), fresh=False) is Step.REPORT


def test_a_refused_output() -> None:
    """An item whose video was refused is submitted again only if the caller names that reason."""
    failed = entry(
        S.FAILED, failure=Failure("TaskFailedError", "no", "", FailReason.CONTENT_OUTPUT)
    )
    assert next_step(failed, BatchOptions(resubmit_failed=9), fresh=False) is Step.REPORT
    allowed = BatchOptions(resubmit_failed=9, resubmit_reasons=[FailReason.CONTENT_OUTPUT])
    assert next_step(failed, allowed, fresh=False) is Step.RESUBMIT


# ------------------------------------------------------------------------------------- transitions


def test_a_transition_keeps_other_fields() -> None:
    """An entry after a move has what the move brought, and what was there of this attempt."""
    result = Result(REF, ("https://example.com/a.mp4",))
    file = SavedFile(result.result_urls[0], "a.mp4", 1, "0")
    later = START + timedelta(seconds=1)
    now = entry(S.SUBMITTING)
    now = apply(now, Transition("a", S.SUBMITTED, later, ref=REF))
    assert (now.state, now.ref, now.changed_at) == (S.SUBMITTED, REF, later)
    now = apply(now, Transition("a", S.FINISHED, later, result=result))
    assert (now.ref, now.result) == (REF, result)
    now = apply(now, Transition("a", S.SAVED, later, files=(file,)))
    assert (now.ref, now.result, now.files) == (REF, result, (file,))


def test_a_new_attempt_begins_with_nothing() -> None:
    """A new attempt has neither the reference nor the failure of the one before."""
    now = apply(entry(S.FAILED, 1, FAILED, REF), Transition("a", S.PLANNED, START))
    assert (now.attempt, now.ref, now.result, now.failure) == (2, None, None, None)


def test_an_illegal_transition() -> None:
    """An illegal transition is refused."""
    with pytest.raises(JournalError):
        apply(entry(S.FINISHED), Transition("a", S.PLANNED, START))


# -------------------------------------------------------------------------------- keys and failures


def test_what_is_planned() -> None:
    """The key of an input is its checksum; an item keeps its key."""
    fox = MasterTextToVideo("a fox")
    assert plan_item(fox) == plan_item(MasterTextToVideo("a fox"))
    assert plan_item(fox) == Planned(content_key(fox.to_dict()), fox.to_dict())
    assert plan_item(Item("fox", fox)) == Planned("fox", fox.to_dict())
    with pytest.raises(InputError, match="not an input"):
        plan_item("a fox")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not an input"):
        plan_item(Item("fox", "a fox"))  # type: ignore[arg-type]


def test_the_key_of_a_content() -> None:
    """The same content has the same key, whatever the order; another has another."""
    fox = MasterTextToVideo("a fox").to_dict()
    assert content_key(fox) == content_key(dict(reversed(fox.items())))
    inputs = [
        MasterTextToVideo.from_dict({"prompt": prompt, "duration": duration, "aspect_ratio": ratio})
        for prompt, duration, ratio in product(["a", "b"], [5, 10], ["1:1", "16:9"])
    ]
    others = [StandardImageToVideo("a", f"https://example.com/{n}.jpg") for n in range(2)]
    keys = {content_key(one.to_dict()) for one in (*inputs, *others)}
    assert len(keys) == 10


def test_the_key_of_a_content_stays() -> None:
    """The key of an input is the same in every version: a journal may be years old."""
    key = content_key({"model": "kling-2-1", "mode": "master-text-to-video", "prompt": "ä"})
    assert key == "a96782df6085de5157f753c93db35787"


@pytest.mark.parametrize("key", ["", "a\nb", "\ud800", 3, None])
def test_invalid_keys(key: str) -> None:
    """A key is printable text."""
    with pytest.raises(InputError, match="key"):
        Item(key, MasterTextToVideo("a fox"))


@pytest.mark.parametrize(
    "error",
    [
        TaskFailedError("no", fail_code="NSFW", reason=FailReason.CONTENT, ref=REF),
        AnswerLostError("lost", may_have_charged=True, ref=REF),
        BalanceError("too low", ref=REF, status=402),
        ContractError("odd", status=200, ref=REF),
    ],
    ids=type,
)
def test_an_error_survives_the_journal(error: KlingError) -> None:
    """The error of a failed item is the same in every run."""
    again = to_error(entry(S.FAILED, 1, to_failure(error), REF))
    assert type(again) is type(error)
    assert again is not None
    assert str(again) == str(error)
    assert (again.ref, again.may_have_charged) == (error.ref, error.may_have_charged)
    if isinstance(error, TaskFailedError):
        assert isinstance(again, TaskFailedError)
        assert (again.fail_code, again.reason) == (error.fail_code, error.reason)
    assert getattr(again, "status", None) == getattr(error, "status", None)


@pytest.mark.parametrize("kind", ["SomeErrorOfAnotherVersion", "Problem", "annotations"])
def test_an_error_of_an_unknown_class(kind: str) -> None:
    """An error of an unknown class is a KlingError."""
    unknown = to_error(entry(S.UNSURE, 1, Failure(kind, "what", may_have_charged=True)))
    assert type(unknown) is KlingError
    assert str(unknown) == "what"
    assert unknown.may_have_charged


def test_no_error() -> None:
    """An item that did not fail has no error, even if an earlier refusal is recorded."""
    refused = Failure("ServerError", "busy")
    assert to_error(entry(S.PLANNED, 1, refused)) is None
    assert to_error(entry(S.FAILED)) is None
