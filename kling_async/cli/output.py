"""What a command prints: results on stdout, errors on stderr, as text or as JSON Lines."""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from kling_async._utils.text import printable
from kling_async.cli import exit_codes
from kling_async.cli.process import failure_of
from kling_async.errors import (
    DownloadError,
    KlingError,
    ResultExpiredError,
    StorageError,
    TaskTimeoutError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from kling_async.results import TaskRef

PROGRAM = "kling-async"

# Lines of one error that are printed: a file may have very many invalid rows.
_MAX_LINES = 20

_log = logging.getLogger("kling_async")


class Output:
    """Prints text for a reader, or, with ``json``, one JSON object on each line."""

    def __init__(self, *, json: bool) -> None:
        self.json = json

    def print_result(
        self, lines: Iterable[str], fields: Mapping[str, object], *, new: TaskRef | None = None
    ) -> None:
        """Write a result to stdout: lines for a reader, if there are any, or fields as JSON.

        If stdout cannot be written, the reference of a new task is written to stderr.
        """
        if self.json:
            written = write_line(sys.stdout, json.dumps(fields))
        else:
            shown = [printable(line) for line in lines]
            written = not shown or write_line(sys.stdout, "\n".join(shown))
        if written or new is None:
            return
        if self.json:
            self.print_error(_output_error(new))
        else:
            _write_stderr(f"To continue: {PROGRAM} wait {new}")

    def print_status(self, line: str) -> None:
        """Write a line for a reader to stderr; with ``json``, nothing."""
        if not self.json:
            write_line(sys.stderr, printable(line))

    def print_error(self, error: KlingError, code: int | None = None) -> int:
        """Write an error to stderr and return its exit code, or the given one."""
        code = exit_codes.exit_code_of(error) if code is None else code
        if self.json:
            fields = {
                "error": type(error).__name__,
                "message": str(error),
                "exit_code": code,
                "may_have_charged": error.may_have_charged,
                "retryable": error.retryable,
                "ref": error.ref and str(error.ref),
            }
            _write_stderr(json.dumps(fields))
            return code
        lines = str(error).split("\n")
        for line in lines[:_MAX_LINES]:
            _write_stderr(f"{PROGRAM}: {printable(line)}")
        if len(lines) > _MAX_LINES:
            _write_stderr(f"{PROGRAM}: and {len(lines) - _MAX_LINES} more")
        if error.ref is not None and (command := _next_command(error)):
            _write_stderr(f"To continue: {PROGRAM} {command} {error.ref}")
        return code

    def print_interrupted(self, running: Iterable[TaskRef], unsure: Sequence[KlingError]) -> None:
        """Write which tasks are still running, and which submits may have been charged."""
        refs = [str(ref) for ref in running]
        if self.json:
            lost = [str(error) for error in unsure]
            _write_stderr(json.dumps({"error": "interrupted", "running": refs, "unsure": lost}))
            return
        for error in unsure:
            _write_stderr(f"{PROGRAM}: {printable(str(error))}")
        if refs:
            _write_stderr(f"{PROGRAM}: interrupted; the results of these tasks were not printed:")
            for ref in refs:
                _write_stderr(f"  {ref}")
            _write_stderr(f"To continue: {PROGRAM} wait {' '.join(refs)}")
        elif not unsure:
            _write_stderr(f"{PROGRAM}: interrupted; no task is known to be running")

    def final_code(self, code: int) -> int:
        """Return the exit code of a command; print an error if stdout could not be written."""
        sys.stdout.flush()
        if failure_of(sys.stdout) is None:
            return code
        lost = self.print_error(_output_error())
        return lost if code == exit_codes.OK else code


def write_line(stream: TextIO, line: str) -> bool:
    """Write and flush a line, since its reader may wait for it; return whether that worked."""
    stream.write(f"{line}\n")
    stream.flush()
    return failure_of(stream) is None


def _write_stderr(line: str) -> None:
    # It may contain a reference: a line that stderr does not accept is logged.
    if not write_line(sys.stderr, line):
        _log.error("%s", line)


def _output_error(ref: TaskRef | None = None) -> exit_codes.OutputError:
    reason = failure_of(sys.stdout)
    return exit_codes.OutputError(f"the results cannot be written to stdout: {reason}", ref=ref)


def _next_command(error: KlingError) -> str | None:
    """Return the command that continues after an error."""
    if isinstance(error, DownloadError):
        return None if isinstance(error, ResultExpiredError) else "download"
    if isinstance(error, StorageError):
        return "download"
    return "wait" if error.retryable or isinstance(error, TaskTimeoutError) else None


@contextmanager
def log_to_stderr(*, as_json: bool, verbose: int = 0) -> Iterator[None]:
    """Write warnings and errors of the package's log to stderr, unless logging is configured.

    INFO is written, too, if ``verbose`` is 1, and DEBUG if it is 2, or as ``KLING_LOG`` says.

    Records about abandoned tasks are left out: each command reports those tasks itself, with the
    command that waits for them.
    """
    before, level = _log.level, logging.WARNING
    names = {0: os.environ.get("KLING_LOG", ""), 1: "info"}
    if text := names.get(verbose, "debug"):
        from kling_async.telemetry.logs import parse_level

        level = parse_level(text)
        _log.setLevel(level)
    configured = _log.hasHandlers()
    handler = logging.NullHandler() if configured else _StderrHandler(level, as_json=as_json)
    _log.addHandler(handler)
    _log.addFilter(_is_not_about_abandoned)
    try:
        yield
    finally:
        _log.removeFilter(_is_not_about_abandoned)
        _log.removeHandler(handler)
        _log.setLevel(before)


def _is_not_about_abandoned(record: logging.LogRecord) -> bool:
    return record.module != "abandoned"


class _StderrHandler(logging.Handler):
    def __init__(self, level: int, *, as_json: bool) -> None:
        super().__init__(level)
        self._as_json = as_json

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        name = "warning" if record.levelno >= logging.WARNING else "log"
        line = json.dumps({name: text}) if self._as_json else f"{PROGRAM}: {printable(text)}"
        write_line(sys.stderr, line)
