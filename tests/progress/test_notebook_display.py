"""The block of a notebook, with a stand-in for IPython's output."""

from __future__ import annotations

import asyncio
import re
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from kling_async import MasterTextToVideo, Snapshot, TaskRef, TaskState
from kling_async.errors import ServerError
from kling_async.events import (
    Retrying,
    SubmitFailed,
    SubmitStarted,
    Submitted,
    TaskEnded,
    TasksAbandoned,
)
from kling_async.progress.board import ProgressLine
from kling_async.progress.hook import Progress
from kling_async.progress.notebook_display import NotebookDisplay
from tests._display.page_reader import PageReader

if TYPE_CHECKING:
    from typing import Protocol

    class Html(Protocol):
        def _repr_html_(self) -> str: ...


REFS = [TaskRef("kling-2-1", f"task_{number}") for number in range(30)]
FOX = MasterTextToVideo("a fox")
BUSY = Retrying("status", ServerError("busy"), 1, 2.25)


class Output:
    """What is below the cells of a notebook: all contents of all blocks."""

    def __init__(self) -> None:
        self.blocks: list[list[str]] = []
        self.texts: list[str] = []  # for what shows no HTML

    def display(self, content: Html, *, display_id: bool) -> SimpleNamespace:
        assert display_id
        self.texts.append(repr(content))
        block = [content._repr_html_()]
        self.blocks.append(block)
        return SimpleNamespace(update=lambda again: block.append(again._repr_html_()))

    @property
    def last(self) -> PageReader:
        return PageReader(self.blocks[-1][-1])

    @property
    def words(self) -> str:
        """The text of the last block, without its styles."""
        return PageReader(
            re.sub("<style>.*?</style>", "", self.blocks[-1][-1], flags=re.DOTALL)
        ).words


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Output:
    """Make this process one that runs cells."""
    output = Output()
    shell = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", output)
    return output


def _ended(ref: TaskRef, *, ok: bool = True) -> TaskEnded:
    if ok:
        return TaskEnded(Snapshot(ref, TaskState.SUCCESS, "success"))
    return TaskEnded(Snapshot(ref, TaskState.FAILED, "failed", fail_code="<NSFW>"))


async def test_rows(output: Output) -> None:
    """Each task has a row, which moves while nothing is known, and remains."""
    progress = Progress()
    progress(Submitted(REFS[0], FOX))
    await asyncio.sleep(30.5)
    (bar,) = output.last.all("progress")
    assert bar["aria-label"] == "a fox"
    assert float(bar["value"] or 0) == pytest.approx(30 / 75, abs=0.01)
    progress(_ended(REFS[0]))
    assert output.words.split() == ["a", "foxdone30.5", "s"]
    assert output.last.all("progress")[0]["value"] == "1.000"
    contents = len(output.blocks[0])
    await asyncio.sleep(10)
    assert len(output.blocks[0]) == contents  # nothing is left that draws


async def test_blocks(output: Output) -> None:
    """Tasks after the end of a block begin another one."""
    progress = Progress()
    for ref in REFS[:2]:
        progress(Submitted(ref, FOX))
        progress(_ended(ref))
    assert len(output.blocks) == 2
    assert output.texts == ["0 done", "0 done"]


async def test_end_that_is_not_known(output: Output) -> None:
    """A task that takes longer than expected has a bar without a value."""
    progress = Progress()
    progress(Submitted(REFS[0], FOX))
    await asyncio.sleep(150)
    (bar,) = output.last.all("progress")
    assert "value" not in bar
    assert "2 min 30 s" in output.words or "2 min 29 s" in output.words
    progress(TasksAbandoned((REFS[0],)))
    assert "left running" in output.words


async def test_many(output: Output) -> None:
    """Many tasks share a bar, and their numbers are below it."""
    progress = Progress()
    for ref in REFS:
        progress(Submitted(ref, FOX))
    await asyncio.sleep(1.5)
    assert "value" not in output.last.all("progress")[0]
    assert "30 running" in output.words
    for ref in REFS:
        progress(_ended(ref))
    assert output.last.all("progress")[0]["value"] == "1.000"
    assert "30 done" in output.words


async def test_total(output: Output) -> None:
    """With a total, the bar says how much has ended."""
    progress = Progress(total=30)
    for ref in REFS[:3]:
        progress(Submitted(ref, FOX))
        progress(_ended(ref, ok=False))
    progress(SubmitStarted(FOX, submit_id=1))
    progress(SubmitFailed(FOX, ServerError("no"), submit_id=1))
    await asyncio.sleep(1.5)
    assert output.last.all("progress")[0]["value"] == "0.133"
    assert "13%" in output.words
    progress.close()
    assert output.last.all("progress")[0]["value"] == "0.133"


async def test_messages(output: Output) -> None:
    """Reasons of failures are below the rows, escaped; of many, the first twenty."""
    with NotebookDisplay() as display:
        for number in range(25):
            line = ProgressLine(display, f"<b>{number}</b>")
            line.finish("failed", "<i>refused")
    assert "<b>24</b>: FAILED" not in output.words
    assert "<b>19</b>: FAILED: <i>refused (0.0 s)" in output.words
    assert output.last.all("b") == output.last.all("i") == []


async def test_display_that_is_not_open(output: Output) -> None:
    """Before it is opened and after it is closed, a display draws nothing."""
    display = NotebookDisplay()
    ProgressLine(display, "a fox").finish("done", "done")
    display.close()
    assert output.blocks == []


async def test_notes(output: Output, capsys: pytest.CaptureFixture[str]) -> None:
    """Why requests wait is in the block, or printed while there is no block."""
    progress = Progress()
    progress(BUSY)
    assert capsys.readouterr().err == "again in 2.2 s: busy\n"
    progress(Submitted(REFS[0], FOX))
    progress(BUSY)
    await asyncio.sleep(1.5)
    assert "again in 2.2 s: busy" in output.words
    await asyncio.sleep(5)
    assert "again" not in output.words
    progress(BUSY)
    progress(_ended(REFS[0]))
    assert "again" not in output.words
