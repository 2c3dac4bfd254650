from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_async import BatchOptions, KlingClient
from kling_async.batch.spend_guard import Budget, SpendGuard
from kling_async.errors import AuthenticationError, RefusedError
from kling_async.journal.base import ItemState, Summary
from kling_async.testing import ScriptedTransport
from kling_async.testing.transport import answer


def test_nothing_is_allowed_before_the_balance_is_known() -> None:
    """Before the first question no submit is allowed."""
    assert Budget(5.0).allowed == 0


def test_the_first_task_shows_the_price() -> None:
    """Until a drop of the balance was seen, tasks are submitted one by one."""
    asked = Budget(5.0).asked(100.0, 0)
    assert (asked.allowed, asked.step) == (1, 0.0)
    assert asked.asked(98.8, 1).step == 100.0 - 98.8


def test_far_from_the_least_many_are_allowed() -> None:
    """With plenty of balance, it is asked for after every fifty submits."""
    assert Budget(5.0, 1000.0, 1.2).allowed == 50


def test_a_submit_that_could_cross() -> None:
    """No submit is allowed that could bring the balance below the least, by the dearest so far."""
    assert Budget(95.0, 96.2, 1.2).allowed == 1
    assert Budget(95.0, 96.1, 1.2).allowed == 0


def test_a_balance_that_was_topped_up() -> None:
    """A balance that has risen meanwhile does not make tasks cheaper."""
    assert Budget(5.0, 10.0, 1.2).asked(110.0, 4).step == 1.2


@given(
    st.floats(0, 100),
    st.floats(0, 1000),
    st.lists(st.floats(0.05, 5), min_size=1, max_size=300),
)
def test_tasks_that_get_cheaper(least: float, balance: float, prices: list[float]) -> None:
    """If the dearest task comes first, the balance never falls below the least."""
    prices.sort(reverse=True)
    start, budget, submits = balance, Budget(least).asked(balance, 0), 0
    left = list(prices)
    while left and (allowed := budget.allowed):
        submits = min(allowed, len(left))
        balance -= sum(left[:submits])
        del left[:submits]
        budget = budget.asked(balance, submits)
    # The first task is submitted before anything is known of its price.
    assert balance >= min(least, start - prices[0]) - 1e-6


def guard(max_rejections: int | None = None) -> SpendGuard:
    """Make a guard that has begun its run."""
    client = KlingClient("a-key", transport=ScriptedTransport(lambda _: answer(1)))
    made = SpendGuard(client, BatchOptions(max_rejections=max_rejections))
    made.open(Summary(dict.fromkeys(ItemState, 0), 0))
    return made


def test_a_refusal_of_one_model() -> None:
    """A refusal that names the model, or speaks of one, stops that model only."""
    for message in ("no permission for the requested model", "kling-2-6 is not enabled"):
        one = guard()
        error = AuthenticationError("401", message=message)
        one.refused(error, "kling-2-6")
        assert one.refused_model("kling-2-6") is error
        assert one.refused_model("kling-2-1") is None
        assert one.stopped is None


def test_a_refusal_of_the_account() -> None:
    """Any other refusal of the account stops the run, and is raised at its end."""
    one = guard()
    error = AuthenticationError("the key is wrong", message="Invalid or missing API key")
    one.refused(error, "kling-2-1")
    assert one.stopped == "the key is wrong"
    with pytest.raises(AuthenticationError) as caught:
        one.close()
    assert caught.value is error


async def test_rejections_in_a_row() -> None:
    """So many submits in a row that led to no task stop the run; one that did counts anew."""
    one = guard(max_rejections=2)
    for _ in range(3):
        one.rejected(RefusedError("no"))
        assert await one.allows()
        one.answered(started=True)
    one.rejected(RefusedError("no"))
    one.rejected(RefusedError("no, again"))
    assert not await one.allows()
    assert one.stopped is not None
    assert "no, again" in one.stopped
    one.close()  # nothing is raised: what was not submitted stays planned


def test_rejections_may_be_many() -> None:
    """Without a number, rejections stop nothing."""
    one = guard()
    for _ in range(1000):
        one.rejected(RefusedError("no"))
    assert one.stopped is None
