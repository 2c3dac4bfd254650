"""Live progress, as a terminal sees it."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Emulate

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
TEXT = {"mode": "master-text-to-video", "prompt": "a fox\x1b[31m in snow"}


def _in_terminal(
    *argv: object,
    env: dict[str, str] | None = None,
    height: int = 30,
    all_of_it: bool = False,
) -> tuple[int, str, str]:
    """Run a command with a terminal as stderr; give its code, its stdout and what was shown.

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
    process = subprocess.Popen(
        (sys.executable, "-W", "error", "-m", "kling_async", *map(str, argv)),
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
    assert re.search(r"all +9 done, 1 failed +━+", text)
    assert "NSFW_DETECTED" in text
    assert "saving" not in text


def test_result_beside_the_bars(emulate: Emulate) -> None:
    """A result is printed whole below the bar, the reference above it."""
    env = emulate("--speed", "1000")
    argv = ("generate", "a fox", "--first-poll", "0.1")
    code, _, shown = _in_terminal(*argv, env=env, all_of_it=True)
    text = CODES.sub("", shown)
    assert code == 0
    assert "submitted kling-2-1/task_" in text
    assert text.rstrip().splitlines()[-1].startswith(f"{env['APIXO_BASE_URL']}/files/task_")


def test_error_below_the_bars(emulate: Emulate) -> None:
    """A failed task has one sentence after the bar, and no words beside it."""
    env = emulate("--speed", "1000", "--fault", "task:1=fail:NSFW_DETECTED")
    code, out, shown = _in_terminal("generate", "a fox", "--first-poll", "0.1", env=env)
    text = CODES.sub("", shown)
    assert (code, out) == (1, "")
    assert "master-text-to-video: " not in text
    assert len(re.findall("^kling-async: ", text, re.MULTILINE)) == 1


def test_wait_without_knowing_how_long(emulate: Emulate) -> None:
    """Tasks of unknown age have bars that only pulse, and failures among them are printed once."""
    env = emulate("--speed", "1000")
    refs = ("kling-2-1/task_none", "kling-2-1/task_gone")
    code, out, shown = _in_terminal("wait", *refs, env=env)
    assert (code, out) == (1, "")
    assert CODES.sub("", shown).count("kling-async: status answered 404") == 2


@pytest.mark.slow
def test_block_of_a_batch(emulate: Emulate, tmp_path: Path) -> None:
    """A batch has one bar, with its counts below, and what is finished is above it."""
    env = emulate("--speed", "100", "--fault", "task:2=fail:NSFW_DETECTED")
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
