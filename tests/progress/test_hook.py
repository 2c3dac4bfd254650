"""The hook, as its events come and as a client emits them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from kling_async import (
    KlingClient,
    MasterTextToVideo,
    Retry,
    Snapshot,
    TaskFailedError,
    TaskRef,
    TaskState,
)
from kling_async.errors import ConfigurationError, ServerError
from kling_async.events import (
    CalledBack,
    DetailedEvent,
    Polled,
    Retrying,
    SubmitFailed,
    SubmitStarted,
    Submitted,
    SubmitWithdrawn,
    TaskAttached,
    TaskDropped,
    TaskEnded,
    TasksAbandoned,
)
from kling_async.progress import hook
from kling_async.progress.hook import Progress

if TYPE_CHECKING:
    from tests.conftest import Connect, Emulate

Capture = pytest.CaptureFixture[str]
FOX = MasterTextToVideo("a fox")
REFS = [TaskRef("kling-2-1", f"task_{number}") for number in range(100)]


def _ended(ref: TaskRef, *, ok: bool = True) -> TaskEnded:
    if ok:
        return TaskEnded(Snapshot(ref, TaskState.SUCCESS, "success", result_urls=("https://x/a",)))
    return TaskEnded(Snapshot(ref, TaskState.FAILED, "failed", fail_code="NSFW", fail_message="no"))


def _polled(ref: TaskRef, state: TaskState = TaskState.PROCESSING) -> Polled:
    return Polled(Snapshot(ref, state, str(state)))


async def test_generation(emulate: Emulate, connect: Connect, capsys: Capture) -> None:
    """A task is shown by its prompt, from the submit until the client knows that it has ended."""
    kling = await connect(await emulate(), hooks=[Progress()])
    result = await kling.generate(FOX)
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == f"a fox: submitted {result.ref}"
    assert last.startswith("a fox: done (6")


async def test_failure(emulate: Emulate, connect: Connect, capsys: Capture) -> None:
    """The reason of a failure is shown."""
    kling = await connect(await emulate("task:1=fail:NSFW_DETECTED"), hooks=[Progress()])
    with pytest.raises(TaskFailedError):
        await kling.generate(FOX)
    assert "a fox: FAILED: NSFW_DETECTED: " in capsys.readouterr().err


async def test_cancellation(emulate: Emulate, connect: Connect, capsys: Capture) -> None:
    """A task whose caller is cancelled is left running, and the display ends."""
    kling = await connect(await emulate(), hooks=[Progress()])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(30):
            await kling.generate(FOX)
    assert capsys.readouterr().err.splitlines()[-1] == "a fox: left running (30.0 s)"


async def test_closing(emulate: Emulate, capsys: Capture) -> None:
    """Closing the client ends the display of tasks for which nothing waits."""
    emulator = await emulate()
    async with KlingClient(emulator.key, base_url=emulator.base_url, hooks=[Progress()]) as kling:
        await kling.submit(FOX)
    assert "a fox: left running" in capsys.readouterr().err


async def test_attached_task(emulate: Emulate, connect: Connect, capsys: Capture) -> None:
    """A task that was submitted elsewhere is shown by its reference."""
    emulator = await emulate()
    ref = (await (await connect(emulator)).submit(FOX)).ref
    await asyncio.sleep(30)
    await (await connect(emulator, hooks=[Progress()])).attach(ref)
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == f"{ref}: processing"
    assert last.startswith(f"{ref}: done (")


async def test_task_of_known_age(emulate: Emulate, connect: Connect, capsys: Capture) -> None:
    """A task that was submitted a while ago, as one of a batch that is resumed, is shown at once.

    Its prompt is, if that is known, and its age is that of the task.
    """
    progress, emulator = Progress(), await emulate(duration=(90.0, 90.0))
    ref = (await (await connect(emulator)).submit(FOX)).ref
    kling = await connect(emulator, hooks=[progress])
    task = kling.attach(
        ref, input=FOX, submitted_at=datetime.now(UTC) - timedelta(seconds=30, milliseconds=1)
    )
    assert kling.attach(ref) is task
    assert capsys.readouterr().err == f"a fox: attached {ref}\n"
    assert 30 < progress.lines[ref].seconds < 31
    assert progress.lines[ref].expected == 75.0
    await task
    assert capsys.readouterr().err.splitlines()[-1].startswith("a fox: done (1")


def test_tasks_that_are_not_followed(capsys: Capture) -> None:
    """One status call for a task, or an answer that is older than its end, does not show it."""
    progress = Progress()
    progress(_polled(REFS[0]))
    assert progress.lines == {}
    progress(TaskAttached(REFS[0]))
    progress(_polled(REFS[0]))
    assert list(progress.lines) == REFS[:1]
    progress(TaskAttached(REFS[0]))
    progress(_ended(REFS[0]))
    progress(_polled(REFS[0]))
    assert progress.lines == {}


async def test_late_answer(emulate: Emulate, connect: Connect, capsys: Capture) -> None:
    """A status call that is answered after the end of its task does not begin the display again."""
    progress = Progress()
    retry = Retry(request_timeout=200)
    kling = await connect(await emulate("status:1=slow:100"), hooks=[progress], retry=retry)
    task = await kling.submit(FOX)
    late = asyncio.create_task(kling.status(task.ref))
    await task
    assert not late.done()
    assert not (await late).state.ended
    assert progress.lines == {}
    assert capsys.readouterr().err.splitlines()[-1].startswith("a fox: done (6")


def test_tasks_that_are_waited_for_again(capsys: Capture) -> None:
    """A task that was abandoned is shown again once it is polled again."""
    progress = Progress()
    progress(Submitted(REFS[0], FOX))
    progress(TasksAbandoned(tuple(REFS[:2])))
    assert progress.lines == {}
    progress(_polled(REFS[0]))
    progress(_polled(REFS[1]))
    assert list(progress.lines) == REFS[:1]
    progress.close()
    progress(_polled(REFS[0]))
    assert progress.lines == {}


def test_memory_for_attached_tasks_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that are attached and never polled are forgotten, the oldest first."""
    monkeypatch.setattr(hook, "_REMEMBERED", 2)
    progress = Progress()
    for ref in REFS[:3]:
        progress(TaskAttached(ref))
    progress(TaskDropped(REFS[2], "not_found"))
    for ref in REFS[:3]:
        progress(_polled(ref))
    assert list(progress.lines) == REFS[1:2]
    progress.close()


async def test_many(emulate: Emulate, connect: Connect, capsys: Capture) -> None:
    """Many tasks are counted, those that were refused included."""
    emulator = await emulate("submit:5=422")
    kling = await connect(emulator, hooks=[Progress(total=30)])
    async for _ in kling.generate_many([FOX] * 30):
        pass
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("29 of 30 done, 1 failed, after 1 min")
    assert len(lines) <= 4


async def test_clients_share_a_display(emulate: Emulate, connect: Connect, capsys: Capture) -> None:
    """One object shows the tasks of several clients, until the last has ended."""
    emulator, progress = await emulate(), Progress()
    clients = [await connect(emulator, hooks=[progress]) for _ in range(2)]
    await asyncio.gather(*(kling.generate(FOX) for kling in clients))
    assert capsys.readouterr().err.count("a fox: done") == 2


async def test_durations_are_learned(capsys: Capture) -> None:
    """Tasks are expected to take what those before them have taken."""
    progress = Progress()
    expected = []
    for ref in REFS:
        progress(Submitted(ref, FOX))
        expected.append(progress.lines[ref].expected)
        await asyncio.sleep(4)
        progress(_ended(ref))
    assert expected[0] == 75.0
    assert expected[-1] == pytest.approx(4.0)


def test_memory_is_bounded(capsys: Capture) -> None:
    """Tasks that have ended are forgotten."""
    progress = Progress()
    for ref in REFS:
        progress(Submitted(ref, FOX))
    for ref in REFS[:99]:
        progress(_ended(ref))
    assert list(progress.lines) == REFS[99:]
    progress.close()


def test_states_of_other_tasks(capsys: Capture) -> None:
    """A task that had ended before it was known is not shown, and callbacks are not confirmed."""
    progress = Progress()
    progress(_polled(REFS[0], TaskState.SUCCESS))
    progress(_ended(REFS[0]))
    progress(CalledBack(Snapshot(REFS[1], TaskState.PROCESSING)))
    progress(TasksAbandoned((REFS[2],)))
    assert capsys.readouterr().err == ""


async def test_tasks_without_news(capsys: Capture) -> None:
    """A task of which nothing is known for ten minutes is not shown any more."""
    progress = Progress()
    for ref in REFS[:2]:
        progress(Submitted(ref, FOX))
    for _ in range(13):
        await asyncio.sleep(50)
        progress(_polled(REFS[1]))
    assert list(progress.lines) == REFS[1:2]
    progress(_ended(REFS[1], ok=False))
    assert "a fox: FAILED: NSFW: no (650.0 s)" in capsys.readouterr().err


async def test_submits_that_wait_long(capsys: Capture) -> None:
    """A submit that waits for a slot for more than ten minutes is still shown as waiting."""
    progress = Progress()
    progress(SubmitStarted(FOX, submit_id=1))
    progress(Submitted(REFS[0], FOX))
    for _ in range(13):
        await asyncio.sleep(50)
        progress(_polled(REFS[0]))
    assert {*progress.lines} == {REFS[0], 1}
    progress(Submitted(REFS[1], FOX, submit_id=1))
    assert {*progress.lines} == {*REFS[:2]}
    assert "left running" not in capsys.readouterr().err
    progress.close()


def test_kind_without_an_estimate(capsys: Capture) -> None:
    """Of an unknown model, the first duration is the estimate."""

    class Other(MasterTextToVideo):
        model = "other"

    progress = Progress()
    for ref, expected in zip(REFS[:2], (None, pytest.approx(0, abs=60)), strict=True):
        progress(Submitted(ref, Other("a fox")))
        assert progress.lines[ref].expected == expected
        progress(_ended(ref))


def test_failure_without_a_reason(capsys: Capture) -> None:
    """A failure without code and message is one."""
    progress = Progress()
    progress(Submitted(REFS[0], FOX))
    progress(TaskEnded(Snapshot(REFS[0], TaskState.FAILED, "failed")))
    assert "a fox: FAILED: no reason given" in capsys.readouterr().err


def test_waits_are_explained(capsys: Capture) -> None:
    """Retries are explained, also while no task runs."""
    Progress()(Retrying("submit", ServerError("busy"), 1, 2.25))
    assert capsys.readouterr().err == "again in 2.2 s: busy\n"


@pytest.mark.parametrize(
    ("end", "numbers"),
    [
        (SubmitFailed(FOX, ServerError("no"), submit_id=1), "0 of 30 done, 1 failed"),
        (SubmitWithdrawn(FOX, submit_id=1), "0 of 30 done, 1 cancelled"),
    ],
)
def test_submits_that_end(end: DetailedEvent, numbers: str, capsys: Capture) -> None:
    """A submit is shown while it waits. Its error is raised, and not shown."""
    progress = Progress(total=30)
    progress(SubmitStarted(FOX, submit_id=1))
    assert [line.state for line in progress.lines.values()] == ["waiting"]
    progress(end)
    assert progress.lines == {}
    progress.close()
    assert capsys.readouterr().err == f"{numbers}, after 0 s\n"


async def test_wait_for_a_slot(capsys: Capture) -> None:
    """The seconds of a task count from its acceptance, not from the beginning of the wait."""
    progress = Progress()
    progress(SubmitStarted(FOX, submit_id=1))
    await asyncio.sleep(1000)
    progress(Submitted(REFS[0], FOX, submit_id=1))
    await asyncio.sleep(60)
    progress(_ended(REFS[0]))
    assert "a fox: done (60.0 s)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("event", "numbers"),
    [
        (TaskDropped(REFS[0], "not_found"), "0 of 30 done, 1 failed"),
        (TaskDropped(REFS[0], "presumed_ended"), "0 of 30 done, 1 left running"),
    ],
)
def test_tasks_that_are_dropped(event: TaskDropped, numbers: str, capsys: Capture) -> None:
    """A task that the client does not follow any more is not shown any more."""
    progress = Progress(total=30)
    progress(Submitted(REFS[0], FOX))
    progress(event)
    progress.close()
    assert capsys.readouterr().err == f"{numbers}, after 0 s\n"


def test_the_end_of_a_block(capsys: Capture) -> None:
    """As a context manager, it ends with the block."""
    with Progress(total=10) as progress:
        progress(Submitted(REFS[0], FOX))
    assert "a fox: left running" in capsys.readouterr().err


def test_what_is_no_total() -> None:
    """A total that is not a number is refused: a hook is an object, not the class."""
    with pytest.raises(ConfigurationError, match="total must be a number of tasks"):
        Progress(SubmitStarted(FOX))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="total must be a number of tasks, not -1"):
        Progress(total=-1)
