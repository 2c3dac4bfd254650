"""stdout and stderr that never end the work: what cannot be written is dropped, and remembered.

A stream may be closed from the start (``>&-``), be full (``/dev/full``), lose its reader (a broken
pipe) or its terminal (a hangup), or have an encoding without the character that a row's key has.
A batch that is being paid for goes on all the same.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLOSED = "it is closed"


class Guarded(io.TextIOBase):
    """A text stream whose methods raise nothing.

    Args:
        inner: The stream to write to; None if the process was started without it.

    Attributes:
        failure: Why nothing can be written any more; None while it can.
    """

    def __init__(self, inner: TextIO | None) -> None:
        self._inner = inner
        self.failure: str | None = None if inner is not None else _CLOSED

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has an attribute
        """The encoding of the stream that is guarded."""
        return getattr(self._inner, "encoding", None) or "utf-8"

    def reconfigure(self, *, encoding: str) -> None:
        """Change the encoding, where the stream has one."""
        if self.failure is None and isinstance(self._inner, io.TextIOWrapper):
            self._inner.reconfigure(encoding=encoding)

    def writable(self) -> bool:
        """Return True: a write raises nothing, whatever becomes of the text."""
        return True

    def isatty(self) -> bool:
        """Whether it is a terminal that can be written to."""
        with suppress(OSError, ValueError):
            return self.failure is None and self._inner is not None and self._inner.isatty()
        return False

    def fileno(self) -> int:
        """Return the descriptor.

        Raises:
            OSError: There is none.
        """
        if self._inner is None:
            raise io.UnsupportedOperation("fileno")
        return self._inner.fileno()

    def write(self, text: str) -> int:
        """Write a text, with escapes for what the encoding does not have."""
        if self.failure is None and self._inner is not None:
            try:
                self._inner.write(_encodable(text, self.encoding))
            except (OSError, ValueError) as error:  # ValueError: it was closed meanwhile
                self._fail(error)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        if self.failure is None and self._inner is not None:
            try:
                self._inner.flush()
            except (OSError, ValueError) as error:
                self._fail(error)

    def _fail(self, error: OSError | ValueError) -> None:
        self.failure = (error.strerror if isinstance(error, OSError) else None) or _CLOSED
        # What is still buffered would fail once more when the interpreter flushes it at its end.
        with suppress(OSError, ValueError):
            _redirect(self.fileno())


def failure_of(stream: TextIO) -> str | None:
    """Return why nothing can be written to a stream any more; None while it can."""
    return cast("str | None", getattr(stream, "failure", None))


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Guard ``sys.stdout`` and ``sys.stderr`` while this is entered."""
    _occupy()
    before = sys.stdout, sys.stderr
    out, err = Guarded(sys.stdout), Guarded(sys.stderr)
    sys.stdout, sys.stderr = cast("TextIO", out), cast("TextIO", err)
    try:
        yield
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def _occupy() -> None:
    """Let no file or socket get the descriptor of a standard stream that is closed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free: this one


def _redirect(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, descriptor)
    finally:
        os.close(null)


def _encodable(text: str, encoding: str) -> str:
    """Escape the characters that an encoding does not have."""
    return text.encode(encoding, "backslashreplace").decode(encoding)
