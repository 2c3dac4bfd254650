from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kling_async.policy.callback_health import CallbackHealth

# No property depends on how fast the machine is, or on luck.
FREELY = settings(deadline=None, derandomize=True)


def test_at_first() -> None:
    """At first, callbacks are presumed to arrive."""
    assert not CallbackHealth().stopped


def test_three_ends_without() -> None:
    """After three ends without a callback, callbacks have stopped."""
    known = CallbackHealth(100.0)
    for ended_at, stopped in ((101.0, False), (150.0, False), (101.0, True), (180.0, True)):
        known = known.missed_end(ended_at)
        assert known.stopped is stopped


def test_one_that_comes() -> None:
    """A single callback proves that they arrive."""
    known = CallbackHealth()
    for _ in range(100):
        known = known.missed_end(5.0)
    assert known.stopped
    known = CallbackHealth(200.0)
    assert not known.stopped
    assert not known.missed_end(201.0).missed_end(202.0).stopped


@pytest.mark.parametrize("ended_at", [99.9, 100.0])
def test_ends_before_the_latest_callback(ended_at: float) -> None:
    """An end before the last callback does not count."""
    known = CallbackHealth(100.0)
    for _ in range(1000):
        known = known.missed_end(ended_at)
    assert not known.stopped


def test_a_burst_with_losses() -> None:
    """If one in five of a thousand callbacks is lost, they have not stopped."""
    dice = Random(1)  # noqa: S311 - losses, not keys
    ends = sorted(dice.uniform(60, 90) for _ in range(1000))
    lost = [end for end in ends[:-1] if dice.random() < 0.2]
    known = CallbackHealth()
    for end in ends:
        if end not in lost:
            known = CallbackHealth(end + 0.1)
    for end in lost:  # they are found later, all of them together
        known = known.missed_end(end)
    assert len(lost) > 150
    assert not known.stopped


@FREELY
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 10)), max_size=50))
def test_stopped_means_three_in_a_row(history: list[tuple[bool, float]]) -> None:
    """Callbacks have stopped if three ends after the last one were missed."""
    known, now, last, missed = CallbackHealth(), 0.0, float("-inf"), 0
    for came, ago in history:
        now += 1.0
        if came:
            known, last, missed = CallbackHealth(now), now, 0
        else:
            known = known.missed_end(now - ago)
            missed += now - ago > last
        assert known.stopped is (missed >= 3)
