from __future__ import annotations

import asyncio

import pytest

from kling_async.errors import ServerError
from kling_async.events import Paused, Polled, Retrying
from kling_async.progress.board import ProgressLine
from kling_async.progress.text_display import TextDisplay
from kling_async.results import Snapshot, TaskRef, TaskState

REF = TaskRef("kling-2-1", "task_1")
Capture = pytest.CaptureFixture[str]


async def test_each_change_is_one_line(capsys: Capture) -> None:
    """A line is written when the state changes, and at the end with the seconds it took."""
    with TextDisplay() as shown:
        line = ProgressLine(shown, "01 pro", expected=75, detail="not shown")
        line.update("submitted", "kling-2-1/task_1")
        await asyncio.sleep(61.5)
        line.update("processing")
        line.finish("done", "done")
    assert capsys.readouterr() == (
        "",
        "01 pro: submitted kling-2-1/task_1\n01 pro: processing\n01 pro: done (61.5 s)\n",
    )


def test_failures_are_lines(capsys: Capture) -> None:
    """A failure with a message is printed; one without is printed elsewhere."""
    with TextDisplay() as shown:
        ProgressLine(shown, "01").finish("failed", "refused\x1b")
        ProgressLine(shown, "02").finish("failed")
    assert capsys.readouterr().err == "01: FAILED: refused\\x1b (0.0 s)\n"


def test_long_labels_are_cut(capsys: Capture) -> None:
    """A line has the beginning of a prompt."""
    ProgressLine(TextDisplay(), "a fox " * 20).update("pending")
    assert capsys.readouterr().err == f"{('a fox ' * 20)[:59]}…: pending\n"


def test_silence(capsys: Capture) -> None:
    """A silent display writes nothing."""
    with TextDisplay(silent=True) as shown:
        ProgressLine(shown, "01").update("pending")
        shown.print("again")
    assert capsys.readouterr() == ("", "")


async def test_numbers_of_many(capsys: Capture) -> None:
    """Of many tasks, the numbers are written every 30 s and at the end."""
    with TextDisplay(capacity=1) as shown:
        lines = [ProgressLine(shown, str(number)) for number in range(3)]
        for line in lines:
            line.update("pending")
            await asyncio.sleep(20)
            line.finish("done", "done")
    assert capsys.readouterr().err == "2 done, 1 waiting, after 40 s\n3 done, after 1 min\n"


def test_failures_of_many(capsys: Capture) -> None:
    """Of many failures, the first twenty are written, and all are counted."""
    with TextDisplay(capacity=1) as shown:
        for line in [ProgressLine(shown, str(number)) for number in range(30)]:
            line.finish("failed", "refused")
    *lines, summary = capsys.readouterr().err.splitlines()
    assert lines == [f"{number}: FAILED: refused (0.0 s)" for number in range(20)]
    assert summary == "0 done, 30 failed, after 0 s"


def test_a_display_is_closed_once(capsys: Capture) -> None:
    """What is closed already has nothing to write."""
    with TextDisplay(total=30) as shown:
        ProgressLine(shown, "1").finish("done", "done")
    shown.close()
    assert capsys.readouterr().err == "1 of 30 done, after 0 s\n"


async def test_waits_are_explained(capsys: Capture) -> None:
    """Retries and pauses are printed, but not each of many. Other events are not printed."""
    shown = TextDisplay()
    shown.on_event(Retrying("submit", ServerError("busy"), 1, 2.25))
    shown.on_event(Retrying("submit", ServerError("another"), 1, 2.25))
    await asyncio.sleep(5)
    shown.on_event(Paused(7.5))
    shown.on_event(Polled(Snapshot(REF, TaskState.PENDING)))
    assert capsys.readouterr().err == (
        "again in 2.2 s: busy\nover the limit: all requests wait for 7.5 s\n"
    )


async def test_note_of_a_live_display(capsys: Capture) -> None:
    """A live display has a note until the requests are sent again, for at least five seconds."""

    class LiveDisplay(TextDisplay):
        is_live = True

    with LiveDisplay() as shown:
        for event, seconds in (
            (Retrying("submit", ServerError("busy"), 1, 2.0), 5),
            (Paused(9), 9),
        ):
            shown.on_event(event)
            await asyncio.sleep(seconds - 0.1)
            assert shown.note
            await asyncio.sleep(0.2)
            assert not shown.note
        shown.on_event(Paused(9))
    assert not shown.note
    assert capsys.readouterr().err == ""


def test_summaries(capsys: Capture) -> None:
    """How far a batch is, is a line."""
    TextDisplay().show_summary("rows.csv", 0.5, 2.0, "1 of 2 done")
    assert capsys.readouterr().err == "1 of 2 done\n"
