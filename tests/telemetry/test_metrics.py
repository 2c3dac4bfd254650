from __future__ import annotations

import pytest

from kling_async.telemetry.metrics import RequestBudget
from tests.telemetry.events import answered
from tests.telemetry.sdk import Sdk


def test_the_share_of_the_budget() -> None:
    """The share of the limit is that of the last 60 s."""
    budget = RequestBudget()
    assert budget.share(0.0) == 0.0
    for moment in (100.2, 100.9, 101.1, 159.5):
        budget.count(moment, 10)
    assert budget.share(159.9) == 0.4
    assert budget.share(160.5) == 0.3
    assert budget.share(160.9) == 0.2
    assert budget.share(300.0) == 0.0
    budget.count(300.0, 10)
    assert budget.share(300.0) == 0.1


def test_requests() -> None:
    """Requests are measured by their attributes, and count towards the budget."""
    sdk = Sdk()
    sdk.hook(answered("balance"))
    sdk.hook(answered("balance"))
    ((attributes, seconds),) = sdk.points("http.client.request.duration")
    assert seconds == 1.0
    assert attributes["url.template"] == "/apikeys/current-balance"
    assert sdk.total("kling.requests.budget_used") == pytest.approx(2 / 60)
