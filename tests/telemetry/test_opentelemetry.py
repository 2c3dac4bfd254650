from __future__ import annotations

import asyncio
import sys
from collections import Counter
from contextlib import suppress
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve
from opentelemetry.trace import SpanKind, StatusCode

from kling_async import events
from kling_async.errors import ConfigurationError, KlingError, MissingExtraError, ServerError
from kling_async.inputs.kling_2_1 import MasterTextToVideo
from kling_async.limits.base import Limits
from kling_async.results import Snapshot, TaskRef, TaskState
from kling_async.telemetry import OpenTelemetry
from kling_async.webhooks.inbox import Inbox
from tests.clients import FOX, settle
from tests.tasks.callbacks import Service
from tests.telemetry.events import (
    EVENTS,
    FAILED,
    INPUT,
    LOST,
    REF,
    SECRET,
    SUCCESS,
    TRACEPARENT,
    answered,
)
from tests.telemetry.sdk import Sdk

if TYPE_CHECKING:
    from pathlib import Path

    from opentelemetry.sdk.trace import ReadableSpan

    from tests.conftest import Connect, Emulate

pytestmark = pytest.mark.virtual_time

GENERATION = "generate_content kling-2-1"
POST = "POST /generateTask/{model}"


@pytest.fixture
def sdk() -> Sdk:
    """Return a hook and its exporters."""
    return Sdk()


def attributes(span: ReadableSpan) -> dict[str, object]:
    """Return the attributes of a span."""
    return dict(span.attributes or {})


@pytest.mark.parametrize("name", ["tracer_provider", "meter_provider"])
def test_what_is_no_provider(name: str) -> None:
    """What is no provider is refused when the hook is made."""
    settings: dict[str, Any] = {name: "http://collector:4317"}
    with pytest.raises(ConfigurationError, match="not a provider of OpenTelemetry"):
        OpenTelemetry(**settings)


async def test_a_generation(sdk: Sdk, emulate: Emulate, connect: Connect, tmp_path: Path) -> None:
    """A generation is one span, with the wait, the submit and the download below it."""
    emulator = await emulate("status:1=503")
    kling = await connect(emulator, hooks=[sdk.hook])
    with sdk.tracers.get_tracer("mine").start_as_current_span("request of a user"):
        result = await kling.generate(FOX)
    await kling.download(result, tmp_path)
    assert sdk.tree() == [
        ("request of a user", ""),
        (GENERATION, "request of a user"),
        ("wait for a slot", GENERATION),
        (POST, GENERATION),
        ("download", GENERATION),
    ]
    span = sdk.span(GENERATION)
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.UNSET
    assert attributes(span) == {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": "apixo",
        "gen_ai.request.model": "kling-2-1",
        "gen_ai.output.type": "video",
        "gen_ai.response.id": result.ref.task_id,
        "kling.mode": "master-text-to-video",
        "kling.task.state": "success",
    }
    assert [event.name for event in span.events] == ["failed poll", "retry", "poll"]
    sent = attributes(sdk.span(POST))
    assert sent["http.response.status_code"] == 200
    assert sent["url.full"] == f"{emulator.base_url}/generateTask/kling-2-1"
    assert attributes(sdk.span("download"))["kling.files"] == (f"{result.ref.task_id}.mp4",)
    model = {"gen_ai.request.model": "kling-2-1"}
    ((ended, number),) = sdk.points("kling.tasks")
    assert number == 1
    assert ended.items() >= {"kling.task.state": "success", **model}.items()
    assert sdk.total("kling.download.received") == sum(
        one.stat().st_size for one in tmp_path.iterdir()
    )
    assert 60 < sdk.total("gen_ai.client.operation.duration") < 70
    assert sdk.total("kling.tasks.running") == sdk.total("kling.submits.waiting") == 0
    assert sdk.points("kling.task.detection_delay")
    assert len(sdk.points("http.client.request.duration")) == 3  # submit, 503, status


async def test_tasks_that_interleave(sdk: Sdk, emulate: Emulate, connect: Connect) -> None:
    """Each generation of a fan-out has its own spans, whichever asyncio task emits the events."""
    kling = await connect(await emulate(), hooks=[sdk.hook], limits=Limits(concurrent_tasks=3))
    inputs = [MasterTextToVideo(f"{number}") for number in range(8)]
    refs = set()
    with sdk.tracers.get_tracer("mine").start_as_current_span("batch"):
        async for outcome in kling.generate_many(inputs):
            assert outcome.task_ref is not None
            refs.add(outcome.task_ref.task_id)
    generations = {span.context.span_id: span for span in sdk.spans(GENERATION) if span.context}
    assert {attributes(span)["gen_ai.response.id"] for span in generations.values()} == refs
    below = Counter(
        (span.name, span.parent.span_id) for span in sdk.spans() if span.parent is not None
    )
    for number in generations:
        assert below["wait for a slot", number] == below[POST, number] == 1
    trace_ids = {span.context.trace_id for span in sdk.spans() if span.context}
    assert len(trace_ids) == 1


async def test_running_and_waiting(sdk: Sdk, emulate: Emulate, connect: Connect) -> None:
    """While one task runs and two submits wait, the metrics say so; abandoned ones end."""
    kling = await connect(await emulate(), hooks=[sdk.hook], limits=Limits(concurrent_tasks=1))
    submits = [asyncio.create_task(kling.submit(FOX)) for _ in range(3)]
    await settle()
    assert sdk.total("kling.tasks.running") == 1
    assert sdk.total("kling.submits.waiting") == 2
    submits[2].cancel()
    await settle()
    assert sdk.total("kling.submits.waiting") == 1
    await kling.close()
    with suppress(KlingError, asyncio.CancelledError):
        await asyncio.gather(*submits)
    assert sdk.total("kling.tasks.running") == sdk.total("kling.submits.waiting") == 0
    kinds = Counter(str(attributes(span).get("error.type")) for span in sdk.spans(GENERATION))
    assert kinds == {"abandoned": 1, "cancelled": 1, "ClientClosedError": 1}
    ((ended, _),) = sdk.points("kling.tasks")
    assert ended["kling.task.state"] == "abandoned"


async def test_a_submit_that_may_have_charged(sdk: Sdk, emulate: Emulate, connect: Connect) -> None:
    """A submit whose answer is lost ends its span with an error, and is counted."""
    kling = await connect(await emulate("submit:1=lost-answer"), hooks=[sdk.hook])
    with pytest.raises(KlingError):
        await kling.generate(FOX)
    span = sdk.span(GENERATION)
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["kling.may_have_charged"] is True
    assert sdk.points("kling.submits.may_have_charged") == [({"error.type": "AnswerLostError"}, 1)]
    assert sdk.points("kling.tasks") == []
    assert sdk.span(POST).status.status_code is StatusCode.ERROR


async def test_a_callback(sdk: Sdk) -> None:
    """A callback is a span below the generation, until the end of the task is confirmed."""
    service = Service()
    kling = service.client()
    async with kling.__class__(
        "sk-a-key", transport=service.transport, inbox=service.inbox, hooks=[sdk.hook]
    ) as traced:
        task = await traced.submit(FOX)
        waiting = asyncio.create_task(task.wait())
        await asyncio.sleep(30)
        service.call(state="processing")
        await asyncio.sleep(5)
        service.end()
        service.end()  # the service sends callbacks again
        await waiting
    await kling.close()
    assert sdk.tree().count(("callback", GENERATION)) == 1
    assert sdk.span("callback").kind is SpanKind.CONSUMER
    names = [event.name for event in sdk.span(GENERATION).events]
    assert names.count("callback") >= 2


async def test_a_callback_in_another_process(sdk: Sdk) -> None:
    """An inbox continues the trace that the token of the callback carries."""
    service, elsewhere = Service(), Sdk()

    def bad(_: events.DetailedEvent) -> None:
        raise ZeroDivisionError

    receiver = Inbox(
        "https://example.com/kling", secret="the secret of this test", hooks=[bad, elsewhere.hook]
    )
    client = type(service.client())
    async with client(
        "sk-a-key", transport=service.transport, inbox=service.inbox, hooks=[sdk.hook]
    ) as kling:
        task = await kling.submit(FOX)
        service.inbox, own = receiver, service.inbox
        service.end()  # at the other process, which has submitted nothing
        service.inbox = own
        await task
    generation, callback = sdk.span(GENERATION), elsewhere.span("callback")
    assert callback.parent is not None
    assert generation.context is not None
    assert callback.parent.span_id == generation.context.span_id
    assert callback.parent.trace_id == generation.context.trace_id
    assert callback.parent.is_remote
    assert attributes(callback)["gen_ai.response.id"] == task.ref.task_id


async def test_a_callback_without_a_trace(sdk: Sdk) -> None:
    """A callback that carries no trace has no span in another process."""
    sdk.hook(events.CallbackReceived(SUCCESS, "unknown"))
    sdk.hook(events.CalledBack(SUCCESS))
    assert sdk.spans() == []


async def test_a_task_of_another_process(sdk: Sdk, emulate: Emulate, connect: Connect) -> None:
    """A task that is attached with its trace context continues the trace."""
    emulator, first = await emulate(), Sdk()
    async with type(await connect(emulator))(
        emulator.key, base_url=emulator.base_url, hooks=[first.hook]
    ) as kling:
        task = await kling.submit(FOX)
        traceparent = kling.traceparent(task.ref)
    other = await connect(emulator, hooks=[sdk.hook])
    await asyncio.sleep(61)
    await other.attach(task.ref, traceparent=traceparent)
    submitted, continued = first.span(GENERATION), sdk.span(GENERATION)
    assert attributes(submitted)["error.type"] == "abandoned"
    assert continued.parent is not None
    assert submitted.context is not None
    assert continued.parent.span_id == submitted.context.span_id
    assert attributes(continued)["kling.attached"] is True
    assert sdk.points("kling.task.detection_delay") == []  # it may have ended long ago


async def test_a_recovered_task(sdk: Sdk) -> None:
    """A task whose reference comes with a callback continues the trace of its lost submit."""
    sdk.hook(events.SubmitStarted(INPUT, submit_id=7))
    sdk.hook(events.SubmitFailed(INPUT, LOST, submit_id=7))
    sdk.hook(events.Submitted(REF, INPUT, submit_id=7))
    sdk.hook(events.TaskEnded(SUCCESS))
    lost, found = sdk.spans(GENERATION)
    assert found.parent is not None
    assert lost.context is not None
    assert found.parent.span_id == lost.context.span_id


@pytest.mark.parametrize(
    ("event", "error", "state"),
    [
        (events.TaskEnded(FAILED), "content", "failed"),
        (events.TaskEnded(Snapshot(REF, TaskState.FAILED)), "unknown", "failed"),
        (events.TaskDropped(REF, "not_found"), "not_found", "not_found"),
        (events.TasksAbandoned((REF,)), "abandoned", "abandoned"),
    ],
)
async def test_ends(sdk: Sdk, event: events.DetailedEvent, error: str, state: str) -> None:
    """Whatever ends a task, its span ends with an error, and it is counted once."""
    sdk.hook(events.TaskAttached(REF, INPUT))
    sdk.hook(events.TaskAttached(REF, INPUT))
    sdk.hook(event)
    sdk.hook(event)
    span = sdk.span(GENERATION)
    assert attributes(span)["error.type"] == error
    ((counted, number),) = sdk.points("kling.tasks")
    assert (counted["kling.task.state"], counted["error.type"], number) == (state, error, 1)
    assert sdk.total("kling.tasks.running") == 0


@pytest.mark.parametrize("holds_slot", [True, False])
async def test_tasks_that_are_attached(sdk: Sdk, *, holds_slot: bool) -> None:
    """An attached task is counted as running once it is known to run, until its end."""
    sdk.hook(events.TaskAttached(REF, holds_slot=holds_slot))
    assert sdk.total("kling.tasks.running") == holds_slot
    for _ in range(2):
        sdk.hook(events.Polled(Snapshot(REF, TaskState.PROCESSING, "processing")))
        assert sdk.total("kling.tasks.running") == 1
    sdk.hook(events.TaskEnded(SUCCESS))
    assert sdk.total("kling.tasks.running") == 0
    assert sdk.total("kling.tasks") == 1


async def test_too_many_tasks(sdk: Sdk) -> None:
    """Memory is bounded: the span of a task whose end is never reported ends for newer ones."""
    sdk.hook._generations.limit = 2  # noqa: SLF001 - 10,000 would take seconds
    for number in range(5):
        sdk.hook(events.TaskAttached(TaskRef("kling-2-1", f"task_{number}"), holds_slot=True))
    assert [attributes(span)["error.type"] for span in sdk.spans()] == ["forgotten"] * 3
    assert sdk.total("kling.tasks.running") == 2


async def test_other_events(sdk: Sdk) -> None:
    """Requests without a generation have spans of their own; pauses are counted."""
    sdk.hook(events.Paused(1.0))
    sdk.hook(events.TaskLimitChanged(1, 2))
    sdk.hook(events.Polled(SUCCESS))
    sdk.hook(events.SlotAcquired(INPUT, 1.0, submit_id=99))
    sdk.hook(events.SubmitWithdrawn(INPUT, submit_id=99))
    sdk.hook(evolve(answered("balance"), attempt=1))
    sdk.hook(answered("status"))
    sdk.hook(events.DownloadEnded(REF, (), 5, 1.0, OSError("no"), TRACEPARENT))
    assert sdk.total("kling.pauses") == 1
    assert sdk.tree() == [
        ("download", "?"),
        ("GET /apikeys/current-balance", ""),
        ("GET /statusTask/{model}", ""),
    ]


async def test_no_span_has_a_secret(sdk: Sdk) -> None:
    """Neither spans nor metrics have a prompt or the query of a URL."""
    for event in EVENTS:
        sdk.hook(event)
    text = "".join(span.to_json() for span in sdk.spans())
    assert len(sdk.spans()) == 8
    assert SECRET not in text
    assert SECRET not in str([sdk.points(name) for name in ("kling.tasks", "kling.pauses")])


async def test_an_answer_that_repeats_the_prompt(sdk: Sdk) -> None:
    """The prompt is not in a span as a part of the service's message either."""
    error = ServerError(f"{INPUT.prompt!r} is refused")
    sdk.hook(events.SubmitStarted(INPUT, submit_id=7))
    sdk.hook(answered(error=error))
    sdk.hook(events.SubmitFailed(INPUT, error, submit_id=7))
    text = "".join(span.to_json() for span in sdk.spans())
    assert text.count("is refused") == 2
    assert SECRET not in text


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the import says how to install it."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    spec = find_spec("kling_async.telemetry.opentelemetry")
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(MissingExtraError, match=r"another package: pip install .*\[otel\]"):
        spec.loader.exec_module(module_from_spec(spec))
