from __future__ import annotations

import asyncio
import gc
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from attrs import evolve

from kling_async import (
    Limits,
    MasterTextToVideo,
    Polling,
    Retry,
    Snapshot,
    StandardImageToVideo,
    TaskRef,
)
from kling_async.errors import NotFoundError
from kling_async.events import Event, Polled, TaskEnded, TasksAbandoned
from kling_async.inputs.kling_3_0_std import Kling30StdMotionControl
from kling_async.inputs.raw import RawInput
from kling_async.limits.local import LocalLimiter
from kling_async.limits.shared.limiter import SharedLimiter
from kling_async.limits.shared.memory import MemoryLimitsBackend
from kling_async.policy.durations import Kind
from kling_async.results import TaskState
from kling_async.tasks.poll_scheduler import PollScheduler
from kling_async.tasks.request_executor import RequestExecutor
from kling_async.tasks.task import poll_unattended
from kling_async.tasks.task_registry import TaskRegistry, kind_of
from kling_async.testing import ScriptedTransport
from kling_async.testing.transport import answer

if TYPE_CHECKING:
    from kling_async.tasks.task import Task
    from kling_async.testing.transport import Request, Response

pytestmark = pytest.mark.virtual_time

REF = TaskRef("kling-2-1", "task_1")
KIND = Kind("kling-2-1", "master-text-to-video", 5)
FOX = MasterTextToVideo("a fox", duration=5)

RUNNING = Snapshot(REF, TaskState.PROCESSING, "processing")
SUCCESS = Snapshot(REF, TaskState.SUCCESS, "success", result_urls=("https://example.com/a.mp4",))
FAILED = Snapshot(REF, TaskState.FAILED, "failed")


class Service:
    """The tasks of one client, and what is said of them when they are asked after."""

    def __init__(self, limiter: LocalLimiter | SharedLimiter | None = None) -> None:
        self.limiter = limiter or LocalLimiter()
        self.says = RUNNING
        self.raises: Exception | None = None
        self.events: list[Event] = []
        transport = ScriptedTransport(self._reply)
        calls = RequestExecutor(transport, self.limiter, Retry(), (self.events.append,))
        self.registry = TaskRegistry(calls, PollScheduler(Polling(first=1.0), Limits()))

    def _reply(self, request: Request) -> Response:
        if self.raises is not None:
            raise self.raises
        assert request.ref is not None
        urls = {"resultUrls": self.says.result_urls}
        task_id, state = request.ref.task_id, self.says.vendor_state
        return answer({"taskId": task_id, "state": state, "resultJson": urls})

    async def begin(self, nonce: str = "", ref: TaskRef = REF) -> Task:
        """Note a task that was just accepted."""
        return self.registry.add(ref, FOX, await self.limiter.slot(), nonce)

    def events_of(self, kind: type[Event]) -> list[Event]:
        """Return the events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def note(self, said: Snapshot) -> None:
        """Hear an answer that was asked for at this moment."""
        self.registry.update(said, known=self.registry.find(said.ref) is not None)

    @property
    def slots(self) -> int:
        return self.limiter.slots_in_use


@pytest.mark.parametrize("ended", [SUCCESS, FAILED])
async def test_from_submit_to_end(ended: Snapshot) -> None:
    """A task is known and holds its slot until it is seen to have ended, and never after that."""
    service = Service()
    task = await service.begin()
    assert service.registry.tasks == {REF: task}
    assert service.registry.find(REF) is task
    service.note(RUNNING)
    assert service.slots == 1
    for _ in range(2):
        service.note(ended)
        assert service.registry.tasks == {}
        assert service.registry.find(REF) is None
        assert service.slots == 0


async def test_a_task_that_takes_longer_than_presumed() -> None:
    """Every answer that says that a task runs keeps its slot for another presumed lifetime."""
    service = Service(LocalLimiter(Limits(presumed_lifetime=10.0)))
    await service.begin()
    for _ in range(3):
        await asyncio.sleep(8)
        service.note(RUNNING)
    await asyncio.sleep(9)
    assert service.slots == 1
    await asyncio.sleep(2)
    assert service.slots == 0


async def test_the_slot_of_a_process_that_died() -> None:
    """A process that finds a task ended, or running, has the slot that another one took for it."""
    engine, limits = MemoryLimitsBackend(), Limits(concurrent_tasks=2)
    async with (
        SharedLimiter(engine, limits=limits, name="n", settle=0) as dead,
        SharedLimiter(engine, limits=limits, name="n", settle=0) as alive,
    ):
        service, other = Service(dead), Service(alive)
        for ref in (REF, TaskRef("kling-2-1", "task_2")):
            service.registry.add(ref, FOX, await dead.slot())
        await dead.close()
        task = other.registry.attach(REF, KIND, None)
        other.note(RUNNING)
        other.note(evolve(SUCCESS, ref=ref))
        await asyncio.sleep(0.1)
        (lease,) = (await engine.peek()).leases
        assert lease.key == str(REF)
        assert alive.slots_in_use == 1
        other.note(SUCCESS)
        await asyncio.sleep(0.1)
        assert not (await engine.peek()).leases
        calls = engine.calls
        other.registry.update(SUCCESS, known=True)  # asked for before it was seen to have ended
        await asyncio.sleep(0.1)
        assert engine.calls == calls
        other.note(SUCCESS)
        await asyncio.sleep(0.1)
        assert alive.slots_in_use == 0
        assert engine.calls <= calls + 1
        assert task.ref == REF


async def test_the_tasks_are_a_copy() -> None:
    """Who looks through the tasks is not disturbed by those that end meanwhile."""
    service = Service()
    task = await service.begin()
    seen = service.registry.tasks
    service.note(SUCCESS)
    assert seen == {REF: task}


async def test_an_older_answer() -> None:
    """An answer that was asked for before the end does not bring a task back."""
    service = Service()
    await service.begin()
    service.note(SUCCESS)
    service.registry.update(RUNNING, known=True)
    assert service.registry.tasks == {}
    assert service.slots == 0


@pytest.mark.parametrize("seen", [True, False])
async def test_an_older_answer_on_an_attached_task(*, seen: bool) -> None:
    """The same holds for a task that was attached, whether it was seen to be running or not."""
    service = Service()
    task = service.registry.attach(REF, KIND, None)
    if seen:
        service.note(RUNNING)
    service.note(SUCCESS)
    service.registry.update(RUNNING, known=True)
    assert service.registry.tasks == {}
    assert service.slots == 0
    assert task.ref == REF


async def test_a_task_of_another_process() -> None:
    """A task that is only asked about holds no slot here, and its end is no event."""
    service = Service()
    for said in (SUCCESS, RUNNING, SUCCESS):
        service.says = said
        assert await service.registry.read_status(REF) == said
        assert service.slots == 0
        assert service.registry.find(REF) is None
    assert [type(event) for event in service.events] == [Polled] * 3


async def test_attached() -> None:
    """An attached task is found while a caller holds it; seen to run, it takes a slot."""
    service = Service()
    task = service.registry.attach(REF, KIND, None)
    assert service.registry.find(REF) is task
    assert service.registry.tasks == {}
    await task.status()
    assert service.registry.tasks == {REF: task}
    assert service.slots == 1


async def test_attached_and_dropped() -> None:
    """An attached task without references is forgotten."""
    service = Service()
    service.registry.attach(REF, KIND, None)
    gc.collect()
    assert service.registry.find(REF) is None


async def test_attached_and_ended() -> None:
    """An attached task that has been seen to end is not found any more."""
    service = Service()
    task = service.registry.attach(REF, KIND, None)
    service.says = SUCCESS
    assert service.registry.find(REF) is task
    await task
    assert service.registry.find(REF) is None


async def test_held() -> None:
    """A task that is presumed to run holds a slot at once."""
    service = Service()
    task = service.registry.attach(REF, KIND, 10.0)
    service.registry.adopt(task)
    assert service.registry.find(REF) is task
    assert service.slots == 1


@pytest.mark.parametrize(
    ("own", "nonce", "speaks"),
    [("mine", "mine", True), ("mine", "other", False), ("", "other", True), ("mine", "", False)],
)
async def test_the_task_of_a_callback(own: str, nonce: str, speaks: bool) -> None:  # noqa: FBT001
    """A callback speaks of a task at its own URL only, or at any if that is not known."""
    service = Service()
    task = await service.begin(own)
    assert service.registry.find(REF, nonce) is (task if speaks else None)
    assert service.registry.has_nonce(REF, nonce) is (own == nonce)
    assert not service.registry.has_nonce(TaskRef(REF.model, "task_2"), nonce)
    assert service.registry.find(TaskRef(REF.model, "task_2"), nonce) is None
    assert service.registry.find(TaskRef("kling-3", REF.task_id), nonce) is None


async def test_an_attached_task_is_called_at_any_url() -> None:
    """A task of an earlier process may have had any URL of ours."""
    service = Service()
    task = service.registry.attach(REF, KIND, None)
    assert service.registry.find(REF, "whichever") is task


async def test_when_a_task_is_asked_after() -> None:
    """A new task is asked after at the first wait; one of unknown age at once."""
    service = Service()
    service.says = SUCCESS
    loop = asyncio.get_running_loop()
    await service.registry.attach(REF, KIND, None)
    assert loop.time() == pytest.approx(0, abs=0.01)
    await service.registry.attach(REF, KIND, 0.0)
    assert loop.time() == pytest.approx(1, abs=0.01)
    await service.registry.attach(REF, KIND, 0.4)
    assert loop.time() == pytest.approx(1.6, abs=0.01)


def test_kinds() -> None:
    """Alike in the time they take are those of one model, mode, duration and provider."""
    fox = MasterTextToVideo("a fox", duration=10, provider="official")
    assert kind_of(fox) == Kind("kling-2-1", "master-text-to-video", 10, "official")
    cat = StandardImageToVideo("a cat", "https://example.com/cat.jpg")
    assert kind_of(cat) == Kind("kling-2-1", "standard-image-to-video", 5, None)
    raw = RawInput("kling-9", {"mode": "omni", "duration": 7}, provider="lab")
    assert kind_of(raw) == Kind("kling-9", "omni", 7, "lab")
    url = "https://example.com/a"
    control = Kling30StdMotionControl(image_url=url, video_url=url)
    assert kind_of(control) == Kind("kling-3-0-std", "motion-control", None, None)


async def test_attending() -> None:
    """Waiting for a task that no caller waits for ends with it, and raises no error of ours."""
    service = Service()
    task = await service.begin()
    service.says = FAILED
    await poll_unattended(task)
    assert service.slots == 0
    service.raises = NotFoundError("no such task", status=404, ref=REF)
    await poll_unattended(service.registry.attach(REF, KIND, 0.0))
    service.raises = None
    service.says = RUNNING
    asked = len(service.events_of(Polled))
    await poll_unattended(service.registry.attach(REF, KIND, 0.0), once=True)
    assert len(service.events_of(Polled)) == asked + 1


async def test_attending_with_a_foreign_error(caplog: pytest.LogCaptureFixture) -> None:
    """An error of the user's transport or limiter ends the waiting, and is logged with the task."""
    service = Service()
    service.raises = ZeroDivisionError()
    await poll_unattended(service.registry.attach(REF, KIND, 0.0))
    (record,) = caplog.records
    assert record.getMessage() == f"polling {REF} failed"
    assert record.exc_info is not None


# ----------------------------------------------------------------------------- ends and references


@pytest.mark.parametrize("ended", [SUCCESS, FAILED])
async def test_the_end_is_reported_once(ended: Snapshot) -> None:
    """The end of a task is one event, after the event of the answer that says so."""
    service = Service()
    await service.begin()
    service.says = ended
    for _ in range(3):
        await service.registry.read_status(REF)
    assert [type(event) for event in service.events] == [Polled, TaskEnded, Polled, Polled]
    service.registry.update(ended, known=True)  # asked for before the end was known
    (end,) = service.events_of(TaskEnded)
    assert isinstance(end, TaskEnded)
    assert end.snapshot.state is ended.state


async def test_the_end_of_an_attached_task() -> None:
    """The end of an attached task is an event, too, also if it was never seen to run."""
    service = Service()
    task = service.registry.attach(REF, KIND, None)
    service.note(SUCCESS)
    service.note(SUCCESS)
    assert service.events == [TaskEnded(SUCCESS)]
    assert task.ref == REF


async def test_a_404_of_a_young_task() -> None:
    """A 404 within 60 s of the acceptance takes no slot away; a later one does, and forgets it."""
    service = Service()
    await service.begin()
    service.raises = NotFoundError("no such task", status=404, ref=REF)
    await asyncio.sleep(50)
    with pytest.raises(NotFoundError):
        await service.registry.read_status(REF)
    assert service.slots == 1
    await asyncio.sleep(11)
    with pytest.raises(NotFoundError):
        await service.registry.read_status(REF)
    assert service.slots == 0
    assert service.registry.find(REF) is None
    assert not service.events_of(TaskEnded)


async def test_a_404_of_an_unknown_task() -> None:
    """A 404 for a task that is not known is raised, and changes nothing."""
    service = Service()
    service.raises = NotFoundError("no such task", status=404, ref=REF)
    with pytest.raises(NotFoundError):
        await service.registry.read_status(REF)
    assert service.slots == 0


async def test_an_expired_slot() -> None:
    """A task whose slot has expired is not among those that run; one that is held may return."""
    service = Service(LocalLimiter(Limits(presumed_lifetime=10.0)))
    task = await service.begin()
    other = TaskRef(REF.model, "task_2")
    await service.begin(ref=other)
    await asyncio.sleep(11)
    assert service.slots == 0
    assert service.registry.tasks == {}
    assert service.registry.find(REF) is task
    gc.collect()
    assert service.registry.find(other) is None
    service.note(RUNNING)
    assert service.registry.tasks == {REF: task}
    assert service.slots == 1
    service.note(SUCCESS)
    assert service.events == [TaskEnded(SUCCESS)]


async def test_an_old_slot_that_expires() -> None:
    """The end of a slot does not forget another task object that has taken its place."""
    limiter = LocalLimiter(Limits(presumed_lifetime=10.0))
    one, other = Service(limiter), Service(limiter)
    await one.begin()
    held = other.registry.attach(REF, KIND, 1.0)
    other.registry.adopt(held)  # shares the slot
    one.note(SUCCESS)
    again = await one.begin()
    one.registry._expire(held)  # noqa: SLF001 - as a late callback of the loop would
    assert one.registry.tasks == {REF: again}


@pytest.mark.parametrize("sees_the_end", [True, False])
async def test_a_slot_that_another_client_releases(*, sees_the_end: bool) -> None:
    """A client forgets a task that it never sees end a minute after another one has seen that."""
    limiter = LocalLimiter()
    one, other = Service(limiter), Service(limiter)
    await one.begin()
    other.registry.adopt(other.registry.attach(REF, KIND, 1.0))
    one.note(SUCCESS)
    assert limiter.slots_in_use == 0
    await asyncio.sleep(59)
    assert set(other.registry.tasks) == {REF}
    if sees_the_end:
        other.note(SUCCESS)
    await asyncio.sleep(2)
    assert other.registry.tasks == {}
    assert other.events == ([TaskEnded(SUCCESS)] if sees_the_end else [])
    assert one.events == [TaskEnded(SUCCESS)]


async def test_a_slot_that_a_status_call_releases() -> None:
    """It is the same if the other client does not know the task, and only asks for its status."""
    limiter = LocalLimiter()
    one, other = Service(limiter), Service(limiter)
    await one.begin()
    other.note(SUCCESS)
    assert limiter.slots_in_use == 0
    await asyncio.sleep(61)
    assert one.registry.tasks == {}


async def test_the_end_of_another_processs_task() -> None:
    """Neither status calls for tasks that have ended nor attaching them raises the learned cap."""
    service = Service()
    await service.begin()
    service.limiter.refused(await service.limiter.slot())
    for number in range(4):
        other = TaskRef(REF.model, f"other_{number}")
        if number % 2:  # it is presumed to run
            service.registry.adopt(service.registry.attach(other, KIND, 30.0))
        service.note(evolve(SUCCESS, ref=other))
    assert service.limiter.effective_tasks == 1
    assert service.slots == 1


# --------------------------------------------------------------------------------------- abandoned


def notes(error: BaseException) -> list[str]:
    """Return the notes of an exception."""
    return getattr(error, "__notes__", [])


async def test_abandoned_once(caplog: pytest.LogCaptureFixture) -> None:
    """An abandoned task is one event and one warning; each exception has a note."""
    service = Service()
    task = await service.begin()
    errors = [ValueError(), ValueError()]
    for error in errors:
        service.registry.abandon(task, error)
    assert service.events == [TasksAbandoned((REF,))]
    assert len(caplog.records) == 1
    for error in errors:
        assert str(REF) in notes(error)[0]
    assert task.reported


async def test_abandoned_by_several_operations() -> None:
    """Of several operations that abandon a task one reports it, each the others of its own."""
    service = Service()
    tasks = [await service.begin(ref=TaskRef(REF.model, f"task_{n}")) for n in range(3)]
    service.registry.abandon(tasks[0])
    received: list[tuple[TaskRef, ...]] = []
    operation = service.registry.abandoned_tasks(received.append)
    operation.report([task.ref for task in tasks])
    assert received == [(tasks[1].ref, tasks[2].ref)]
    assert service.events == [TasksAbandoned((tasks[0].ref,)), TasksAbandoned(received[0])]


async def test_abandoned_after_the_end() -> None:
    """The outcome of a task that has ended can be abandoned, too."""
    service = Service()
    received: list[tuple[TaskRef, ...]] = []
    service.registry.abandoned_tasks(received.append).report([REF])
    assert received == [(REF,)]


# ---------------------------------------------------------------------------- when tasks have ended


async def end(service: Service, number: int) -> TaskRef:
    """See a task end that was submitted here."""
    ref = TaskRef(REF.model, f"task_{number}")
    await service.begin(ref=ref)
    service.note(evolve(SUCCESS, ref=ref))
    return ref


async def test_when_a_task_has_ended() -> None:
    """The latest moment counts at which a task was seen to end that had been seen running."""
    service = Service()
    assert service.registry.ended_at(REF) is None
    await end(service, 1)
    between = datetime.now(UTC)
    await end(service, 1)
    ended_at = service.registry.ended_at(REF)
    assert ended_at is not None
    assert between <= ended_at <= datetime.now(UTC)


async def test_the_latest_ends_are_remembered() -> None:
    """A process that lives long does not remember all tasks."""
    service = Service()
    first = await end(service, 0)
    second = await end(service, 1)
    for number in range(2, 500):
        await end(service, number)
    await end(service, 0)
    assert service.registry.ended_at(second) is not None
    await end(service, 500)
    assert service.registry.ended_at(second) is None
    assert service.registry.ended_at(first) is not None
