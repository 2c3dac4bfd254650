"""Live progress on a terminal, by rich, which draws from a thread and never on the event loop."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Column, Table
from rich.text import Text

from kling_async._display.progress import Progress, ProgressLine
from kling_async._utils.text import printable

_BAR_WIDTH = 24

# Lines of the terminal that bars leave free.
_MARGIN = 2

_STYLES = {
    "waiting": "dim",
    "pending": "yellow",
    "processing": "cyan",
    "saving": "blue",
    "done": "green",
    "failed": "bold red",
}


class RichProgress(Progress):
    """A bar for each task, or one that counts them if the terminal has fewer lines."""

    summary_interval: float = 0.5

    def __init__(self, total: int) -> None:
        super().__init__()
        self._total = total
        self._lines: list[ProgressLine] = []
        self._summary: tuple[str, float, str] | None = None
        self._clock = asyncio.get_running_loop().time
        self._started = self._clock()
        self._spinner = Spinner("dots", style="progress.spinner")
        console = Console(stderr=True, highlight=False, markup=False)
        self._is_crowded = total > max(1, console.height - _MARGIN)
        self._live = Live(
            get_renderable=self._render,
            console=console,
            refresh_per_second=10,
            # Results may be printed meanwhile; a pipe must receive them unchanged.
            redirect_stdout=sys.stdout.isatty(),
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def print(self, text: str) -> None:
        """Print a line above the bars."""
        self._live.console.print(Text(printable(text)))

    def show_summary(self, label: str, fraction: float, text: str) -> None:
        """Show a bar, and a line of text below it."""
        self._summary = (label, fraction, text)

    def add(self, line: ProgressLine) -> None:
        """Show another task."""
        self._lines.append(line)

    def show_state(self, line: ProgressLine) -> None:
        """Do nothing: the next refresh shows the state."""

    def show_end(self, line: ProgressLine, message: str) -> None:
        """Print why a task has failed."""
        if message and line.state == "failed":
            self.print(f"{line.label}: {message}")

    def _render(self) -> RenderableType:
        if self._summary is not None:
            return self._render_summary(*self._summary)
        table = Table.grid(
            Column(),
            Column(ratio=1, no_wrap=True),
            Column(min_width=10, no_wrap=True),
            Column(width=_BAR_WIDTH),
            Column(justify="right", no_wrap=True),
            padding=(0, 1),
            expand=True,
        )
        lines = list(self._lines)
        if self._is_crowded and lines:
            ended = [line for line in lines if line.ended]
            failed = sum(line.state == "failed" for line in ended)
            state = f"{len(ended)} done" + (f", {failed} failed" if failed else "")
            bar = ProgressBar(self._total, len(ended), _BAR_WIDTH, finished_style="green")
            self._add_row(table, "all", state, bar, max(line.seconds for line in lines))
        elif not self._is_crowded:
            for line in lines:
                label = printable(f"{line.label}  {line.detail}")
                self._add_row(table, label, line.state, _time_bar(line), line.seconds)
        return table

    def _render_summary(self, label: str, fraction: float, text: str) -> Group:
        columns = (Column(), Column(no_wrap=True), Column(ratio=1))
        bar = Table.grid(*columns, padding=(0, 1), expand=True)
        elapsed = timedelta(seconds=int(self._clock() - self._started))
        bar.add_row(
            self._spinner,
            Text(printable(label)),
            ProgressBar(1.0, fraction),
            Text(f"{fraction:4.0%}", style="progress.percentage"),
            Text(str(elapsed), style="progress.elapsed"),
        )
        return Group(bar, Text(printable(text), style="dim"))

    def _add_row(
        self, table: Table, label: str, state: str, bar: ProgressBar, seconds: float
    ) -> None:
        is_full = bar.total is not None and bar.completed >= bar.total
        table.add_row(
            Text(" ") if is_full and not bar.pulse else self._spinner,
            Text(label),
            Text(state, style=_STYLES.get(state, "")),
            bar,
            Text(f"{seconds:6.1f} s", style="dim"),
        )


def _time_bar(line: ProgressLine) -> ProgressBar:
    """Return elapsed against expected seconds; a pulse if the end cannot be estimated."""
    if line.ended:
        style = "red" if line.state == "failed" else "green"
        return ProgressBar(1, 1, _BAR_WIDTH, finished_style=style)
    seconds, expected = line.seconds, line.expected
    return ProgressBar(expected, seconds, _BAR_WIDTH, pulse=expected is None or seconds >= expected)
