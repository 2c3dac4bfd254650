"""Traces and metrics for OpenTelemetry, derived from the events of a client.

Events of many tasks interleave, and come from whichever asyncio task has caused them. So a span is
found by the number of the submit, and by the task's reference once there is one. Only the parent of
a generation is taken from the current context: that of the caller of ``submit``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar

from kling_async import events
from kling_async._utils.clock import find_clock
from kling_async._utils.extras import missing_extra
from kling_async._utils.version import __version__
from kling_async.errors import ConfigurationError
from kling_async.results import TaskState
from kling_async.telemetry.log_lines import describe_error

try:
    from opentelemetry import metrics, trace

    from kling_async.telemetry.generations import Generation, Generations
    from kling_async.telemetry.metrics import Metrics
    from kling_async.telemetry.spans import (
        Spans,
        describe_model,
        end_with_error,
        format_traceparent,
        parse_traceparent,
    )
except ImportError as _error:
    raise missing_extra("otel", "OpenTelemetry needs another package") from _error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import SpanContext, TracerProvider

    from kling_async.inputs.base import Input
    from kling_async.results import Snapshot, TaskRef

_SCOPE = "kling_async"


class OpenTelemetry:
    """A hook that traces and measures what a client does.

    Pass it to clients, ``KlingClient(hooks=[OpenTelemetry()])``, and to an inbox in another
    process, ``Inbox(..., hooks=[OpenTelemetry()])``. Several clients may share one.

    There is one span for each generation, from the submit until the end is known, with spans below
    it for the wait for a slot, each sending of the submit, the callback and the download. Polls are
    events of it. No span has a key, a token, a prompt or a result URL.

    Args:
        tracer_provider: Default: the global one.
        meter_provider: Default: the global one.

    Raises:
        ConfigurationError: An argument is not a provider.
        MissingExtraError: On import: ``opentelemetry-api`` is not installed.
    """

    detailed: ClassVar[bool] = True
    """It receives the events with details."""

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        try:
            tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider)
            meter = metrics.get_meter(_SCOPE, __version__, meter_provider)
        except (AttributeError, TypeError) as error:
            raise ConfigurationError(f"not a provider of OpenTelemetry: {error}") from None
        self._spans = Spans(tracer)
        self._metrics = Metrics(meter)
        self._generations = Generations(lambda generation: self._end(generation, "forgotten"))

    def traceparent(self, subject: int | TaskRef) -> str:
        """Return the W3C trace context of a submit or a task; "" if it is not traced here."""
        return format_traceparent(self._generations.context(subject))

    def __call__(self, event: events.DetailedEvent) -> None:
        """Trace and measure an event."""
        match event:
            case events.SubmitStarted():
                self._submit_started(event)
            case events.SlotAcquired():
                self._slot_acquired(event)
            case events.RequestAnswered():
                self._request_answered(event)
            case events.Submitted():
                self._submitted(event)
            case events.SubmitFailed() | events.SubmitWithdrawn():
                self._submit_ended(event)
            case events.TaskAttached():
                self._task_attached(event)
            case events.TaskEnded():
                self._task_ended(event.snapshot)
            case events.DownloadEnded():
                self._download_ended(event)
            case _:
                self._happened(event)

    def _happened(self, event: events.DetailedEvent) -> None:
        """Trace what happens to a generation between its beginning and its end."""
        match event:
            case events.Polled(snapshot=snapshot):
                self._polled(snapshot)
            case events.CalledBack(snapshot=snapshot):
                self._called_back(snapshot)
            case events.CallbackReceived():
                self._callback_received(event)
            case events.TasksAbandoned(refs=refs):
                for ref in refs:
                    self._end(self._generations.remove(ref), "abandoned")
            case events.TaskDropped(ref=ref, reason=reason):
                self._end(self._generations.remove(ref), reason)
            case events.Retrying(ref=ref, submit_id=submit_id):
                subject = submit_id if ref is None else ref
                error = type(event.error).__name__
                self._add_event(subject, "retry", {"error.type": error, "kling.delay": event.delay})
            case events.Paused():
                self._metrics.pauses.add(1)

    # Submits.

    def _submit_started(self, event: events.SubmitStarted) -> None:
        generation = self._start(event.input.model, event.input)
        generation.waiting = True
        self._metrics.waiting.add(1)
        self._generations.add(event.submit_id, generation)

    def _slot_acquired(self, event: events.SlotAcquired) -> None:
        self._metrics.slot_wait.record(event.waited)
        generation = self._generations.find(event.submit_id)
        if generation is not None:
            self._stop_waiting(generation)
            self._spans.add_wait(generation.span.get_span_context(), event.waited)

    def _request_answered(self, event: events.RequestAnswered) -> None:
        self._metrics.observe_request(event)
        subject = event.submit_id if event.ref is None else event.ref
        generation = self._generations.find(subject)
        sent = None if generation is None else generation.input
        if event.kind == "submit" or generation is None:
            self._spans.add_request(self._generations.context(subject), event, sent)
        elif event.error is not None:
            error = describe_error(event.error, sent)
            self._add_event(subject, "failed poll", {"kling.error": error})

    def _submitted(self, event: events.Submitted) -> None:
        generation = self._generations.name(event.submit_id, event.ref)
        if generation is None:  # the answer was lost, and a callback has brought the reference
            lost = self._generations.context(event.submit_id)
            generation = self._start(event.input.model, event.input, lost)
            self._generations.add(event.ref, generation)
        generation.span.set_attribute("gen_ai.response.id", event.ref.task_id)
        self._start_running(generation)

    def _submit_ended(self, event: events.SubmitFailed | events.SubmitWithdrawn) -> None:
        generation = self._generations.remove(event.submit_id)
        error = event.error if isinstance(event, events.SubmitFailed) else None
        charged = error is not None and error.may_have_charged
        if charged:
            self._metrics.charged.add(1, {"error.type": type(error).__name__})
        if generation is not None:
            self._stop_waiting(generation)
            generation.span.set_attribute("kling.may_have_charged", charged)
            kind = "cancelled" if error is None else type(error).__name__
            self._end(generation, kind, "" if error is None else describe_error(error, event.input))

    # Tasks.

    def _task_attached(self, event: events.TaskAttached) -> None:
        ref = event.ref
        if self._generations.find(ref) is None:
            parent = parse_traceparent(event.traceparent) or self._generations.context(ref)
            generation = self._start(ref.model, event.input, parent)
            generation.attached = True
            generation.span.set_attribute("gen_ai.response.id", ref.task_id)
            generation.span.set_attribute("kling.attached", value=True)
            self._generations.add(ref, generation)
            if event.holds_slot:
                self._start_running(generation)

    def _polled(self, snapshot: Snapshot) -> None:
        generation = self._generations.find(snapshot.ref)
        if generation is not None and not snapshot.state.ended:
            self._start_running(generation)
        self._add_event(snapshot.ref, "poll", {"kling.task.state": snapshot.vendor_state})

    def _called_back(self, snapshot: Snapshot) -> None:
        generation = self._generations.find(snapshot.ref)
        if generation is None:
            return
        if snapshot.state.ended and generation.callback is None:  # until that is confirmed
            generation.callback = self._spans.start_callback(generation.span.get_span_context())
        attributes = {"kling.task.state": snapshot.vendor_state}
        self._add_event(snapshot.ref, "callback", attributes)

    def _callback_received(self, event: events.CallbackReceived) -> None:
        parent = parse_traceparent(event.traceparent)
        if parent is not None and self._generations.context(event.snapshot.ref) is None:
            span = self._spans.start_callback(parent)
            span.set_attribute("gen_ai.response.id", event.snapshot.ref.task_id)
            span.set_attribute("kling.task.state", event.snapshot.vendor_state)
            span.end()

    def _task_ended(self, snapshot: Snapshot) -> None:
        generation = self._generations.remove(snapshot.ref)
        if generation is None:  # it was abandoned
            return
        if snapshot.completed_at is not None and not generation.attached:
            delay = (datetime.now(UTC) - snapshot.completed_at).total_seconds()
            self._metrics.delay.record(max(delay, 0.0), generation.attributes)  # clocks differ
        generation.span.set_attribute("kling.task.state", snapshot.vendor_state)
        if snapshot.state is TaskState.SUCCESS:
            self._end(generation, None)
        else:
            generation.span.set_attribute("kling.fail_code", snapshot.fail_code)
            self._end(generation, str(snapshot.reason or "unknown"), state="failed")

    def _download_ended(self, event: events.DownloadEnded) -> None:
        self._metrics.received.add(event.received_bytes)
        parent = self._generations.context(event.ref) or parse_traceparent(event.traceparent)
        self._spans.add_download(parent, event)

    # What several of them need.

    def _start(
        self, model: str, sent: Input | None, parent: SpanContext | None = None
    ) -> Generation:
        span = self._spans.start_generation(model, sent, parent)
        now = find_clock()()
        return Generation(span, describe_model(model, sent), now, sent)

    def _start_running(self, generation: Generation) -> None:
        """Count a task that runs: an attached one only when that is known, as it may have ended."""
        if not generation.running:
            generation.running = True
            self._metrics.running.add(1)

    def _stop_waiting(self, generation: Generation) -> None:
        if generation.waiting:
            generation.waiting = False
            self._metrics.waiting.add(-1)

    def _end(
        self,
        generation: Generation | None,
        error: str | None,
        description: str = "",
        state: str = "",
    ) -> None:
        """End a generation, and count it.

        Args:
            generation: The generation; None does nothing.
            error: What kind of error it is, if it is one.
            description: The error.
            state: The state of the task in the metrics, if it is not the kind of the error.
        """
        if generation is None:
            return
        if generation.callback is not None:
            generation.callback.end()
        self._stop_waiting(generation)
        attributes = generation.attributes
        if error is None:
            generation.span.end()
        else:
            end_with_error(generation.span, error, description)
            attributes = {**attributes, "error.type": error}
        seconds = find_clock()() - generation.began
        self._metrics.duration.record(seconds, attributes)
        if generation.running:
            self._metrics.running.add(-1)
        if generation.running or generation.attached:
            state = state or error or "success"
            self._metrics.tasks.add(1, {**attributes, "kling.task.state": state})

    def _add_event(
        self, subject: int | TaskRef, name: str, attributes: Mapping[str, str | float]
    ) -> None:
        generation = self._generations.find(subject)
        if generation is not None:
            generation.span.add_event(name, attributes)
