from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_async import BatchOptions, KlingClient
from kling_async.batch.spend_guard import SpendBudget, SpendGuard
from kling_async.errors import AuthenticationError, RefusedError
from kling_async.testing import ScriptedTransport
from kling_async.testing.transport import answer


def test_no_submit_before_the_balance_is_known() -> None:
    """Before the balance was read, no submit is allowed."""
    assert SpendBudget(5.0).allowed_submits == 0


def test_the_first_task_shows_the_price() -> None:
    """Until the balance has dropped, tasks are submitted one by one."""
    budget = SpendBudget(5.0).updated(100.0, 0)
    assert (budget.allowed_submits, budget.price) == (1, 0.0)
    assert budget.updated(98.8, 1).price == 100.0 - 98.8


def test_far_from_the_minimum() -> None:
    """A high balance is read after every 50 submits."""
    assert SpendBudget(5.0, 1000.0, 1.2).allowed_submits == 50


def test_a_submit_that_could_cross() -> None:
    """No submit is allowed that could bring the balance below the minimum."""
    assert SpendBudget(95.0, 96.2, 1.2).allowed_submits == 1
    assert SpendBudget(95.0, 96.1, 1.2).allowed_submits == 0


def test_a_balance_that_was_topped_up() -> None:
    """A balance that has risen does not make tasks cheaper."""
    assert SpendBudget(5.0, 10.0, 1.2).updated(110.0, 4).price == 1.2


@given(
    st.floats(0, 100),
    st.floats(0, 1000),
    st.lists(st.floats(0.05, 5), min_size=1, max_size=300),
)
def test_tasks_that_get_cheaper(minimum: float, balance: float, prices: list[float]) -> None:
    """If the most expensive task comes first, the balance never falls below the minimum."""
    prices.sort(reverse=True)
    start, budget, submits = balance, SpendBudget(minimum).updated(balance, 0), 0
    left = list(prices)
    while left and (allowed := budget.allowed_submits):
        submits = min(allowed, len(left))
        balance -= sum(left[:submits])
        del left[:submits]
        budget = budget.updated(balance, submits)
    # The first task is submitted before anything is known of its price.
    assert balance >= min(minimum, start - prices[0]) - 1e-6


def guard(max_rejections: int | None = None) -> SpendGuard:
    """Return the guard of a run that has begun."""
    client = KlingClient("a-key", transport=ScriptedTransport(lambda _: answer(1)))
    return SpendGuard(client, BatchOptions(max_rejections=max_rejections))


async def test_a_refusal_of_one_model() -> None:
    """A refusal that names the model, or speaks of one, stops that model only."""
    for message in ("no permission for the requested model", "kling-2-6 is not enabled"):
        one = guard()
        error = AuthenticationError("401", message=message)
        assert one.refuse(error, "kling-2-6")
        with pytest.raises(AuthenticationError) as caught:
            await one.admit_submit("kling-2-6")
        assert caught.value is not error
        assert await one.admit_submit("kling-2-1")
        assert one.stopped is None


async def test_a_refusal_of_the_account() -> None:
    """Any other refusal of the account stops the run; the first one is its error."""
    one = guard()
    error = AuthenticationError("the key is wrong", message="Invalid or missing API key")
    assert not one.refuse(error, "kling-2-1")
    assert not one.refuse(AuthenticationError("401"), "kling-2-1")
    assert not await one.admit_submit("kling-2-1")
    assert one.stopped == "the key is wrong"
    assert one.error is error


async def test_rejections_in_a_row() -> None:
    """The run stops after this number of submits in a row without a task."""
    one = guard(max_rejections=2)
    for _ in range(3):
        one.count_rejection(RefusedError("no"))
        assert await one.admit_submit("kling-2-1")
        one.submit_ended(started=True)
    one.count_rejection(RefusedError("no"))
    one.count_rejection(RefusedError("no, again"))
    assert not await one.admit_submit("kling-2-1")
    assert one.stopped is not None
    assert "no, again" in one.stopped
    assert one.error is None  # nothing is raised: items that were not submitted stay planned


def test_rejections_may_be_many() -> None:
    """Without a number, rejections stop nothing."""
    one = guard()
    for _ in range(1000):
        one.count_rejection(RefusedError("no"))
    assert one.stopped is None
