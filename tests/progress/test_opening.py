from __future__ import annotations

import io
import sys

import pytest

from kling_async._display.opening import open_progress
from kling_async._display.progress import Progress, ProgressLine

Capture = pytest.CaptureFixture[str]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_silence(capsys: Capture) -> None:
    """Silent progress writes nothing."""
    with open_progress(silent=True) as shown:
        ProgressLine(shown, "01").update("pending")
        shown.print("again")
    assert capsys.readouterr() == ("", "")


def test_pipes_get_plain_lines() -> None:
    """Where stderr is no terminal, progress is plain lines."""
    assert type(open_progress()) is Progress


def test_dumb_terminals_get_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that cannot move its cursor gets plain lines."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "dumb")
    assert type(open_progress()) is Progress


def test_terminals_without_rich_get_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra there are no bars, and no complaint."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setitem(sys.modules, "rich", None)
    assert type(open_progress()) is Progress
