"""The spans of a generation, and the trace contexts that connect them across processes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from kling_async.telemetry.log_lines import describe_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context
    from opentelemetry.util.types import AttributeValue

    from kling_async.events import DownloadEnded, RequestAnswered
    from kling_async.inputs.base import Input

_PROVIDER = "apixo"
_OPERATION = "generate_content"

# The path of each kind of request, without what differs from task to task.
_TEMPLATES = {
    "submit": "/generateTask/{model}",
    "status": "/statusTask/{model}",
    "balance": "/apikeys/current-balance",
}

_HEADER = "traceparent"
_propagator = TraceContextTextMapPropagator()

_SECOND = 1_000_000_000  # in nanoseconds


def describe_model(model: str, sent: Input | None) -> dict[str, str]:
    """Return the attributes of a generation, for spans and metrics."""
    found = {
        "gen_ai.operation.name": _OPERATION,
        "gen_ai.provider.name": _PROVIDER,
        "gen_ai.request.model": model,
    }
    return {**found, "kling.mode": sent.mode} if sent is not None and sent.mode else found


def describe_request(event: RequestAnswered) -> dict[str, str | int]:
    """Return the attributes of a request, for spans and metrics."""
    server = urlsplit(event.url)
    found: dict[str, str | int] = {
        "http.request.method": event.method,
        "url.template": _TEMPLATES[event.kind],
    }
    if server.hostname:
        found["server.address"] = server.hostname
        found["server.port"] = server.port or (443 if server.scheme == "https" else 80)
    if event.status is not None:
        found["http.response.status_code"] = event.status
    if event.error is not None:
        found["error.type"] = type(event.error).__name__
    return found


def format_traceparent(context: SpanContext | None) -> str:
    """Return a context in the format of W3C; "" if it is not that of a trace."""
    carrier: dict[str, str] = {}
    if context is not None:
        _propagator.inject(carrier, below(context))
    return carrier.get(_HEADER, "")


def parse_traceparent(text: str) -> SpanContext | None:
    """Return the context of another process from the format of W3C; None if it is not valid."""
    found = _propagator.extract({_HEADER: text})
    context = trace.get_current_span(found).get_span_context()
    return context if context.is_valid else None


def below(parent: SpanContext | None) -> Context | None:
    """Return the context for the children of a span; None for that of the caller."""
    return None if parent is None else trace.set_span_in_context(NonRecordingSpan(parent))


def end_with_error(span: Span, kind: str, description: str = "") -> None:
    """End a span of what failed."""
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, description or kind))
    span.end()


class Spans:
    """Starts spans.

    Args:
        tracer: Its spans are started.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def start_generation(
        self, model: str, sent: Input | None, parent: SpanContext | None = None
    ) -> Span:
        """Start the span of a generation, below that of the caller unless it has a parent."""
        attributes = {**describe_model(model, sent), "gen_ai.output.type": "video"}
        return self._tracer.start_span(
            f"{_OPERATION} {model}", below(parent), SpanKind.CLIENT, attributes
        )

    def start_callback(self, parent: SpanContext) -> Span:
        """Start the span of a callback."""
        return self._tracer.start_span("callback", below(parent), SpanKind.CONSUMER)

    def add_wait(self, parent: SpanContext, seconds: float) -> None:
        """Add the span of the wait for a slot, which has ended."""
        self._start_ended("wait for a slot", parent, seconds).end()

    def add_request(
        self, parent: SpanContext | None, event: RequestAnswered, sent: Input | None = None
    ) -> None:
        """Add the span of a request, which has ended; its error is shown without prompts."""
        attributes: dict[str, AttributeValue] = {
            **describe_request(event),
            "url.full": event.url,
            "kling.permit_wait": event.waited,
        }
        if event.attempt > 1:
            attributes["http.request.resend_count"] = event.attempt - 1
        name = f"{event.method} {_TEMPLATES[event.kind]}"
        span = self._start_ended(name, parent, event.seconds, SpanKind.CLIENT, attributes)
        _end(span, event.error, sent)

    def add_download(self, parent: SpanContext | None, event: DownloadEnded) -> None:
        """Add the span of a download, which has ended."""
        attributes: dict[str, AttributeValue] = {
            "gen_ai.response.id": event.ref.task_id,
            "kling.files": [file.name for file in event.files],
            "kling.received_bytes": event.received_bytes,
        }
        span = self._start_ended("download", parent, event.seconds, SpanKind.CLIENT, attributes)
        _end(span, event.error)

    def _start_ended(
        self,
        name: str,
        parent: SpanContext | None,
        seconds: float,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> Span:
        start = time.time_ns() - int(seconds * _SECOND)
        return self._tracer.start_span(name, below(parent), kind, attributes, start_time=start)


def _end(span: Span, error: BaseException | None, sent: Input | None = None) -> None:
    if error is None:
        span.end()
    else:
        end_with_error(span, type(error).__name__, describe_error(error, sent))
