"""Live progress on a terminal, by rich, which draws from a thread and never on the event loop."""

from __future__ import annotations

import atexit
import logging
import sys
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.file_proxy import FileProxy
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Column, Table
from rich.text import Text

from kling_async._utils.text import printable
from kling_async.progress.text_display import TextDisplay

if TYPE_CHECKING:
    from kling_async.progress.board import ProgressLine

# The widest bar, and the widths of a terminal below which it is half as wide, or left out.
_BAR_WIDTH = 24
_NARROW, _NARROWEST = 72, 56

# The widest row. When a terminal becomes narrower than what is on it, copies of rows remain; and
# when Ctrl-C writes "^C" behind a row that has no room for it.
_WIDEST = 100
_FREE_COLUMNS = 2

# Lines of the terminal that bars leave free, and the most that they take.
_MARGIN = 3
_CAPACITY = 20

_REFRESH_RATE = 10

_STYLES = {
    "waiting": "dim",
    "submitted": "yellow",
    "pending": "yellow",
    "processing": "cyan",
    "saving": "blue",
    "done": "green",
    "failed": "bold red",
}


class RichDisplay(TextDisplay):
    """A row with a bar for each task, or one that counts them if there is no room for all."""

    summary_interval: float = 0.5
    is_live: bool = True

    def __init__(self, total: int | None = None) -> None:
        capacity = max(1, min(_CAPACITY, terminal.console.height - _MARGIN))
        super().__init__(total=total, capacity=capacity)
        self._summary: tuple[str, float, float, str] | None = None
        self._spinner = Spinner("dots", style="progress.spinner")

    def open(self) -> None:
        """Begin to draw."""
        super().open()
        terminal.show(self)

    def close(self) -> None:
        """Draw for the last time."""
        self._is_open = False
        terminal.hide(self)
        self.board.clear()

    def print(self, text: str) -> None:
        """Print a line above the rows."""
        terminal.print(Text(printable(text)))

    def show_summary(self, label: str, fraction: float, seconds: float, text: str) -> None:
        """Show a bar, and a line of text below it."""
        self._summary = (printable(label), fraction, seconds, printable(text))

    def add(self, line: ProgressLine) -> None:
        """Show another task; what had its place is printed above the rows."""
        for removed in self.board.add(line):
            terminal.print(self._table([removed]))

    def render(self) -> RenderableType:
        """Return what is drawn now. Called by the thread that draws."""
        note = [Text(self.note, style="dim", no_wrap=True, overflow="ellipsis")]
        below = note if note[0] else []
        if self._summary is not None:
            label, fraction, seconds, text = self._summary
            return Group(self._sum(label, fraction, seconds), Text(text, style="dim"), *below)
        if self.board.is_crowded:
            summary = Text(self.board.summary(), style="dim")
            total = self._sum("videos", self.board.fraction, self.board.seconds)
            return Group(total, summary, *below)
        return Group(self._table(self.board.rows), *below)

    def _show_change(self, line: ProgressLine, text: str) -> None:
        """Do nothing: the next refresh shows it."""

    def _sum(self, label: str, fraction: float | None, seconds: float) -> Table:
        columns = (Column(), Column(no_wrap=True), Column(ratio=1))
        bar = Table.grid(*columns, padding=(0, 1), expand=True)
        bar.width = _row_width()
        elapsed = timedelta(seconds=int(seconds))
        is_done = fraction == 1.0 or not self._is_open
        completed = fraction if fraction is not None else float(is_done)
        bar.add_row(
            Text(" ") if is_done else self._spinner,
            Text(label),
            ProgressBar(1.0, completed, pulse=fraction is None and not is_done),
            Text("" if fraction is None else f"{fraction:4.0%}", style="progress.percentage"),
            Text(str(elapsed), style="progress.elapsed"),
        )
        return bar

    def _table(self, lines: list[ProgressLine]) -> Table:
        width = _row_width()
        bar = _BAR_WIDTH if width >= _NARROW else _BAR_WIDTH // 2 if width >= _NARROWEST else 0
        columns = [Column(), Column(ratio=1, no_wrap=True), Column(min_width=10, no_wrap=True)]
        columns += [Column(width=bar)] if bar else []
        columns += [Column(justify="right", no_wrap=True)]
        table = Table.grid(*columns, padding=(0, 1), expand=True)
        table.width = width
        for line in lines:
            table.add_row(
                Text(" ") if line.ended else self._spinner,
                Text(line.full_label),
                Text(line.state, style=_STYLES.get(line.state, "")),
                *([_time_bar(line, bar)] if bar else []),
                Text(f"{line.seconds:6.1f} s", style="dim"),
            )
        return table


class Terminal:
    """The terminal of stderr, and the displays that share it."""

    def __init__(self) -> None:
        self.console: Console = _open_console()
        self._displays: list[RichDisplay] = []
        self._live: Live | None = None
        self._proxies: dict[str, FileProxy] = {}  # of stdout and stderr
        self._lock = threading.RLock()

    def show(self, display: RichDisplay) -> None:
        """Draw a display, too."""
        with self._lock:
            if display in self._displays:
                return
            self._displays.append(display)
            if self._live is None:
                self.console = _open_console()
                self._live = Live(
                    get_renderable=self._render,
                    console=self.console,
                    refresh_per_second=_REFRESH_RATE,
                    redirect_stdout=False,
                    redirect_stderr=False,
                )
                self._live.start()
                self._redirect()

    def hide(self, display: RichDisplay) -> None:
        """Draw a display for the last time, and leave it where it is."""
        with self._lock:
            if display not in self._displays:
                return
            if self._displays == [display] and self._live is not None:
                self._live.stop()
                self._live = None
                self._displays.clear()
                self._restore()
            else:
                self._displays.remove(display)
                self.print(display.render())

    def _redirect(self) -> None:
        """Print above the displays what is written meanwhile."""
        lines = _LinesAbove(self.console)
        for name in ("stdout", "stderr"):
            stream: TextIO = getattr(sys, name)
            # A pipe must receive results unchanged.
            if stream is not None and stream.isatty():
                self._proxies[name] = proxy = FileProxy(lines, stream)  # type: ignore[arg-type]
                setattr(sys, name, proxy)
                _redirect_logs(stream, proxy)

    def _restore(self) -> None:
        for name, proxy in self._proxies.items():
            proxy.flush()
            _redirect_logs(proxy, proxy.rich_proxied_file)
            if getattr(sys, name) is proxy:  # the program may have put another in its place
                setattr(sys, name, proxy.rich_proxied_file)
        self._proxies.clear()

    def draw(self) -> None:
        """Draw now, not only ten times a second."""
        live = self._live
        if live is not None:
            live.refresh()

    def close(self) -> None:
        """Draw all displays for the last time."""
        for display in list(self._displays):
            display.close()

    def print(self, content: RenderableType) -> None:
        """Print something above the displays."""
        console = _open_console() if self._live is None else self.console
        console.print(content, soft_wrap=isinstance(content, Text))

    def _render(self) -> Group:
        return Group(*[display.render() for display in list(self._displays)])


def _open_console() -> Console:
    """Return a console that writes to stderr as it is now, whatever takes its place later."""
    return Console(file=sys.stderr, highlight=False, markup=False)


def _row_width() -> int:
    return max(1, min(terminal.console.width - _FREE_COLUMNS, _WIDEST))


def _redirect_logs(before: object, after: object) -> None:
    """Give the handlers that write log records to a stream another one: each keeps its stream."""
    for logger in (logging.root, *logging.root.manager.loggerDict.values()):
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.StreamHandler) and handler.stream is before:
                handler.setStream(after)  # an object with `write`, such as a proxy


class _LinesAbove:
    """Prints lines above the displays, as `FileProxy` does, without wrapping: URLs stay whole."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        self._console.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._console.__exit__(None, None, None)

    def print(self, text: RenderableType) -> None:
        """Print text."""
        self._console.print(text, soft_wrap=True)


terminal: Terminal = Terminal()
atexit.register(terminal.close)  # so that the cursor is visible again


def _time_bar(line: ProgressLine, width: int) -> ProgressBar:
    """Return elapsed against expected seconds; a pulse if the end cannot be estimated."""
    style, fraction = "green" if line.state == "done" else "red", line.fraction
    return ProgressBar(1.0, fraction or 0.0, width, pulse=fraction is None, finished_style=style)
