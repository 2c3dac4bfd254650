from __future__ import annotations

import asyncio
import io
import sys

import pytest

from kling_async.cli.progress import Plain, follow, progress, tell
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


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_plain_lines_tell_each_change_once(capsys: Capture) -> None:
    """A line is written when the state changes, and at the end with the seconds it took."""
    with Plain() as shown:
        line = shown.line("01 pro", expected=75, about="not shown")
        line.say("pending")
        line.say("pending")
        await asyncio.sleep(61.5)
        line.say("processing")
        line.end("done", ok=True)
    assert capsys.readouterr() == (
        "",
        "01 pro: pending\n01 pro: processing\n01 pro: done (61.5 s)\n",
    )


async def test_plain_lines_tell_failures(capsys: Capture) -> None:
    """A failure with words is told; one without is told elsewhere."""
    with Plain() as shown:
        shown.line("01").end("refused\x1b", ok=False)
        shown.line("02").end(ok=False)
    assert capsys.readouterr().err == "01: FAILED: refused\\x1b (0.0 s)\n"


async def test_silence(capsys: Capture) -> None:
    """Silent progress writes nothing."""
    with progress(silent=True) as shown:
        shown.line("01").say("pending")
        shown.note("again")
    assert capsys.readouterr() == ("", "")


def test_pipes_get_plain_lines() -> None:
    """Where stderr is no terminal, progress is plain lines."""
    assert isinstance(progress(), Plain)


def test_dumb_terminals_get_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that cannot move its cursor gets plain lines."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(progress(), Plain)


def test_terminals_without_rich_get_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra there are no bars, and no complaint."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setitem(sys.modules, "rich", None)
    assert isinstance(progress(), Plain)


def _task(*snapshots: Snapshot) -> Task:
    answers = iter(snapshots)

    class Registry:
        async def read_status(self, _ref: TaskRef) -> Snapshot:
            return next(answers)

        def abandon(self, _task: Task, _error: BaseException | None = None) -> None: ...

    scheduler = PollScheduler(Polling(), Limits())
    return Task(REF, scheduler.track(Kind(REF.model), None), Registry(), scheduler)


async def test_follow_tells_states_and_gives_the_result(capsys: Capture) -> None:
    """States are told in the service's own word until the result is there."""
    task = _task(
        Snapshot(REF, TaskState.PENDING, "pending"),
        Snapshot(REF, TaskState.PROCESSING, "processing_r2"),
        Snapshot(REF, TaskState.SUCCESS, "success", result_urls=(URL,)),
    )
    with Plain() as shown:
        result = await follow(task, shown.line("01"))
    assert result.result_urls == (URL,)
    assert capsys.readouterr().err == "01: pending\n01: processing_r2\n"


async def test_follow_raises_what_the_task_failed_with() -> None:
    """A failed task raises as it does when it is awaited."""
    task = _task(Snapshot(REF, TaskState.FAILED, "failed", fail_code="NSFW"))
    with pytest.raises(TaskFailedError, match="NSFW"):
        await follow(task, Plain(silent=True).line("01"))


def test_waits_are_explained(capsys: Capture) -> None:
    """Retries and pauses are told, other events are not."""
    shown = Plain()
    tell(shown, Retrying("submit", ServerError("busy"), 1, 2.25))
    tell(shown, Paused(7.5))
    tell(shown, Polled(Snapshot(REF, TaskState.PENDING)))
    assert capsys.readouterr().err == (
        "again in 2.2 s: busy\nover the limit: everything waits for 7.5 s\n"
    )
