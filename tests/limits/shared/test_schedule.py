from __future__ import annotations

import pytest

from kling_async.limits.base import Limits
from kling_async.limits.shared.schedule import (
    ANSWER_LIFETIME,
    GRANT_LIFETIME,
    Grant,
    GrantBuffer,
    RequestSchedule,
)
from kling_async.limits.shared.window import Ledger


@pytest.mark.parametrize("requests_per_minute", [1, 10, 99, 100, 499, 1_000, 10_000, 100_000])
def test_the_pace_of_a_limit(requests_per_minute: int) -> None:
    """A minute has as many grants as the limit; a burst is short, and so is a reservation."""
    pace = RequestSchedule.for_limits(Limits(requests_per_minute))
    assert pace.interval * requests_per_minute == pytest.approx(60)
    assert 0 <= pace.burst <= 0.121
    assert 1 <= pace.batch <= max(1, 0.1 / pace.interval)
    assert pace.settle == pytest.approx(ANSWER_LIFETIME + GRANT_LIFETIME + pace.interval)
    assert RequestSchedule.for_limits(Limits(requests_per_minute), 3.0).settle == 3.0


class LocalPermit:
    """A permit of a process's own share."""

    granted_at = 0.0

    def __init__(self) -> None:
        self.answers = 0

    def answered(self) -> None:
        self.answers += 1


def reserved(*delays: float, now: float = 10.0, resumed_at: float = 0.0) -> GrantBuffer:
    """Return a buffer with grants that were reserved in a round trip of 0.1 s."""
    buffer = GrantBuffer(Ledger("a"))
    buffer.add(delays, now - 0.1, now, resumed_at)
    return buffer


def test_grants_are_used_when_they_are_due() -> None:
    """A grant is due so long after the answer, and unused ones count as in flight."""
    buffer = reserved(-0.1, 0.2)
    assert buffer.ledger.in_flight == 2
    first = buffer.pop(10.0)
    assert first is not None
    assert first.due == 10.0
    assert buffer.pop(10.19) is None
    second = buffer.pop(10.2)
    assert second is not None
    assert second.until == pytest.approx(10.1 + GRANT_LIFETIME)
    assert buffer.pop(10.2) is None
    assert buffer.ledger.in_flight == 2  # both requests are being sent


def test_grants_are_dropped_when_they_are_late() -> None:
    """A grant that was not used in time is dropped; the next one is used."""
    buffer = reserved(0.0, 0.3)
    grant = buffer.pop(10.35)
    assert grant is not None
    assert grant.due == 10.3
    assert buffer.ledger.in_flight == 1


def test_a_slow_answer() -> None:
    """The grants of an answer that was longer under way than they last are dropped."""
    buffer = GrantBuffer(Ledger("a"))
    buffer.add((0.0, 0.1), 9.5, 10.0, 0.0)
    assert not buffer.grants
    assert buffer.ledger.in_flight == 0


def test_grants_that_have_to_be_confirmed() -> None:
    """A grant that is due long after the call is not used before the backend answers again."""
    buffer = reserved(ANSWER_LIFETIME)
    assert buffer.pop(10.0 + ANSWER_LIFETIME) is None
    buffer.add((), 10.6, 10.7, 0.0)
    assert buffer.pop(10.0 + ANSWER_LIFETIME) is not None


def test_grants_in_a_pause() -> None:
    """Grants that are due in a pause are dropped, whether it is known before or after them."""
    buffer = reserved(0.0, 0.1, 0.2, resumed_at=10.1)
    assert [grant.due for grant in buffer.grants] == [10.1, 10.2]
    buffer.drop_before(10.2)
    assert [grant.due for grant in buffer.grants] == [10.2]
    assert buffer.ledger.in_flight == 1


def test_clearing_returns_local_permits() -> None:
    """Grants of the process's own share are returned to it when they are dropped."""
    buffer, permit = reserved(0.0), LocalPermit()
    buffer.grants.append(Grant(10.0, 10.4, permit))
    buffer.ledger.in_flight += 1
    buffer.clear()
    assert not buffer.grants
    assert buffer.ledger.in_flight == 0
    assert permit.answers == 1
