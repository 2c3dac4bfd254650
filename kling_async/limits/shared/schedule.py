"""How fast shared limits let requests go: the pace of all processes together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from kling_async.limits.base import Limits

# Seconds after which a turn that was not used is given up.
GRANT_LIFETIME = 0.4

# Seconds of the whole limit that one reservation may be for.
_SPAN = 0.1

# A turn is used only if the engine has answered within so many seconds before it is due, and
# as the same one that gave it: an engine that forgets may give turns again after that time.
ANSWER_LIFETIME = 0.75


@frozen
class RequestSchedule:
    """How fast all processes together may send requests.

    Turns lie ``interval`` seconds apart, as on a ruler; each belongs to one request. The pace
    alone does not keep the limit, since requests may arrive late and all at once: that is done
    by the :class:`~kling_async.limits.shared.window.SharedWindow`.

    Attributes:
        requests_per_minute: The limit.
        interval: Seconds between turns.
        burst: Seconds back in time from which turns that were not used are still given.
        batch: Turns that one reservation may be for.
        recovery_delay: Seconds before the first grant of a backend that does not know what was
            reserved before: one that is new, was restarted, or took over from another.
    """

    requests_per_minute: int
    interval: float
    burst: float
    batch: int
    recovery_delay: float

    @classmethod
    def for_limits(cls, limits: Limits, recovery_delay: float | None = None) -> RequestSchedule:
        """Return the pace of these limits.

        Args:
            limits: What the account may do.
            recovery_delay: Seconds; else so many that no turn given before is used after them.
        """
        rpm = limits.requests_per_minute
        interval = 60.0 / rpm
        # Turns are reserved before they are due, so that late timers cost no throughput: a burst
        # is only for processes that come after a rest.
        burst = max(1, min(20, rpm // 500))
        batch = max(1, int(_SPAN / interval))
        if recovery_delay is None:
            recovery_delay = ANSWER_LIFETIME + GRANT_LIFETIME + interval
        return cls(rpm, interval, (burst - 1) * interval, batch, recovery_delay)
