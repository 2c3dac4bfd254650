"""When to poll a service that is faster than the vendor's, such as an emulator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from kling_async.policy.polling import Polling

if TYPE_CHECKING:
    from kling_async.policy.durations import Durations

# Seconds until the first poll for which the default waits are made.
_USUAL_FIRST = 60.0
_LEAST_SCALE = 0.001


@frozen
class ScaledPolling(Polling):
    """A schedule whose waits are shorter than the default ones.

    Attributes:
        scale: By how much. A callback is overdue as much sooner.
    """

    scale: float = 1.0

    def _overdue_age(self, known: Durations | None) -> float:
        return super()._overdue_age(known) * self.scale


def scaled_polling(first: float) -> Polling:
    """Return a schedule for a service that is faster: all waits are as much shorter as the first.

    Args:
        first: Seconds until the first poll, which are 60 for the default waits.
    """
    usual = Polling()
    scale = min(1.0, max(first / _USUAL_FIRST, _LEAST_SCALE))
    return ScaledPolling(
        first=first,
        shortest=usual.shortest * scale,
        longest=usual.longest * scale,
        safety_net=usual.safety_net * scale,
        scale=scale,
    )
