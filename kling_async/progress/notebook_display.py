"""Progress in a notebook: one block of HTML below the cell, which is updated."""

from __future__ import annotations

import asyncio
from collections import deque
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Protocol

from kling_async._utils.text import format_duration, printable
from kling_async.progress.text_display import MAX_FAILURES, TextDisplay

if TYPE_CHECKING:
    from collections.abc import Callable

    from kling_async.progress.board import ProgressLine

_CAPACITY = 20

# Seconds from which on tenths do not matter.
_LONG = 100.0

# Seconds between two updates while nothing changes but the time.
_INTERVAL = 1.0


class _Handle(Protocol):
    """A block of output, as IPython's ``display`` returns it."""

    def update(self, content: object) -> None:
        """Replace the content."""


class _Html:
    """What IPython shows as HTML, and as text where it cannot."""

    def __init__(self, html: str, text: str) -> None:
        self._html, self._text = html, text

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        return self._html


class NotebookDisplay(TextDisplay):
    """A block with a row for each task, or one that counts them if there are many."""

    is_live: bool = True

    def __init__(self, total: int | None = None) -> None:
        super().__init__(total=total, capacity=_CAPACITY)
        self._handle: _Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lines: deque[str] = deque(maxlen=MAX_FAILURES)  # below the rows: messages

    def open(self) -> None:
        """Begin a block below the cell that runs."""
        from IPython.display import display

        if not self._is_open:
            super().open()
            show: Callable[..., _Handle] = display
            self._handle = show(_Html(self.to_html(), self.board.summary()), display_id=True)
            self._tick()

    def close(self) -> None:
        """Update the block for the last time."""
        self._is_open = False
        if self._timer is not None:
            self._timer.cancel()
            self._draw()
        self._handle = self._timer = None
        self._lines.clear()
        self.board.clear()

    def print(self, text: str) -> None:
        """Add a line below the rows, or print it if there is no block."""
        if self._handle is None:
            super().print(text)
        else:
            self._lines.append(printable(text))

    def add(self, line: ProgressLine) -> None:
        """Show another task; what had its place is only counted."""
        super().add(line)
        self._draw_row()

    def to_html(self) -> str:
        """Return the block."""
        style = resources.files(__package__).joinpath("notebook.css").read_text(encoding="utf-8")
        board, below = self.board, [*self._lines, self.note]
        if board.is_crowded:
            rows = [self._numbers_row()]
            below.insert(0, board.summary())
        else:
            rows = [_task_row(line) for line in board.rows]
        parts = (
            f'<div class="kling-progress"><style>{style}</style>',
            f"<ul>{''.join(rows)}</ul>",
            *(f'<p class="note">{escape(line)}</p>' for line in below if line),
            "</div>",
        )
        return "\n".join(parts)

    def _show_change(self, line: ProgressLine, text: str) -> None:  # noqa: ARG002
        self._draw_row()

    def _numbers_row(self) -> str:
        fraction = self.board.fraction
        percent = "" if fraction is None else f"{fraction:.0%}"
        if fraction is None and not self._is_open:
            fraction = 1.0
        return _row("videos", "", percent, fraction, self.board.seconds)

    def _tick(self) -> None:
        """Show how the time passes."""
        self._draw()
        self._timer = asyncio.get_running_loop().call_later(_INTERVAL, self._tick)

    def _draw_row(self) -> None:
        # The numbers of many tasks are drawn as the time passes.
        if not self.board.is_crowded:
            self._draw()

    def _draw(self) -> None:
        if self._handle is not None:
            self._handle.update(_Html(self.to_html(), self.board.summary()))


def _task_row(line: ProgressLine) -> str:
    return _row(line.full_label, line.state, line.state, line.fraction, line.seconds)


def _row(label: str, style: str, state: str, fraction: float | None, seconds: float) -> str:
    """Return a row: without a fraction, the bar shows that the end cannot be estimated."""
    shown = "" if fraction is None else f' value="{fraction:.3f}"'
    time = f"{seconds:.1f} s" if seconds < _LONG else format_duration(seconds)
    return (
        f'<li><span dir="auto" title="{escape(label)}">{escape(label)}</span>'
        f'<span class="{escape(style)}">{escape(state)}</span>'
        f'<progress aria-label="{escape(label)}"{shown}></progress>'
        f'<span class="seconds">{time}</span></li>'
    )
