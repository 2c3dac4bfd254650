"""The calls of one transaction: each has its own result or error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kling_async.errors import JournalError
from kling_async.journal.base import Entry, ItemState, Planned
from kling_async.journal.calls import CALLS_PER_PAUSE, apply_calls
from tests.journal.examples import NOW, plan_call

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kling_async.journal.base import Transition


class Refusing:
    """Plans every item but one."""

    def plan(self, items: Sequence[Planned]) -> list[Entry]:
        if "7" in {item.key for item in items}:
            raise JournalError("there is no 7")
        return [Entry(item.key, item.input, ItemState.PLANNED, 1, NOW) for item in items]

    def record(self, transitions: Sequence[Transition]) -> None:
        raise NotImplementedError


def test_results_in_order() -> None:
    """Each of many calls gets its result, or the error that it raises."""
    keys = [str(number) for number in range(2 * CALLS_PER_PAUSE)]
    calls = [plan_call(Planned(key, {})) for key in keys]
    answers = apply_calls(calls, Refusing(), fatal=(OSError,))
    assert str(answers.pop(7)) == "there is no 7"
    del keys[7]
    assert answers == [[Entry(key, {}, ItemState.PLANNED, 1, NOW)] for key in keys]


def test_fatal_errors() -> None:
    """An error that concerns all calls is raised."""
    with pytest.raises(JournalError, match="no 7"):
        apply_calls([plan_call(Planned("7", {}))], Refusing(), fatal=(JournalError,))
