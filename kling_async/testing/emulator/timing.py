"""How long tasks and messages take."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from kling_async.errors import ConfigurationError
from kling_async.testing.emulator.environment import USUAL_FIRST_POLL
from kling_async.testing.emulator.models import usual_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kling_async.testing.emulator.rules import Order


def quickest(
    duration: Callable[[Mapping[str, object]], float] | tuple[float, float] | None,
) -> float:
    """Return the seconds that the quickest tasks take at speed 1; 1 if only a function knows."""
    if callable(duration):
        return 1.0
    return duration[0] if duration else USUAL_FIRST_POLL


def duration_chooser(
    duration: Callable[[Mapping[str, object]], float] | tuple[float, float] | None,
    speed: float,
    seed: int,
) -> Callable[[Order], float]:
    """Return a function that chooses the seconds that a task takes at a speed."""
    rng = random.Random(seed)  # noqa: S311 - durations, not secrets

    def choose(order: Order) -> float:
        if callable(duration):
            return duration(order.input) / speed
        return rng.uniform(*(duration or usual_seconds(order.model, order.duration))) / speed

    return choose


def latency_chooser(
    latency: Callable[[], float] | tuple[float, float] | float, seed: int
) -> Callable[[], float]:
    """Return a function that chooses the seconds that the next message is under way."""
    if callable(latency):
        return latency
    low, high = latency if isinstance(latency, tuple) else (latency, latency)
    if not 0 <= low <= high < math.inf:
        raise ConfigurationError(f"emulator: latency must be 0 or more seconds, got {latency!r}")
    # A generator of its own, so that tasks take as long as without a latency.
    rng = random.Random(seed)  # noqa: S311 - latencies, not secrets
    return lambda: rng.uniform(low, high)
