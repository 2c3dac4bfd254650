from __future__ import annotations

import pytest

from kling_async.limits.base import Limits
from kling_async.limits.shared.schedule import ANSWER_LIFETIME, GRANT_LIFETIME, RequestSchedule


@pytest.mark.parametrize("requests_per_minute", [1, 10, 99, 100, 499, 1_000, 10_000, 100_000])
def test_the_pace_of_a_limit(requests_per_minute: int) -> None:
    """A minute has as many grants as the limit; a burst is short, and so is a reservation."""
    pace = RequestSchedule.for_limits(Limits(requests_per_minute))
    assert pace.interval * requests_per_minute == pytest.approx(60)
    assert 0 <= pace.burst <= 0.121
    assert 1 <= pace.batch <= max(1, 0.1 / pace.interval)
    assert pace.settle == pytest.approx(ANSWER_LIFETIME + GRANT_LIFETIME + pace.interval)
    assert RequestSchedule.for_limits(Limits(requests_per_minute), 3.0).settle == 3.0
