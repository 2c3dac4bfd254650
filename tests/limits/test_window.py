from __future__ import annotations

import heapq
from bisect import bisect_left
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kling_async.limits.window import RequestWindow

if TYPE_CHECKING:
    from collections.abc import Sequence


def fullest_minute(moments: Sequence[float]) -> int:
    """Count the moments in the fullest closed window of 60 s."""
    moments = sorted(moments)
    # A closed window that ends at a moment is as full as any. The slack is the sum's rounding.
    return max(
        (i + 1 - bisect_left(moments, at - 60.0 - 1e-9) for i, at in enumerate(moments)), default=0
    )


# Of each request: seconds since the one before it wanted to be sent, seconds until the service
# counts it, and from then until its answer.
SENDS = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(0, 5), st.sampled_from([30.0, 60.0, 61.0])),
        st.one_of(st.just(0.0), st.floats(0, 3), st.sampled_from([30.0, 59.9, 60.0, 200.0])),
        st.one_of(st.just(0.0), st.floats(0, 3), st.sampled_from([30.0, 90.0])),
    ),
    max_size=80,
)


@pytest.mark.repeating
@given(limit=st.integers(1, 12), sends=SENDS)
@settings(max_examples=300, deadline=None)
def test_no_minute_at_the_service_is_over_the_limit(
    limit: int, sends: list[tuple[float, float, float]]
) -> None:
    """Whenever requests are sent, counted and answered, no 60 s at the service hold too many."""
    window, now, counted = RequestWindow(limit), 0.0, []
    answers: list[float] = []

    def pass_time(until: float) -> None:
        while answers and answers[0] <= until:
            window.answer(heapq.heappop(answers))

    for gap, travel, work in sends:
        now += gap
        pass_time(now)
        while not window.grant(now):
            # As a limiter would: wait until the moment named, or for an answer.
            moment = window.next_grant()
            assert moment is None or moment > now
            now = answers[0] if moment is None else moment
            pass_time(now)
        counted.append(now + travel)
        heapq.heappush(answers, now + travel + work)
    assert fullest_minute(counted) <= limit


@pytest.mark.parametrize("limit", [1, 3, 10_000])
def test_the_limit_is_granted_at_once(limit: int) -> None:
    """An empty window grants as many as the limit, and no more while they are under way."""
    window = RequestWindow(limit)
    assert [window.grant(0.0) for _ in range(limit + 1)] == [True] * limit + [False]
    assert not window.grant(1e9)
    assert window.next_grant() is None


def test_when_the_next_one_can_be_granted() -> None:
    """The next grant is 60 s after the oldest answer, and a margin for clocks that differ."""
    window = RequestWindow(2)
    window.grant(0.0)
    window.grant(1.0)
    window.answer(5.0)
    assert not window.grant(6.0)
    moment = window.next_grant()
    assert moment is not None
    assert 65.0 < moment < 65.1
    window.answer(7.0)
    assert window.next_grant() == moment
    assert not window.grant(moment - 1e-6)
    assert window.grant(moment)
    assert not window.grant(moment)


def test_the_memory_is_that_of_a_minute() -> None:
    """What was answered more than a minute ago is forgotten, also if the limit is never met."""
    window = RequestWindow(10**9)
    for second in range(1_000):
        window.grant(float(second))
        window.answer(float(second))
    assert len(window._expiries) == 61  # noqa: SLF001 - its size is what is tested


@pytest.mark.parametrize("travel", [0.05, 0.35, 0.6])
def test_most_of_the_limit_can_be_used(travel: float) -> None:
    """With round trips of up to 0.6 s a crowd uses 99 % of the limit, or more."""
    window, now, answers, sent = RequestWindow(100), 0.0, [], 0
    while now < 6_000:
        if window.grant(now):
            sent += 1
            answers.append(now + travel)
            continue
        moment = window.next_grant()
        if answers and (moment is None or answers[0] < moment):
            now = answers.pop(0)
            window.answer(now)
        else:
            assert moment is not None
            now = moment
    assert sent >= 0.99 * 100 * 100 - 100


def test_another_clock() -> None:
    """On another clock the same requests count; those under way count as answered."""
    window = RequestWindow(3)
    for _ in range(2):
        window.grant(100.0)
    window.answer(110.0)
    rebased = window.rebased(20.0, -95.0)  # at 115 of the first
    assert rebased.grant(20.0)
    assert not rebased.grant(20.0)
    window.answer(999.0)  # it does not change the new window
    assert not rebased.grant(74.0)
    assert rebased.grant(75.1)
    assert not rebased.grant(79.9)
    assert rebased.grant(80.1)
    assert not rebased.grant(80.1)
