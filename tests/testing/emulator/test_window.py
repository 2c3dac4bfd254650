from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kling_async.testing.emulator.window import WINDOW, SlidingWindow


@given(
    st.integers(1, 5),
    st.lists(st.floats(0, 40, allow_nan=False), max_size=60),
)
def test_no_span_holds_more_than_the_limit(limit: int, gaps: list[float]) -> None:
    """Whatever the arrivals, no 60 seconds hold more admitted requests than the limit."""
    window = SlidingWindow(limit)
    now, admitted = 0.0, []
    for gap in gaps:
        now += gap
        if not window.admit(now):
            admitted.append(now)
    for first in admitted:
        assert sum(0 <= at - first < WINDOW for at in admitted) <= limit


def test_refused_requests_do_not_count() -> None:
    """Asking in vain does not put off the moment at which one is admitted again."""
    window = SlidingWindow(1)
    assert window.admit(0.0) == 0.0
    assert all(window.admit(float(second)) == 60.0 - second for second in range(1, 60))
    assert window.admit(60.0) == 0.0
