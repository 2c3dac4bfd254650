"""What a command says: results on stdout, errors on stderr, as words or as JSON Lines."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from kling_async.cli import codes
from kling_async.cli.streams import failure_of
from kling_async.errors import DownloadError, KlingError, ResultExpiredError, TaskTimeoutError

if TYPE_CHECKING:
    from kling_async.results import TaskRef

PROGRAM = "kling-async"

_log = logging.getLogger("kling_async")

# A file may have very many wrong rows.
_MOST_LINES = 20


class Output:
    """Writes for a reader, or, with ``json``, for a program: one JSON object on each line."""

    def __init__(self, *, json: bool) -> None:
        self.json = json

    def result(
        self, lines: Iterable[str], fields: Mapping[str, object], *, new: TaskRef | None = None
    ) -> None:
        """Write a result to stdout: its lines for a reader, its fields for a program.

        Args:
            lines: For a reader.
            fields: For a program.
            new: The task that this command has started. If stdout cannot be written, its
                reference goes to stderr.
        """
        if self.json:
            written = write(sys.stdout, json.dumps(fields))
        else:
            shown = [printable(line) for line in lines]
            written = not shown or write(sys.stdout, "\n".join(shown))
        if written or new is None:
            return
        if self.json:
            self.error(_lost(new))
        else:
            self._complain(f"To go on: {PROGRAM} wait {new}")

    def end(self, code: int) -> int:
        """Return the exit code of a command; report it if stdout could not be written."""
        sys.stdout.flush()
        if failure_of(sys.stdout) is None:
            return code
        lost = self.error(_lost())
        return code if code != codes.OK else lost

    def error(self, error: KlingError, code: int | None = None) -> int:
        """Write an error to stderr; return its exit code, or the one that is given."""
        code = codes.code_of(error) if code is None else code
        if self.json:
            fields = {
                "error": type(error).__name__,
                "message": str(error),
                "exit_code": code,
                "may_have_charged": error.may_have_charged,
                "retryable": error.retryable,
                "ref": error.ref and str(error.ref),
            }
            self._complain(json.dumps(fields))
            return code
        lines = str(error).split("\n")
        for line in lines[:_MOST_LINES]:
            self._complain(f"{PROGRAM}: {printable(line)}")
        if len(lines) > _MOST_LINES:
            self._complain(f"{PROGRAM}: and {len(lines) - _MOST_LINES} more")
        if error.ref is not None and (verb := _next_command(error)):
            self._complain(f"To go on: {PROGRAM} {verb} {error.ref}")
        return code

    def interrupted(self, running: Iterable[TaskRef], unsure: Sequence[KlingError]) -> None:
        """Say what goes on at the service although the command ends."""
        refs = [str(ref) for ref in running]
        if self.json:
            lost = [str(error) for error in unsure]
            self._complain(json.dumps({"error": "interrupted", "running": refs, "unsure": lost}))
            return
        for error in unsure:
            self._complain(f"{PROGRAM}: {printable(str(error))}")
        if refs:
            self._complain(f"{PROGRAM}: interrupted; still running at the service:")
            for ref in refs:
                self._complain(f"  {ref}")
            self._complain(f"To go on: {PROGRAM} wait {' '.join(refs)}")
        elif not unsure:
            self._complain(f"{PROGRAM}: interrupted; no task is known to be running")

    def _complain(self, line: str) -> None:
        # A reference may be in it: what stderr does not take is left to the log.
        if not write(sys.stderr, line):
            _log.error("%s", line)


def write(stream: TextIO, line: str) -> bool:
    """Write a line at once, since its reader may wait for it; return whether that worked."""
    stream.write(f"{line}\n")
    stream.flush()
    return failure_of(stream) is None


def _lost(ref: TaskRef | None = None) -> codes.OutputError:
    reason = failure_of(sys.stdout)
    return codes.OutputError(f"the results cannot be written to stdout: {reason}", ref=ref)


def printable(text: str) -> str:
    """Show control characters instead of sending them: a service's words may hold any."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _next_command(error: KlingError) -> str | None:
    """Name the command that goes on where an error has stopped."""
    if isinstance(error, DownloadError):
        return None if isinstance(error, ResultExpiredError) else "download"
    return "wait" if error.retryable or isinstance(error, TaskTimeoutError) else None
