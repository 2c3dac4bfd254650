"""The instruments of the metrics."""

from __future__ import annotations

import time
from collections import deque
from threading import Lock
from typing import TYPE_CHECKING

from opentelemetry.metrics import Observation

from kling_async.telemetry.spans import describe_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from opentelemetry.metrics import (
        CallbackOptions,
        Counter,
        Histogram,
        Meter,
        UpDownCounter,
    )

    from kling_async.events import RequestAnswered

# Seconds: the bounds of buckets. The first are those of the HTTP conventions.
_OF_REQUESTS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_OF_GENERATIONS = (1, 5, 10, 20, 40, 60, 80, 100, 120, 150, 200, 300, 600, 1_200, 1_800, 3_600)
_OF_WAITS = (0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1_800)

_MINUTE = 60.0


class RequestBudget:
    """The share of the request limit that the last minute has used.

    Metrics are read in a thread of their own.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._limit = 0
        self._moments: deque[float] = deque()

    def count(self, now: float, limit: int) -> None:
        """Count a request that was answered now."""
        with self._lock:
            self._limit = limit
            self._moments.append(now)
        self.share(now)

    def share(self, now: float) -> float:
        """Return the share of the limit that the last minute has used."""
        with self._lock:
            while self._moments and self._moments[0] <= now - _MINUTE:
                self._moments.popleft()
            return len(self._moments) / self._limit if self._limit else 0.0


class Metrics:
    """The instruments. Each is described in the guide `docs/guides/observability.md`.

    Args:
        meter: Creates them.
    """

    def __init__(self, meter: Meter) -> None:
        self.tasks: Counter = meter.create_counter(
            "kling.tasks", "{task}", "Tasks that have ended, by state and reason"
        )
        self.running: UpDownCounter = meter.create_up_down_counter(
            "kling.tasks.running", "{task}", "Tasks that are followed"
        )
        self.waiting: UpDownCounter = meter.create_up_down_counter(
            "kling.submits.waiting", "{submit}", "Submits that wait for a slot"
        )
        self.charged: Counter = meter.create_counter(
            "kling.submits.may_have_charged", "{submit}", "Failed submits that may be billed"
        )
        self.received: Counter = meter.create_counter(
            "kling.download.received", "By", "Bytes of videos that were received"
        )
        self.pauses: Counter = meter.create_counter(
            "kling.pauses", "{pause}", "Pauses of all requests after an answer 429"
        )
        self.duration: Histogram = _create_histogram(
            meter, "gen_ai.client.operation.duration", "Generations", _OF_GENERATIONS
        )
        self.slot_wait: Histogram = _create_histogram(
            meter, "kling.slot.wait", "Waits of submits for a slot", _OF_WAITS
        )
        self.delay: Histogram = _create_histogram(
            meter, "kling.task.detection_delay", "From a task's end until it was seen", _OF_WAITS
        )
        self._requests = _create_histogram(
            meter, "http.client.request.duration", "Requests to the API", _OF_REQUESTS
        )
        self._budget = RequestBudget()
        meter.create_observable_gauge(
            "kling.requests.budget_used",
            [self._observe_budget],
            "1",
            "Share of the request limit that the last minute has used",
        )

    def observe_request(self, event: RequestAnswered) -> None:
        """Count a request that was answered now."""
        self._requests.record(event.seconds, describe_request(event))
        self._budget.count(time.monotonic(), event.limit)

    def _observe_budget(self, _: CallbackOptions) -> Iterable[Observation]:
        yield Observation(self._budget.share(time.monotonic()))


def _create_histogram(
    meter: Meter, name: str, description: str, bounds: Sequence[float]
) -> Histogram:
    return meter.create_histogram(
        name, "s", description, explicit_bucket_boundaries_advisory=bounds
    )
