from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kling_async.batch.spend_guard import Budget


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
