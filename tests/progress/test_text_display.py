from __future__ import annotations

import asyncio

import pytest

from kling_async._display.progress import Progress, ProgressLine, wait_with_progress
from kling_async.errors import ServerError, TaskFailedError
from kling_async.events import Paused, Polled, Retrying
from kling_async.limits.base import Limits
from kling_async.policy.durations import Kind
from kling_async.policy.polling import Polling
from kling_async.results import Snapshot, TaskRef, TaskState
from kling_async.tasks.poll_scheduler import PollScheduler
from kling_async.tasks.task import Task

REF = TaskRef("kling-2-1", "task_1")
URL = "https://example.com/video.mp4"
Capture = pytest.CaptureFixture[str]


async def test_each_change_is_one_line(capsys: Capture) -> None:
    """A line is written when the state changes, and at the end with the seconds it took."""
    with Progress() as shown:
        line = ProgressLine(shown, "01 pro", expected=75, detail="not shown")
        line.update("pending")
        line.update("pending")
        await asyncio.sleep(61.5)
        line.update("processing")
        line.finish("done", ok=True)
    assert capsys.readouterr() == (
        "",
        "01 pro: pending\n01 pro: processing\n01 pro: done (61.5 s)\n",
    )


async def test_failures_are_lines(capsys: Capture) -> None:
    """A failure with a message is printed; one without is printed elsewhere."""
    with Progress() as shown:
        ProgressLine(shown, "01").finish("refused\x1b", ok=False)
        ProgressLine(shown, "02").finish(ok=False)
    assert capsys.readouterr().err == "01: FAILED: refused\\x1b (0.0 s)\n"


def _task(*snapshots: Snapshot) -> Task:
    answers = iter(snapshots)

    class Registry:
        async def read_status(self, _ref: TaskRef) -> Snapshot:
            return next(answers)

        def abandon(self, _task: Task, _error: BaseException | None = None) -> None: ...

    scheduler = PollScheduler(Polling(), Limits())
    return Task(REF, scheduler.track(Kind(REF.model), None), Registry(), scheduler)


async def test_wait_shows_states_and_returns_the_result(capsys: Capture) -> None:
    """States have the names of the service until the result is there."""
    task = _task(
        Snapshot(REF, TaskState.PENDING, "pending"),
        Snapshot(REF, TaskState.PROCESSING, "processing_r2"),
        Snapshot(REF, TaskState.SUCCESS, "success", result_urls=(URL,)),
    )
    with Progress() as shown:
        result = await wait_with_progress(task, ProgressLine(shown, "01"))
    assert result.result_urls == (URL,)
    assert capsys.readouterr().err == "01: pending\n01: processing_r2\n"


async def test_wait_raises_what_the_task_failed_with() -> None:
    """A failed task raises as it does when it is awaited."""
    task = _task(Snapshot(REF, TaskState.FAILED, "failed", fail_code="NSFW"))
    with pytest.raises(TaskFailedError, match="NSFW"):
        await wait_with_progress(task, ProgressLine(Progress(silent=True), "01"))


def test_waits_are_explained(capsys: Capture) -> None:
    """Retries and pauses are printed, other events are not."""
    shown = Progress()
    shown.on_event(Retrying("submit", ServerError("busy"), 1, 2.25))
    shown.on_event(Paused(7.5))
    shown.on_event(Polled(Snapshot(REF, TaskState.PENDING)))
    assert capsys.readouterr().err == (
        "again in 2.2 s: busy\nover the limit: all requests wait for 7.5 s\n"
    )
