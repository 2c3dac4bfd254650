from __future__ import annotations

import pytest

from kling_async.policy.polling import Polling
from kling_async.policy.scaled_polling import scaled_polling


@pytest.mark.parametrize(
    ("first", "polling"),
    [
        (6.0, Polling(first=6.0, shortest=0.1, longest=1.5, safety_net=6.0)),
        (60.0, Polling(first=60.0)),
        (90.0, Polling(first=90.0)),
        (0.0, Polling(first=0.0, shortest=0.001, longest=0.015, safety_net=0.06)),
    ],
)
def test_all_waits_are_scaled(first: float, polling: Polling) -> None:
    """Waits are as much shorter than the default ones as the first; none is longer, none is 0."""
    assert scaled_polling(first) == polling
