from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest

from kling_async.progress.notebook_display import NotebookDisplay
from kling_async.progress.opening import open_display
from kling_async.progress.rich_display import RichDisplay
from kling_async.progress.text_display import TextDisplay

Capture = pytest.CaptureFixture[str]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _use_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make stderr a terminal that can be drawn on."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_terminals_are_drawn_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal, progress is live."""
    _use_terminal(monkeypatch)
    assert type(open_display()) is RichDisplay


def test_pipes_get_lines() -> None:
    """Where stderr is not a terminal, progress is lines."""
    assert type(open_display()) is TextDisplay


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("NO_COLOR", "1")])
def test_terminals_that_get_lines(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a cursor that moves, and where no escape sequences are wanted, progress is lines."""
    _use_terminal(monkeypatch)
    monkeypatch.setenv(name, value)
    assert type(open_display()) is TextDisplay


def test_terminals_without_rich_get_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra there are no bars, and no complaint."""
    _use_terminal(monkeypatch)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert type(open_display()) is TextDisplay


def test_silence(capsys: Capture) -> None:
    """A silent display writes nothing."""
    with open_display(silent=True) as shown:
        shown.print("again")
    assert capsys.readouterr() == ("", "")


def test_no_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program without stderr has a silent display."""
    monkeypatch.setattr(sys, "stderr", None)
    open_display().print("again")


@pytest.mark.parametrize(
    ("shell", "expected"),
    [
        (SimpleNamespace(kernel=object()), NotebookDisplay),
        (SimpleNamespace(), TextDisplay),  # IPython in a terminal
        (None, TextDisplay),  # IPython is imported, and does not run
    ],
)
def test_notebooks(
    shell: object, expected: type[TextDisplay], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a notebook, progress is a block of the page."""
    ipython = SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert type(open_display()) is expected
