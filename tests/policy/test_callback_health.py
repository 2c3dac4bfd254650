from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kling_async.policy.callback_health import Arrivals

# No property depends on how fast the machine is, or on luck.
FREELY = settings(deadline=None, derandomize=True)


def test_at_first() -> None:
    """Callbacks are presumed to come until the contrary shows."""
    assert not Arrivals().stopped


def test_three_ends_without() -> None:
    """After three ends without a callback, none of them before the latest, they have stopped."""
    known = Arrivals().came(100.0)
    for ended_at, stopped in ((101.0, False), (150.0, False), (101.0, True), (180.0, True)):
        known = known.without(ended_at)
        assert known.stopped is stopped


def test_one_that_comes() -> None:
    """One callback, whichever it is, is the proof that they come."""
    known = Arrivals()
    for _ in range(100):
        known = known.without(5.0)
    assert known.stopped
    known = known.came(200.0)
    assert not known.stopped
    assert not known.without(201.0).without(202.0).stopped


@pytest.mark.parametrize("ended_at", [99.9, 100.0])
def test_ends_before_the_latest_callback(ended_at: float) -> None:
    """Ends without a callback count only if none has come since: else it was that one alone."""
    known = Arrivals().came(100.0)
    for _ in range(1000):
        known = known.without(ended_at)
    assert not known.stopped


def test_a_burst_with_losses() -> None:
    """Where one in five is lost of a thousand that end together, they have not stopped."""
    dice = Random(1)  # noqa: S311 - losses, not keys
    ends = sorted(dice.uniform(60, 90) for _ in range(1000))
    lost = [end for end in ends[:-1] if dice.random() < 0.2]
    known = Arrivals()
    for end in ends:
        if end not in lost:
            known = known.came(end + 0.1)
    for end in lost:  # they are found later, all of them together
        known = known.without(end)
    assert len(lost) > 150
    assert not known.stopped


@FREELY
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 10)), max_size=50))
def test_stopped_means_three_in_a_row(history: list[tuple[bool, float]]) -> None:
    """They have stopped if and only if three ends came to light since the latest, after it."""
    known, now, last, missed = Arrivals(), 0.0, float("-inf"), 0
    for came, ago in history:
        now += 1.0
        if came:
            known, last, missed = known.came(now), now, 0
        else:
            known = known.without(now - ago)
            missed += now - ago > last
        assert known.stopped is (missed >= 3)
