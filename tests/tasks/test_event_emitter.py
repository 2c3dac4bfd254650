from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from kling_async import Batch, KlingClient, StandardImageToVideo
from kling_async.errors import ConfigurationError, InputError, KlingError, NotFoundError
from kling_async.events import (
    DetailedEvent,
    DownloadEnded,
    Event,
    Paused,
    RequestAnswered,
    Retrying,
    SlotAcquired,
    SubmitFailed,
    SubmitStarted,
    SubmitWithdrawn,
    TaskAttached,
    TaskDropped,
    TaskLimitChanged,
)
from kling_async.limits.base import Limits
from kling_async.results import Result, TaskRef
from kling_async.tasks.event_emitter import EventEmitter
from kling_async.telemetry import OpenTelemetry
from kling_async.testing import ScriptedTransport
from kling_async.testing.transport import Request, Response, answer
from tests.clients import FOX, KEY, settle

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Connect, Emulate

pytestmark = pytest.mark.virtual_time

REF = TaskRef("kling-2-1", "task_1")


class Recorder:
    """A hook that receives the events with details."""

    detailed = True

    def __init__(self, traceparent: str = "") -> None:
        self.events: list[DetailedEvent] = []
        self._traceparent = traceparent

    def __call__(self, event: DetailedEvent) -> None:
        self.events.append(event)

    def traceparent(self, _: int | TaskRef) -> str:
        return self._traceparent

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events]


class FixedPermit:
    """A permit that counts its answers."""

    granted_at = 5.0

    def __init__(self) -> None:
        self.answers = 0

    def answered(self) -> None:
        self.answers += 1


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
def test_a_hook_that_fails(error: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    """A hook that raises is logged with its traceback, and the others get the event.

    It may raise CancelledError, with the result of a future: that cancels no task.
    """
    events: list[Event] = []

    def bad(_: Event) -> None:
        raise error

    EventEmitter((bad, events.append), "", 1).paused(1.0)
    assert events == [Paused(1.0)]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "a hook failed on Paused"
    assert record.exc_info is not None


def test_the_trace_context_is_that_of_the_first_hook_that_has_one() -> None:
    """Hooks without the method, or without a context, are passed over; plain ones are not asked."""

    class Plain:
        detailed = True

        def __call__(self, event: DetailedEvent) -> None:
            """Ignore it."""

    plain = Recorder("00-plain")
    plain.detailed = False
    emitter = EventEmitter((plain, Plain(), Recorder(), Recorder("00-a"), Recorder("00-b")), "", 1)
    assert emitter.traceparent(1) == "00-a"
    assert EventEmitter((plain, Plain()), "", 1).traceparent(1) == ""


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), asyncio.CancelledError()])
async def test_a_trace_context_that_fails(
    error: BaseException, emulate: Emulate, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A hook that fails to return a trace context costs no item of a batch its reference."""

    class Broken(Recorder):
        def traceparent(self, _: int | TaskRef) -> str:
            raise error

    emulator = await emulate()
    hooks = [Broken(), Recorder("00-b")]
    async with (
        KlingClient(emulator.key, base_url=emulator.base_url, hooks=hooks) as kling,
        Batch(kling, journal=tmp_path / "run.sqlite") as batch,
    ):
        (outcome,) = [outcome async for outcome in batch.run([FOX])]
    assert outcome.task_ref == TaskRef("kling-2-1", emulator.ledger[0].task_id)
    assert outcome.result is not None
    assert "the traceparent of a hook failed" in caplog.text


def test_without_details() -> None:
    """For plain hooks submits have no numbers, and permits stay as they are."""
    events: list[Event] = []
    emitter, permit = EventEmitter((events.append,), "", 1), FixedPermit()
    assert emitter.submit_started(FOX, None, None) == 0
    assert emitter.observe(permit, 1, 0.0) is permit
    emitter.task_limit_changed(1, 2)
    assert events == [TaskLimitChanged(1, 2)]


def test_a_permit_that_is_observed() -> None:
    """It does what the permit does."""
    permit = FixedPermit()
    observed = EventEmitter((Recorder(),), "", 1).observe(permit, 1, 0.0)
    assert observed.granted_at == 5.0
    observed.answered()
    assert permit.answers == 1


async def test_details_are_for_hooks_that_ask(
    emulate: Emulate, connect: Connect, tmp_path: Path
) -> None:
    """A hook receives every request, wait and download only if it has the attribute `detailed`."""
    plain: list[Event] = []
    recorder = Recorder()
    kling = await connect(await emulate("status:1=503"), hooks=[plain.append, recorder])
    result = await kling.generate(FOX)
    await kling.download(result, tmp_path)
    assert [type(event).__name__ for event in plain] == [
        "Submitted",
        "Retrying",
        "Polled",
        "TaskEnded",
    ]
    assert recorder.kinds() == [
        "SubmitStarted",
        "SlotAcquired",
        "RequestAnswered",
        "Submitted",
        "RequestAnswered",
        "Retrying",
        "RequestAnswered",
        "Polled",
        "TaskEnded",
        "DownloadEnded",
    ]


async def test_what_a_request_reports(emulate: Emulate, connect: Connect) -> None:
    """The event of a request has its URL, attempt, duration, status, error and task."""
    emulator, recorder = await emulate("status:1=503", latency=0.1), Recorder()
    kling = await connect(emulator, hooks=[recorder], limits=Limits(requests_per_minute=77))
    result = await kling.generate(FOX)
    sent, failed, polled = (one for one in recorder.events if isinstance(one, RequestAnswered))
    retry = next(one for one in recorder.events if isinstance(one, Retrying))
    assert (sent.kind, sent.method, sent.path) == ("submit", "POST", "/generateTask/kling-2-1")
    assert sent.url == f"{emulator.base_url}/generateTask/kling-2-1"
    assert (sent.attempt, sent.status, sent.error, sent.ref, sent.limit) == (1, 200, None, None, 77)
    assert sent.seconds == pytest.approx(0.2, abs=0.05)
    assert (failed.kind, failed.method, failed.path) == ("status", "GET", "/statusTask/kling-2-1")
    assert (failed.attempt, failed.status, failed.ref) == (1, 503, result.ref)
    assert failed.error is retry.error
    assert (retry.ref, retry.submit_id) == (result.ref, 0)
    assert (polled.attempt, polled.status) == (2, 200)


async def test_the_number_of_a_submit(emulate: Emulate, connect: Connect) -> None:
    """All events of a submit have one number, and those of equal inputs have different ones."""
    recorder = Recorder()
    kling = await connect(
        await emulate("submit:1=503"), hooks=[recorder], limits=Limits(concurrent_tasks=1)
    )
    await asyncio.gather(kling.generate(FOX), kling.generate(FOX))
    kinds: dict[int, list[str]] = {}
    waited = {}
    for event in recorder.events:
        if number := getattr(event, "submit_id", 0):
            kinds.setdefault(number, []).append(type(event).__name__)
        if isinstance(event, SlotAcquired):
            waited[event.submit_id] = event.waited
    first, second = kinds
    assert kinds[first] == [
        "SubmitStarted",
        "SlotAcquired",
        "RequestAnswered",
        "Retrying",
        "RequestAnswered",
        "Submitted",
    ]
    assert kinds[second] == ["SubmitStarted", "SlotAcquired", "RequestAnswered", "Submitted"]
    assert waited[first] == 0.0
    assert waited[second] > 60


async def test_a_submit_that_is_cancelled_in_the_queue(emulate: Emulate, connect: Connect) -> None:
    """A submit that is cancelled while it waits for a slot is reported as withdrawn."""
    recorder = Recorder()
    limits = Limits(concurrent_tasks=1)
    kling = await connect(await emulate(), hooks=[recorder], limits=limits)
    await kling.submit(FOX)
    waiting = asyncio.create_task(kling.submit(FOX))
    await settle()
    waiting.cancel()
    await asyncio.wait([waiting])
    started = [one.submit_id for one in recorder.events if isinstance(one, SubmitStarted)]
    assert recorder.events[-1] == SubmitWithdrawn(FOX)
    assert recorder.events[-1].submit_id == started[-1]


async def test_an_invalid_callback_url(emulate: Emulate, connect: Connect) -> None:
    """A submit that is refused for its callback URL has not begun."""
    recorder = Recorder()
    kling = await connect(await emulate(), hooks=[recorder])
    with pytest.raises(InputError, match="callback_url"):
        await kling.submit(FOX, callback_url="http://example.com/")
    assert recorder.events == []


async def test_local_images_without_a_store(emulate: Emulate, connect: Connect) -> None:
    """A submit that is refused since no store can have its image has not begun."""
    recorder = Recorder()
    kling = await connect(await emulate(), hooks=[recorder])
    with pytest.raises(InputError, match="image store"):
        await kling.submit(StandardImageToVideo("pan left", b"\x89PNG"))
    assert recorder.events == []


class FailingObserver:
    """Raises an exception that is not ours, in one of its methods."""

    def __init__(self, method: str) -> None:
        self._method = method

    async def _call(self, name: str) -> None:
        if name == self._method:
            raise ZeroDivisionError

    async def before_send(self) -> None:
        await self._call("before_send")

    async def on_rejected(self, _: KlingError) -> None:
        await self._call("on_rejected")

    async def on_accepted(self, _: TaskRef) -> None:
        await self._call("on_accepted")


@pytest.mark.parametrize(
    ("method", "end"),
    [
        ("before_send", "SubmitWithdrawn"),
        ("on_rejected", "SubmitWithdrawn"),
        ("on_accepted", "Submitted"),
    ],
)
async def test_an_observer_that_fails(
    method: str, end: str, emulate: Emulate, connect: Connect
) -> None:
    """A submit that an exception of the program's own ends has an end in the events, too."""
    recorder = Recorder()
    kling = await connect(await emulate("submit:1=503"), hooks=[recorder])
    with pytest.raises(ZeroDivisionError):
        await kling.submit(FOX, observer=FailingObserver(method))
    assert recorder.kinds()[0] == "SubmitStarted"
    assert recorder.kinds()[-1] == end
    assert len({"SubmitFailed", "SubmitWithdrawn", "Submitted"} & {*recorder.kinds()}) == 1


async def test_a_transport_that_fails() -> None:
    """An exception of a transport proves nothing: the submit may have charged."""

    def fail(_: Request) -> Response:
        raise ZeroDivisionError

    recorder = Recorder()
    async with KlingClient(KEY, transport=ScriptedTransport(fail), hooks=[recorder]) as kling:
        with pytest.raises(ZeroDivisionError):
            await kling.submit(FOX)
    (failed,) = [event for event in recorder.events if isinstance(event, SubmitFailed)]
    assert failed.error.may_have_charged
    assert isinstance(failed.error.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(("age", "holds_slot"), [(60, True), (7200, False)])
async def test_a_task_of_known_age(
    age: int, *, holds_slot: bool, emulate: Emulate, connect: Connect
) -> None:
    """The event of an attached task says whether the task is presumed to run."""
    recorder = Recorder()
    kling = await connect(await emulate(), hooks=[recorder])
    kling.attach(REF, submitted_at=datetime.now(UTC) - timedelta(seconds=age))
    (attached,) = recorder.events
    assert isinstance(attached, TaskAttached)
    assert attached.holds_slot is holds_slot


async def test_a_task_that_is_attached(emulate: Emulate, connect: Connect) -> None:
    """Attaching reports the task once, with the trace context that was passed."""
    recorder = Recorder("00-trace")
    emulator = await emulate()
    kling, other = await connect(emulator), await connect(emulator, hooks=[recorder])
    ref = (await kling.submit(FOX)).ref
    task = other.attach(str(ref), input=FOX, traceparent="00-other")
    assert other.attach(ref) is task
    await asyncio.sleep(61)
    await task
    assert recorder.events[0] == TaskAttached(ref, FOX, None, "00-other")
    assert recorder.kinds()[1:] == ["RequestAnswered", "Polled", "TaskEnded"]
    assert kling.traceparent(ref) == ""
    assert other.traceparent(str(ref)) == other.traceparent(ref) == "00-trace"


def test_a_task_that_is_attached_without_a_loop(caplog: pytest.LogCaptureFixture) -> None:
    """A task may be attached before there is an event loop; no hook fails on that."""
    recorder = Recorder()
    with caplog.at_level("INFO", "kling_async"):
        kling = KlingClient(KEY, hooks=[recorder, OpenTelemetry()])
        task = kling.attach(REF)
    assert recorder.events == [TaskAttached(REF)]
    assert [record.getMessage() for record in caplog.records] == [f"attached {task.ref}"]


async def test_a_task_that_does_not_exist(emulate: Emulate, connect: Connect) -> None:
    """A task that the service does not know is dropped."""
    recorder = Recorder()
    kling = await connect(await emulate(), hooks=[recorder])
    with pytest.raises(NotFoundError):
        await kling.attach(REF)
    assert recorder.events[-1] == TaskDropped(REF, "not_found")


async def test_a_task_that_nothing_polls(emulate: Emulate, connect: Connect) -> None:
    """A task whose slot expires is dropped."""
    recorder = Recorder()
    limits = Limits(presumed_lifetime=30.0)
    kling = await connect(await emulate(), hooks=[recorder], limits=limits)
    ref = (await kling.submit(FOX)).ref
    await asyncio.sleep(31)
    assert recorder.events[-1] == TaskDropped(ref, "presumed_ended")


async def test_a_download(emulate: Emulate, connect: Connect, tmp_path: Path) -> None:
    """The end of a download reports its files and what was received, or the error."""
    recorder = Recorder()
    kling = await connect(await emulate(), hooks=[recorder])
    result = await kling.generate(FOX)
    (file,) = await kling.save(result, tmp_path, traceparent="00-trace")
    ended = recorder.events[-1]
    assert isinstance(ended, DownloadEnded)
    assert (ended.ref, ended.files, ended.error) == (result.ref, (file,), None)
    assert (ended.received_bytes, ended.traceparent) == (file.size_bytes, "00-trace")
    await kling.download(result, tmp_path)
    again = recorder.events[-1]
    assert isinstance(again, DownloadEnded)
    assert (again.files, again.received_bytes) == ((file,), 0)
    folder = tmp_path / file.name
    with pytest.raises(Exception, match="folder") as caught:
        await kling.download(Result(result.ref, result.result_urls), folder)
    failed = recorder.events[-1]
    assert isinstance(failed, DownloadEnded)
    assert (failed.files, failed.error) == ((), caught.value)


async def test_a_log_that_is_configured_later() -> None:
    """The log begins with the first request after the logger is enabled for INFO."""
    log = logging.getLogger("kling_async")
    levels: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            levels.append(record.levelname)

    def reply(request: Request) -> Response:
        return answer(1.5)

    handler, before = Handler(), log.level
    log.addHandler(handler)
    hooked: list[Event] = []
    try:
        async with KlingClient(
            KEY, transport=ScriptedTransport(reply), hooks=[hooked.append]
        ) as kling:
            await kling.balance()
            assert levels == []
            log.setLevel(logging.DEBUG)
            await kling.balance()  # its permit was granted before
            await kling.balance()
            assert levels == ["DEBUG"]
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def test_the_environment_enables_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client with an invalid KLING_LOG is refused, with the values that are valid."""
    monkeypatch.setenv("KLING_LOG", "loud")
    with pytest.raises(ConfigurationError, match="debug, info, warning, not 'loud'"):
        KlingClient(KEY)
