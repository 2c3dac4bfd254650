"""How fast all processes together may send requests, and what one has reserved of it. Pure."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kling_async.limits.base import Limits, Permit
    from kling_async.limits.shared.window import Ledger

# Seconds after which a grant that was not used is given up.
GRANT_LIFETIME = 0.4

# A grant is used only if the backend has answered within so many seconds before it is due, and
# has lost no state since: a backend that forgets may give the same grants again after that time.
ANSWER_LIFETIME = 0.75

# Seconds of the whole limit that one reservation may be for.
_BATCH_SECONDS = 0.1


@frozen
class RequestSchedule:
    """The rate at which all processes together may send requests.

    Grants lie ``interval`` seconds apart; each belongs to one request. This alone does not keep
    the limit, since requests may arrive late and all at once: that is done by the
    :class:`~kling_async.limits.shared.window.SharedWindow`.

    Attributes:
        requests_per_minute: The limit.
        interval: Seconds between grants.
        burst: Seconds back in time from which unused grants are still given.
        batch: The most grants that one reservation may be for.
        settle: Seconds before the first grant of a backend that does not know what was
            reserved before: one that is new, was restarted, or took over from another.
    """

    requests_per_minute: int
    interval: float
    burst: float
    batch: int
    settle: float

    @classmethod
    def for_limits(cls, limits: Limits, settle: float | None = None) -> RequestSchedule:
        """Return the schedule for these limits.

        Args:
            limits: What the account may do.
            settle: Seconds. None: as long as a grant given before may still be used.
        """
        rpm = limits.requests_per_minute
        interval = 60.0 / rpm
        # Grants are reserved before they are due, so that late timers cost no throughput: the
        # burst is only for processes that were idle.
        burst = max(1, min(20, rpm // 500))
        batch = max(1, int(_BATCH_SECONDS / interval))
        if settle is None:
            settle = ANSWER_LIFETIME + GRANT_LIFETIME + interval
        return cls(rpm, interval, (burst - 1) * interval, batch, settle)


class Grant(NamedTuple):
    """The right to send one request."""

    due: float
    until: float  # afterwards it does not fit the schedule any more
    local: Permit | None = None  # if it is of the process's own share


class GrantBuffer:
    """The grants that were reserved and not used yet. They count as in flight."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.grants: deque[Grant] = deque()
        self.usable_until: float = -inf  # a grant that is due later has to be confirmed first

    def add(self, delays: Iterable[float], sent: float, now: float, resumed_at: float) -> None:
        """Add the grants of a reservation.

        The backend's time was between its call and its answer. A grant is due after the answer and
        ends after the call, so that it is never used too early or too late.

        Args:
            delays: Seconds until each grant.
            sent: When the backend was called.
            now: When it answered.
            resumed_at: The end of the pause. Grants that are due in it are dropped.
        """
        self.usable_until = sent + ANSWER_LIFETIME
        for delay in delays:
            left = max(0.0, delay)
            grant = Grant(now + left, sent + left + GRANT_LIFETIME)
            self.ledger.in_flight += 1
            if grant.until >= grant.due >= resumed_at:
                self.grants.append(grant)
            else:
                self.drop(grant)

    def pop(self, now: float) -> Grant | None:
        """Return the first grant if it may be used now."""
        self.drop_late(now)
        if self.grants and self.grants[0].due <= min(now, self.usable_until):
            return self.grants.popleft()
        return None

    def drop(self, grant: Grant) -> None:
        """Note that a grant will not be used."""
        self.ledger.in_flight -= 1
        if grant.local is not None:
            grant.local.answered()

    def drop_late(self, now: float) -> None:
        """Drop the grants that were not used in time."""
        while self.grants and self.grants[0].until < now:
            self.drop(self.grants.popleft())

    def drop_before(self, time: float) -> None:
        """Drop the grants that are due before a time."""
        grants, self.grants = self.grants, deque()
        for grant in grants:
            if grant.due >= time:
                self.grants.append(grant)
            else:
                self.drop(grant)

    def clear(self) -> None:
        """Drop all grants."""
        self.drop_before(inf)
