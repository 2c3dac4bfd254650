"""How fast shared limits let requests go, so that no minute is over the limit anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from kling_async.limits import Limits

__all__ = ["KEPT", "SURE", "Pace"]

# The limit counts requests in 60 s as the service sees them. They may travel at speeds that
# differ by half a second, as in a LocalLimiter, and be sent late by as much as turns are kept.
KEPT = 0.4
_WINDOW = 60.5 + KEPT

# A sum of whole requests below N + 1 is at most N: small limits lose nothing to rounding.
_ROUNDING = 0.99

# Seconds of the whole limit that one reservation may be for.
_SPAN = 0.1

# A turn is used only if the engine has answered within so many seconds before it is due, and
# as the same one that gave it: an engine that forgets may then give turns anew after that time.
SURE = 0.75


@frozen
class Pace:
    """How the request limit is kept by all processes together.

    Turns lie ``interval`` seconds apart, as on a ruler; each belongs to one request. A turn may
    be used up to ``burst`` seconds late for whoever comes after a rest, and ``KEPT`` later by
    the process that reserved it. So no 60 s hold more requests than the limit.

    Attributes:
        requests_per_minute: The limit.
        interval: Seconds between turns.
        burst: Seconds back in time from which turns that nobody took are still given.
        batch: Turns that one reservation may be for.
        settle: Seconds before the first turn of an engine that does not know what was reserved
            before: one that is new, was started again, or took over from another.
    """

    requests_per_minute: int
    interval: float
    burst: float
    batch: int
    settle: float

    @classmethod
    def of(cls, limits: Limits, settle: float | None = None) -> Pace:
        """Return the pace that keeps these limits.

        Args:
            limits: What the account may do.
            settle: Seconds; else so many that no turn given before is used after them.
        """
        rpm = limits.requests_per_minute
        # Turns are reserved before they are due, so that late timers cost no throughput, and a
        # burst is for those only who come after a rest. As many requests as Limits.connections
        # may have been sent and not have arrived.
        burst = max(1, min(20, rpm // 500))
        under_way = min(100, rpm // 100)
        rate = (rpm - burst - under_way + _ROUNDING) / _WINDOW
        batch = max(1, int(rate * _SPAN))
        if settle is None:
            settle = SURE + KEPT + 1 / rate
        return cls(rpm, 1 / rate, (burst - 1) / rate, batch, settle)
