"""How fast all processes together may send requests. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from kling_async.limits.base import Limits

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
