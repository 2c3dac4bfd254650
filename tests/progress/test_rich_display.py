"""Live progress, as a terminal sees it: of processes, and of displays in this one."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import struct
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from kling_async import MasterTextToVideo, Snapshot, TaskRef, TaskState
from kling_async.errors import ServerError
from kling_async.events import Retrying, Submitted, TaskEnded
from kling_async.progress import rich_display
from kling_async.progress.board import ProgressLine
from kling_async.progress.hook import Progress
from kling_async.progress.rich_display import RichDisplay

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Emulate

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
TEXT = {"mode": "master-text-to-video", "prompt": "a fox\x1b[31m in snow"}


def _in_terminal(
    *argv: object,
    env: dict[str, str] | None = None,
    height: int = 30,
    all_of_it: bool = False,
    program: str | None = None,
) -> tuple[int, str, str]:
    """Run a command, or the text of a program, with a terminal as stderr.

    Give its code, its stdout and what was shown.

    With ``all_of_it`` the terminal is its stdout, too.
    """
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, 100, 0, 0))
    named = {**(env or os.environ), "TERM": "xterm-256color", "PYTHONUTF8": "1"}
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        named.pop(name, None)
    what = ("-m", "kling_async") if program is None else ("-c", program)
    process = subprocess.Popen(
        (sys.executable, "-W", "error", *what, *map(str, argv)),
        stdout=theirs if all_of_it else subprocess.PIPE,
        stderr=theirs,
        env=named,
    )
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # how a pseudo-terminal says that the other side has gone
        while piece := os.read(ours, 65536):
            shown += piece
    os.close(ours)
    out, _ = process.communicate()
    return process.returncode, (out or b"").decode(), shown.decode()


def _rows(folder: Path, count: int) -> Path:
    path = folder / "my.jsonl"
    path.write_text(f"{json.dumps(TEXT)}\n" * count, encoding="utf-8")
    return path


@POSIX
@pytest.mark.slow
def test_bars_of_a_demo(tmp_path: Path) -> None:
    """Each video has a line with its number, prompt, state and seconds; stdout has the path."""
    code, out, shown = _in_terminal(
        "demo", _rows(tmp_path, 2), "--to", tmp_path, "--speed", 1000, "--video", "small"
    )
    assert (code, out) == (0, f"{tmp_path / 'index.html'}\n")
    text = CODES.sub("", shown)
    assert re.search(r"01 master-text-to-video +a fox\\x1b\[31m in snow +done +━+ +\d+\.\d s", text)
    assert re.search(r"02 master-text-to-video .*done +━+", text)
    assert "2 of 2 videos" in text
    assert "\x1b[31m in snow" not in shown


@POSIX
@pytest.mark.slow
def test_failures_are_printed_above_the_bars(tmp_path: Path) -> None:
    """A video that fails has its state and its reason."""
    code, _, shown = _in_terminal(
        "demo",
        *(_rows(tmp_path, 2), "--to", tmp_path, "--speed", 1000, "--video", "small"),
        *("--fault", "task:1=fail:NSFW_DETECTED"),
    )
    text = CODES.sub("", shown)
    assert code == 1
    assert re.search(r"0[12] master-text-to-video +.* failed +━+", text)
    assert "NSFW_DETECTED" in text


@POSIX
@pytest.mark.slow
def test_very_many_videos_share_a_bar(tmp_path: Path) -> None:
    """More videos than the terminal has lines are counted by one bar."""
    code, _, shown = _in_terminal(
        "demo",
        *(_rows(tmp_path, 9), "--to", tmp_path, "--speed", 1000, "--video", "small"),
        *("--fault", "task:4=fail:NSFW_DETECTED"),
        height=8,
    )
    text = CODES.sub("", shown)
    assert code == 1
    assert re.search(r"videos ━+ +100%", text)
    assert "8 of 9 done, 1 failed" in text
    assert "NSFW_DETECTED" in text
    assert "saving" not in text


@POSIX
@pytest.mark.slow
def test_result_beside_the_bars(emulate_process: Emulate) -> None:
    """A result is printed whole below the bar, the reference above it."""
    env = emulate_process("--speed", "1000")
    argv = ("generate", "a fox", "--first-poll", "0.1")
    code, _, shown = _in_terminal(*argv, env=env, all_of_it=True)
    text = CODES.sub("", shown)
    assert code == 0
    assert "submitted kling-2-1/task_" in text
    assert text.rstrip().splitlines()[-1].startswith(f"{env['APIXO_BASE_URL']}/files/task_")


@POSIX
@pytest.mark.slow
def test_error_below_the_bars(emulate_process: Emulate) -> None:
    """A failed task has one sentence after the bar, and no words beside it."""
    env = emulate_process("--speed", "1000", "--fault", "task:1=fail:NSFW_DETECTED")
    code, out, shown = _in_terminal("generate", "a fox", "--first-poll", "0.1", env=env)
    text = CODES.sub("", shown)
    assert (code, out) == (1, "")
    assert "master-text-to-video: " not in text
    assert len(re.findall("^kling-async: ", text, re.MULTILINE)) == 1


@POSIX
@pytest.mark.slow
def test_wait_without_knowing_how_long(emulate_process: Emulate) -> None:
    """Tasks of unknown age have bars that only pulse, and failures among them are printed once."""
    env = emulate_process("--speed", "1000")
    refs = ("kling-2-1/task_none", "kling-2-1/task_gone")
    code, out, shown = _in_terminal("wait", *refs, env=env)
    assert (code, out) == (1, "")
    assert CODES.sub("", shown).count("kling-async: status answered 404") == 2


@POSIX
@pytest.mark.slow
def test_block_of_a_batch(emulate_process: Emulate, tmp_path: Path) -> None:
    """A batch has one bar, with its counts below, and what is finished is above it."""
    env = emulate_process("--speed", "100", "--fault", "task:2=fail:NSFW_DETECTED")
    rows = tmp_path / "clips.jsonl"
    rows.write_text("\n".join(json.dumps({**TEXT, "prompt": f"fox {n}"}) for n in range(3)))
    argv = ("batch", rows, "--first-poll", "0.6", "--in-flight", "1")
    code, out, shown = _in_terminal(*argv, env=env)
    text = CODES.sub("", shown)
    assert (code, out.count("\t")) == (1, 2)
    assert re.search(r"clips.jsonl ━+[╸╺]?━* +\d+% 0:00:0\d", text)
    assert re.search(r"clips.jsonl ━+ +100% 0:00:0\d", text)
    assert "0 of 3 done, 1 running, 2 queued, 0 failed, 0 unsure" in text
    assert "2 of 3 done, 0 running, 0 queued, 1 failed, 0 unsure" in text
    assert "clips.jsonl: 3 rows in" in text


PROGRAM = """
import asyncio, os, signal
from kling_async import KlingClient, MasterTextToVideo, Polling
from kling_async.progress import Progress

async def main():
    async with KlingClient(polling=Polling(first=0.2), hooks=[Progress()]) as kling:
        url = await kling.generate(MasterTextToVideo("a fox in fresh snow"))
        print(url.url + "?" + "x" * 200)
        asyncio.get_running_loop().call_later(0.5, os.kill, os.getpid(), signal.SIGINT)
        await kling.generate(MasterTextToVideo("a wolf"), timeout=60)

asyncio.run(main())
"""


@POSIX
@pytest.mark.slow
def test_program_that_is_interrupted(emulate_process: Emulate) -> None:
    """One hook shows the tasks of a program; Ctrl-C ends it, and the cursor is visible again."""
    env = emulate_process("--speed", "100", "--fault", "task:2=stuck")
    code, _, shown = _in_terminal(program=PROGRAM, env=env, all_of_it=True)
    text = CODES.sub("", shown)
    assert code != 0
    assert re.search(r"a fox in fresh snow +done +━+ +\d+\.\d s", text)
    assert re.search(r"a wolf +left running +━+", text)
    assert "?" + "x" * 200 in text.replace("\r\n", "")
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert text.rindex("KeyboardInterrupt") > text.rindex("left running")


EXIT = """
from kling_async import MasterTextToVideo, TaskRef
from kling_async.events import Submitted
from kling_async.progress import Progress

Progress()(Submitted(TaskRef("kling-2-1", "task_1"), MasterTextToVideo("a fox")))
"""


@POSIX
@pytest.mark.slow
def test_program_that_ends() -> None:
    """A program that ends while a task runs leaves the terminal as it was."""
    code, _, shown = _in_terminal(program=EXIT)
    assert code == 0
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        return CODES.sub("", self.getvalue())


REFS = [TaskRef("kling-2-1", f"task_{number}") for number in range(30)]
FOX = MasterTextToVideo("a fox")
DONE = [TaskEnded(Snapshot(ref, TaskState.SUCCESS, "success")) for ref in REFS]


def _use_screen(monkeypatch: pytest.MonkeyPatch, width: int = 100, height: int = 30) -> Screen:
    """Draw on a screen in memory, as on a terminal of its own."""
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    for name, value in (("TERM", "xterm"), ("COLUMNS", str(width)), ("LINES", str(height))):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(rich_display, "terminal", rich_display.Terminal())
    return screen


def test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each task has a row; after the last, the rows stay and stderr is as it was."""
    screen = _use_screen(monkeypatch)
    progress = Progress()
    for ref in REFS[:2]:
        progress(Submitted(ref, FOX))
    assert sys.stderr is not screen
    print("between the rows", file=sys.stderr)  # noqa: T201
    for event in DONE[:2]:
        progress(event)
    assert sys.stderr is screen
    *_, first, second = screen.text.rstrip().splitlines()
    assert re.fullmatch(r"  a fox +done +━{24} +0\.\d s", first)
    assert re.fullmatch(r"  a fox +done +━{24} +0\.\d s", second)
    assert "between the rows" in screen.text


@pytest.mark.parametrize(("width", "bar"), [(100, 24), (60, 12), (40, 0)])
def test_width(width: int, bar: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a narrow terminal the bar is shorter, or left out; a row is one line."""
    screen = _use_screen(monkeypatch, width)
    progress = Progress()
    progress(Submitted(REFS[0], MasterTextToVideo("a fox in fresh snow " * 20)))
    progress(DONE[0])
    last = screen.text.splitlines()[-1]
    assert last.startswith("  a fox in fresh")
    assert "…" in last
    assert len(last) == width - 2  # there is room for ^C
    assert last.count("━") == bar


def test_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    """More tasks than the terminal has lines share a bar; the total is not known."""
    screen = _use_screen(monkeypatch, height=8)
    progress = Progress()
    for ref in REFS:
        progress(Submitted(ref, FOX))
    for event in DONE:
        progress(event)
    bar, numbers = screen.text.rstrip().splitlines()[-2:]
    assert re.fullmatch(r"  videos ━+ +0:00:0\d", bar)
    assert numbers.strip() == "30 done"


def test_ended_tasks_are_printed_above(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that has ended makes room for another, and its row remains above."""
    screen = _use_screen(monkeypatch, height=5)
    display = RichDisplay()
    with display:
        for number in range(4):
            ProgressLine(display, f"fox {number}").finish("done", "done")
    lines = screen.text.rstrip().splitlines()
    for number in range(4):
        assert sum(f"fox {number} " in line and "done" in line for line in lines) >= 1


def test_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason of a failure is above the rows."""
    screen = _use_screen(monkeypatch)
    progress = Progress()
    progress(Submitted(REFS[0], FOX))
    snapshot = Snapshot(REFS[0], TaskState.FAILED, "failed", fail_code="NSFW", fail_message="no")
    progress(TaskEnded(snapshot))
    assert "a fox: FAILED: NSFW: no" in screen.text
    assert re.search(r"a fox +failed +━+", screen.text.rstrip().splitlines()[-1])


def test_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why requests wait is below the rows, or printed while there is no row."""
    screen = _use_screen(monkeypatch)
    progress = Progress()
    retrying = Retrying("status", ServerError("busy"), 1, 2.25)
    progress(retrying)
    assert screen.text == "again in 2.2 s: busy\n"
    progress(Submitted(REFS[0], FOX))
    progress(retrying)
    rich_display.terminal.draw()
    assert screen.text.rstrip().splitlines()[-1].strip() == "again in 2.2 s: busy"
    progress(DONE[0])
    assert "again" not in screen.text.rstrip().splitlines()[-1]


def test_displays_share_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two displays are drawn below each other; one that ends first is printed above the other."""
    screen = _use_screen(monkeypatch)
    first, second = Progress(), Progress()
    first(Submitted(REFS[0], MasterTextToVideo("a fox")))
    second(Submitted(REFS[1], MasterTextToVideo("a wolf")))
    rich_display.terminal.draw()
    assert re.search(r"a fox .*\n.*a wolf ", screen.text)
    second(DONE[1])
    first(DONE[0])
    lines = screen.text.rstrip().splitlines()
    assert re.search(r"a fox +done ", lines[-1])
    assert any(re.search(r"a wolf +done ", line) for line in lines)
    assert sys.stderr is screen


def test_summaries(monkeypatch: pytest.MonkeyPatch) -> None:
    """How far a batch is, is a bar and a line of text."""
    screen = _use_screen(monkeypatch)
    with RichDisplay() as display:
        display.show_summary("rows.csv", 1.0, 3661.5, "2 of 2 done")
    bar, text = screen.text.rstrip().splitlines()[-2:]
    assert re.fullmatch(r"  rows.csv ━+ +100% 1:01:01", bar)
    assert text.strip() == "2 of 2 done"


def test_stdout_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written to a stdout that is a pipe is not changed."""
    _use_screen(monkeypatch)
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    progress = Progress()
    progress(Submitted(REFS[0], FOX))
    assert sys.stdout is out
    progress(DONE[0])


def test_stdout_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed to a terminal is above the rows, and not wrapped."""
    screen, out = _use_screen(monkeypatch), Screen()
    monkeypatch.setattr(sys, "stdout", out)
    progress = Progress()
    progress(Submitted(REFS[0], FOX))
    print("https://host/" + "x" * 200)  # noqa: T201
    progress(DONE[0])
    assert sys.stdout is out
    assert "https://host/" + "x" * 200 in screen.text


@pytest.mark.parametrize("name", ["", "tests.a_program"])
def test_log_of_a_program(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log records are above the rows, though their handlers keep the stream of their creation."""
    screen = _use_screen(monkeypatch)
    logger, handler = logging.getLogger(name), logging.StreamHandler()
    logger.addHandler(handler)
    try:
        progress = Progress()
        progress(Submitted(REFS[0], FOX))
        rich_display.terminal.draw()
        logging.getLogger("tests.a_program").warning("from the program")
        rich_display.terminal.draw()
        progress(DONE[0])
    finally:
        logger.removeHandler(handler)
    assert "\rfrom the program\n" in screen.text  # in place of the row, which is drawn below it
    assert handler.stream is screen


def test_stdout_that_is_replaced_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the program itself has put in the place of a stream stays there."""
    screen = _use_screen(monkeypatch)
    other = io.StringIO()
    progress = Progress(total=2)
    for ref, event in zip(REFS[:2], DONE[:2], strict=True):
        progress(Submitted(ref, FOX))
        sys.stderr = other
        progress(event)
    assert sys.stderr is other
    assert other.getvalue() == ""
    assert "done" in screen.text
    assert screen.getvalue().endswith("\x1b[?25h")
    rich_display.terminal.draw()  # nothing is left to draw


def test_closing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing the terminal ends all displays; what has ended is not drawn again."""
    screen = _use_screen(monkeypatch)
    progress = Progress()
    progress(Submitted(REFS[0], FOX))
    rich_display.terminal.close()
    before = screen.getvalue()
    progress.close()
    assert screen.getvalue() == before
    assert sys.stderr is screen
