"""OpenTelemetry's SDK, with exporters that keep what they get in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from kling_async.telemetry import OpenTelemetry

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


class Sdk:
    """A hook, and what it has exported."""

    def __init__(self) -> None:
        self._exporter, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self.hook = OpenTelemetry(tracer_provider=self.tracers, meter_provider=meters)

    def spans(self, name: str = "") -> list[ReadableSpan]:
        """Return the spans that have ended, whose names begin so."""
        return [one for one in self._exporter.get_finished_spans() if one.name.startswith(name)]

    def span(self, name: str) -> ReadableSpan:
        """Return the only span whose name begins so."""
        (found,) = self.spans(name)
        return found

    def tree(self) -> list[tuple[str, str]]:
        """Return the name of each span with that of its parent, the earliest first."""
        spans = sorted(self.spans(), key=lambda span: span.start_time or 0)
        names = {span.context.span_id: span.name for span in spans if span.context}
        return [
            (span.name, names.get(span.parent.span_id, "?") if span.parent else "")
            for span in spans
        ]

    def points(self, name: str) -> list[tuple[dict[str, object], float]]:
        """Return the attributes and values of a metric; of a histogram the sums."""
        data = self._reader.get_metrics_data()
        found: list[tuple[dict[str, object], float]] = []
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == name:
                        for point in metric.data.data_points:
                            value = point.sum if hasattr(point, "sum") else point.value
                            found.append((dict(point.attributes or {}), value))
        return found

    def total(self, name: str) -> float:
        """Return the sum of all points of a metric."""
        return sum(value for _, value in self.points(name))
