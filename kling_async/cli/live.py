"""Live progress on a terminal, by rich: a line for each video, or one bar for very many.

A batch has a block of its own: a bar, and how far it is in words.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live as Screen
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TimeElapsedColumn,
)
from rich.progress_bar import ProgressBar
from rich.table import Column
from rich.text import Text

from kling_async.cli.output import printable

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Task, TaskID

    from kling_async.cli.progress import Line

_BAR_WIDTH = 24

# Lines of the terminal that are left to what was there before.
_MARGIN = 2

_STYLES = {
    "waiting": "dim",
    "pending": "yellow",
    "processing": "cyan",
    "saving": "blue",
    "done": "green",
    "failed": "bold red",
}


class _Label(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.description, no_wrap=True, overflow="ellipsis")


class _State(ProgressColumn):
    def render(self, task: Task) -> Text:
        state = str(task.fields["state"])
        return Text(state, style=_STYLES.get(state, ""), no_wrap=True)


class _Bar(ProgressColumn):
    """Time gone against time expected; a pulse where nothing is known, or it takes longer."""

    def render(self, task: Task) -> ProgressBar:
        expected, ended = task.fields["expected"], task.finished_time is not None
        known = expected is not None and (task.elapsed or 0.0) < expected
        return ProgressBar(
            total=task.total if ended or task.fields["counts"] else expected,
            completed=task.completed if ended or task.fields["counts"] else task.elapsed or 0.0,
            width=_BAR_WIDTH,
            pulse=not (ended or known or task.fields["counts"]),
            animation_time=task.get_time(),
            finished_style="red" if task.fields["state"] == "failed" else "green",
        )


class _Seconds(ProgressColumn):
    def render(self, task: Task) -> Text:
        seconds = task.elapsed if task.finished_time is None else task.finished_time
        return Text(f"{seconds or 0.0:6.1f} s", style="dim")


class Live:
    """Bars that move by themselves. They are drawn from a thread, never on the event loop."""

    def __init__(self, total: int) -> None:
        console = Console(stderr=True, highlight=False, markup=False)
        self._bars = Progress(
            SpinnerColumn(finished_text=" "),
            _Label(table_column=Column(ratio=1, no_wrap=True)),
            _State(table_column=Column(min_width=10, no_wrap=True)),
            _Bar(table_column=Column(width=_BAR_WIDTH)),
            _Seconds(table_column=Column(justify="right", no_wrap=True)),
            console=console,
            expand=True,
            # Results may be printed while the bars stand; a pipe must get them as they are.
            redirect_stdout=sys.stdout.isatty(),
        )
        # More lines than the terminal has cannot be told apart: one bar counts them.
        crowd = total > max(1, console.height - _MARGIN)
        self._crowd = self._add("all", total=total, counts=True) if crowd else None
        self._done = self._failed = 0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def line(self, label: str, expected: float | None = None, about: str = "") -> Line:
        """Begin a line with a bar of its own, or a share of the one that counts."""
        if self._crowd is not None:
            return _Share(self, label)
        return _Own(self, self._add(printable(f"{label}  {about}"), expected=expected), label)

    def note(self, words: str) -> None:
        """Write a line above the bars."""
        self._bars.print(Text(printable(words)))

    def change(self, bar: TaskID, state: str) -> None:
        """Tell what a bar's video does now."""
        self._bars.update(bar, state=state)

    def finish(self, bar: TaskID, state: str) -> None:
        """Fill a bar and stop its clock."""
        self._bars.update(bar, state=state, completed=1)

    def count(self, *, ok: bool) -> None:
        """Move the bar that counts."""
        assert self._crowd is not None  # noqa: S101 - shares are of that bar
        self._done += 1
        self._failed += not ok
        failed = f", {self._failed} failed" if self._failed else ""
        self._bars.update(self._crowd, advance=1, state=f"{self._done} done{failed}")

    def _add(
        self, label: str, *, expected: float | None = None, total: int = 1, counts: bool = False
    ) -> TaskID:
        return self._bars.add_task(
            label, total=total, state="waiting", expected=expected, counts=counts
        )


class _Own:
    def __init__(self, live: Live, bar: TaskID, label: str) -> None:
        self._live = live
        self._bar = bar
        self._label = label

    def say(self, state: str) -> None:
        self._live.change(self._bar, state)

    def end(self, words: str = "", *, ok: bool) -> None:
        self._live.finish(self._bar, "done" if ok else "failed")
        if words and not ok:
            self._live.note(f"{self._label}: {words}")


class _Share:
    def __init__(self, live: Live, label: str) -> None:
        self._live = live
        self._label = label

    def say(self, state: str) -> None:
        pass

    def end(self, words: str = "", *, ok: bool) -> None:
        self._live.count(ok=ok)
        if words and not ok:
            self._live.note(f"{self._label}: {words}")


class Block:
    """A bar and a few words below it. They are drawn from a thread, never on the event loop."""

    def __init__(self, label: str) -> None:
        self._bar = Progress(
            SpinnerColumn(),
            _Label(table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            expand=True,
        )
        self._of = self._bar.add_task(label, total=1.0)
        self._words = Text()
        self._screen = Screen(
            get_renderable=lambda: Group(self._bar.get_renderable(), self._words),
            console=Console(stderr=True, highlight=False, markup=False),
            # Results may be printed while it stands; a pipe must get them as they are.
            redirect_stdout=sys.stdout.isatty(),
        )

    def __enter__(self) -> Self:
        self._screen.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._screen.stop()

    def show(self, share: float, words: str) -> None:
        """Tell how far it is, from 0 to 1 and in words."""
        self._bar.update(self._of, completed=share)
        self._words = Text(printable(words), style="dim")
