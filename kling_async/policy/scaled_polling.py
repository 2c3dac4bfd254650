"""When to poll a service that is faster than the vendor's, such as an emulator."""

from __future__ import annotations

from kling_async.policy.polling import Polling

# Seconds until the first poll for which the default waits are made.
_USUAL_FIRST = 60.0
_LEAST_SCALE = 0.001


def scaled_polling(first: float) -> Polling:
    """Return a schedule for a service that is faster: all waits are as much shorter as the first.

    Args:
        first: Seconds until the first poll, which are 60 for the default waits.
    """
    usual = Polling()
    scale = min(1.0, max(first / _USUAL_FIRST, _LEAST_SCALE))
    return Polling(
        first=first,
        shortest=usual.shortest * scale,
        longest=usual.longest * scale,
        safety_net=usual.safety_net * scale,
    )
