"""How far it is: plain lines, or live bars on a terminal.

Everything here goes to stderr, so that stdout holds results alone.
"""

from __future__ import annotations

import asyncio
import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol, Self

from kling_async.cli.output import printable, write
from kling_async.events import Event, Paused, Retrying
from kling_async.protocol import responses
from kling_async.tasks.arguments import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from types import TracebackType

    from kling_async.results import Result
    from kling_async.tasks.task import Task


class Line(Protocol):
    """The progress of one video."""

    def say(self, state: str) -> None:
        """Tell what it does now."""

    def end(self, words: str = "", *, ok: bool) -> None:
        """Tell how it ended; a failure without words is told elsewhere."""


class Progress(Protocol):
    """The progress of a command, as a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def line(self, label: str, expected: float | None = None, about: str = "") -> Line:
        """Begin a line.

        Args:
            label: What it is, in short.
            expected: About how many seconds it will take, if that is known.
            about: What may stand beside the label where there is room.
        """

    def note(self, words: str) -> None:
        """Tell something that belongs to no line."""


def is_live() -> bool:
    """Whether stderr is a terminal that can move its cursor, and rich is there."""
    can_move = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return can_move and find_spec("rich") is not None


def progress(*, silent: bool = False, total: int = 1) -> Progress:
    """Return live progress where stderr is a terminal and rich is there, else plain lines.

    Args:
        silent: Tell nothing at all, for programs that read stderr.
        total: How many lines there will be.
    """
    if silent:
        return Plain(silent=True)
    if not is_live():
        return Plain()
    from kling_async.cli.live import Live

    return Live(total)


async def follow(task: Task, line: Line, timeout: float = DEFAULT_TIMEOUT) -> Result:
    """Wait for a task's result and tell every change of its state.

    Raises:
        KlingError: Whatever :meth:`Task.wait` raises.
    """
    async for snapshot in task.watch(timeout):
        if snapshot.state.ended:
            return responses.result_from(snapshot)
        line.say(printable(snapshot.vendor_state))
    raise AssertionError("watch() ends with a snapshot or raises")  # pragma: no cover


def tell(shown: Progress, event: Event) -> None:
    """Note what explains a long wait: a hook."""
    if isinstance(event, Retrying):
        shown.note(f"again in {event.delay:.1f} s: {event.error}")
    elif isinstance(event, Paused):
        shown.note(f"over the limit: everything waits for {event.delay:.1f} s")


class Plain:
    """Progress as lines of text, one for each change."""

    def __init__(self, *, silent: bool = False) -> None:
        self._silent = silent

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def line(self, label: str, expected: float | None = None, about: str = "") -> Line:
        """Begin a line."""
        del expected, about  # a line of text does not move, and is short
        return _PlainLine(self, label)

    def note(self, words: str) -> None:
        """Write one line."""
        if not self._silent:
            write(sys.stderr, printable(words))


class _PlainLine:
    def __init__(self, plain: Plain, label: str) -> None:
        self._plain = plain
        self._label = label
        self._begun = asyncio.get_running_loop().time()
        self._state = ""

    def say(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._plain.note(f"{self._label}: {state}")

    def end(self, words: str = "", *, ok: bool) -> None:
        seconds = asyncio.get_running_loop().time() - self._begun
        if words:
            said = words if ok else f"FAILED: {words}"
            self._plain.note(f"{self._label}: {said} ({seconds:.1f} s)")
