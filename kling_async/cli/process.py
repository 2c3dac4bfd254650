"""The process of a command: standard streams whose errors do not end it, and signal handlers.

stdout or stderr may be closed (``>&-``) or full (``/dev/full``), lose its reader or terminal, or
have an encoding that cannot represent a row's key. None of these stops a batch that is being paid
for: the error is kept, and later output is dropped.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CLOSED = "it is closed"


class GuardedStream:
    """A text stream that can always be written to: ``failure`` is why the text is dropped.

    Its other methods and attributes are those of the inner stream.
    """

    def __init__(self, inner: TextIO | None) -> None:
        self._inner = io.StringIO() if inner is None else inner
        self.failure: str | None = None if inner is not None else _CLOSED

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - of any type
        return getattr(self._inner, name)

    def isatty(self) -> bool:
        """Return whether this is a terminal that can be written to."""
        with suppress(OSError, ValueError):
            return self.failure is None and self._inner.isatty()
        return False

    def write(self, text: str) -> int:
        """Write a text; characters that the encoding cannot represent are escaped."""
        encoding = getattr(self._inner, "encoding", None) or "utf-8"
        escaped = text.encode(encoding, "backslashreplace").decode(encoding)
        self._unless_failed(lambda: self._inner.write(escaped))
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        self._unless_failed(self._inner.flush)

    def _unless_failed(self, operation: Callable[[], object]) -> None:
        if self.failure is not None:
            return
        try:
            operation()
        except (OSError, ValueError) as error:  # ValueError: it has been closed
            self.failure = (error.strerror if isinstance(error, OSError) else None) or _CLOSED
            # The interpreter flushes the buffer at its exit, which would fail once more.
            with suppress(OSError, ValueError), Path(os.devnull).open("wb") as null:
                os.dup2(null.fileno(), self.fileno())


def failure_of(stream: TextIO) -> str | None:
    """Return why a stream cannot be written; None as long as it can."""
    return cast("str | None", getattr(stream, "failure", None))


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Replace ``sys.stdout`` and ``sys.stderr`` by guarded streams, and restore them at the end."""
    _fill_closed_descriptors()
    before = sys.stdout, sys.stderr
    out, err = GuardedStream(sys.stdout), GuardedStream(sys.stderr)
    sys.stdout, sys.stderr = cast("TextIO", out), cast("TextIO", err)
    try:
        yield
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def _fill_closed_descriptors() -> None:
    """Prevent that a file or socket gets the descriptor of a closed standard stream."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # uses the lowest free descriptor: this one


def call_on_signals(stop: Callable[[], object], *, interrupt: bool = False) -> None:
    """Call ``stop`` on the running loop at SIGTERM, and at SIGHUP unless that is ignored.

    SIGHUP counts once, and not after SIGTERM: a shell that exits sends it, and then the kernel
    sends it again. With ``interrupt``, SIGINT counts too, in place of asyncio's own handler. Where
    signals cannot be handled (on Windows, outside the main thread), this does nothing.
    """
    numbers = [signal.SIGTERM, *([signal.SIGINT] if interrupt else [])]
    hangup = getattr(signal, "SIGHUP", None)  # not on Windows
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # as under nohup
        numbers.append(hangup)
    stopped = False

    def handle(number: int) -> None:
        nonlocal stopped
        if number != hangup or not stopped:
            stopped = True
            stop()

    loop = asyncio.get_running_loop()
    for number in numbers:
        try:
            loop.add_signal_handler(number, partial(handle, number))
        except (NotImplementedError, RuntimeError):
            return
