"""The calls of one transaction: each has its own result or error."""

from __future__ import annotations

import pytest

from kling_async.errors import JournalError
from kling_async.journal.base import Transition
from kling_async.journal.calls import (
    CALLS_PER_PAUSE,
    Call,
    ClaimCall,
    PlanCall,
    RecordCall,
    ReleaseCall,
    apply_calls,
)
from tests.journal.examples import NOW, S, planned


@pytest.mark.parametrize(
    "call",
    [
        PlanCall(planned("a", "b")),
        RecordCall([Transition(key, S.SUBMITTING, NOW) for key in "ab"]),
        ReleaseCall(["a", "b"], ended=True),
    ],
)
def test_keys(call: Call) -> None:
    """A call has the keys of its items, in their order."""
    assert list(call.keys) == ["a", "b"]


def test_no_keys() -> None:
    """A claim may be without items."""
    assert list(ClaimCall([]).keys) == []


def test_results_in_order() -> None:
    """Each of many calls gets its result, or the error that it raises."""

    def apply(call: Call) -> int:
        (key,) = call.keys
        if key == "7":
            raise JournalError("there is no 7")
        return int(key)

    calls = [ReleaseCall([str(number)], ended=False) for number in range(2 * CALLS_PER_PAUSE)]
    answers = apply_calls(calls, apply, fatal=(OSError,))
    assert str(answers.pop(7)) == "there is no 7"
    assert answers == [*range(7), *range(8, 2 * CALLS_PER_PAUSE)]


def test_fatal_errors() -> None:
    """An error that concerns all calls is raised."""

    def apply(call: Call) -> int:
        raise OSError(str(call))

    with pytest.raises(OSError, match="PlanCall"):
        apply_calls([PlanCall([])], apply, fatal=(OSError,))
