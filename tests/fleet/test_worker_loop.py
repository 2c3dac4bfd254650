from __future__ import annotations

import pytest

from kling_async import (
    AuthenticationError,
    ConnectError,
    DownloadError,
    MasterTextToVideo,
    Outcome,
    RateLimitError,
    Result,
    ResultExpiredError,
    TaskFailedError,
    TaskRef,
    TaskTimeoutError,
)
from kling_async.fleet.worker_loop import has_ended

FOX = MasterTextToVideo("a fox in fresh snow")
REF = TaskRef("kling-2-1", "task_1")
RESULT = Result(REF, ("https://example.com/a.mp4",))


@pytest.mark.parametrize(
    ("outcome", "ended"),
    [
        (Outcome(0, FOX, REF, RESULT), True),
        (Outcome(0, FOX, REF, error=TaskFailedError("no", ref=REF)), True),
        (Outcome(0, FOX, REF, error=TaskTimeoutError("too long", ref=REF)), False),
        (Outcome(0, FOX, REF, error=ConnectError("refused")), False),
        (Outcome(0, FOX, error=ConnectError("refused")), False),
        (Outcome(0, FOX, error=RateLimitError("slowly", status=429, retryable=True)), False),
        (Outcome(0, FOX, error=RateLimitError("no", may_have_charged=True, retryable=True)), True),
        (Outcome(0, FOX, REF, error=AuthenticationError("no", status=401, retryable=False)), False),
        (Outcome(0, FOX, REF, RESULT, DownloadError("it broke off")), False),
        (Outcome(0, FOX, REF, RESULT, DownloadError("no room", retryable=False)), False),
        (Outcome(0, FOX, REF, RESULT, ResultExpiredError("gone", retryable=False)), True),
    ],
)
def test_what_has_ended(outcome: Outcome, *, ended: bool) -> None:
    """An item has ended unless another try, for free, may have another outcome."""
    assert has_ended(outcome) is ended
