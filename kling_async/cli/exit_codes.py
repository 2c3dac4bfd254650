"""The exit codes of the command line, and the code of each error."""

from __future__ import annotations

from kling_async.errors import (
    ConfigurationError,
    DownloadError,
    InputError,
    JournalError,
    KlingError,
    MissingExtraError,
    StorageError,
    TaskTimeoutError,
)

OK = 0
FAILED = 1
USAGE = 2
RUNNING = 3
UNSURE = 4
DOWNLOAD = 5
JOURNAL = 6
OUTPUT = 7
INTERRUPTED = 130

MEANINGS = {
    OK: "success",
    FAILED: "the service or a task failed",
    USAGE: "wrong usage, input or configuration; nothing was sent",
    RUNNING: "the task did not end in time; it is still running",
    UNSURE: "a task may have been started and charged: check before you repeat",
    DOWNLOAD: "the video was generated, but its download failed",
    JOURNAL: "the journal cannot be used; its contents are not lost",
    OUTPUT: "the work is done, but stdout could not be written",
    INTERRUPTED: "interrupted by Ctrl-C, SIGTERM or SIGHUP; running tasks are listed",
}


class OutputError(KlingError):
    """The results of a command could not be written to stdout."""


_CODES: tuple[tuple[type[KlingError], int], ...] = (
    (TaskTimeoutError, RUNNING),
    (InputError, USAGE),
    (ConfigurationError, USAGE),
    (MissingExtraError, USAGE),
    (DownloadError, DOWNLOAD),
    (JournalError, JOURNAL),
    (OutputError, OUTPUT),
)


def exit_code_of(error: KlingError) -> int:
    """Return the exit code of a command that an error ends."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    if isinstance(error, StorageError) and error.ref is not None:
        return DOWNLOAD
    return UNSURE if error.may_have_charged and error.ref is None else FAILED
