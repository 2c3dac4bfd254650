"""The exit codes: what a script may conclude from each."""

from __future__ import annotations

from kling_async.errors import (
    ConfigurationError,
    DownloadError,
    InputError,
    JournalError,
    KlingError,
    MissingExtraError,
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
    OK: "everything went well",
    FAILED: "the service or a task failed",
    USAGE: "wrong usage, input or configuration; nothing was sent",
    RUNNING: "the task has not ended in time; it goes on",
    UNSURE: "a task may have been started and charged: look before you repeat",
    DOWNLOAD: "the video is made, its download failed",
    JOURNAL: "the journal cannot be used; what it holds is not lost",
    OUTPUT: "the work is done, but stdout could not be written",
    INTERRUPTED: "interrupted by Ctrl-C, SIGTERM or SIGHUP; what still runs is named",
}


class OutputError(KlingError):
    """What a command has done could not be written to stdout."""


_CODES: tuple[tuple[type[KlingError], int], ...] = (
    (TaskTimeoutError, RUNNING),
    (InputError, USAGE),
    (ConfigurationError, USAGE),
    (MissingExtraError, USAGE),
    (DownloadError, DOWNLOAD),
    (JournalError, JOURNAL),
    (OutputError, OUTPUT),
)


def code_of(error: KlingError) -> int:
    """Return the exit code that an error ends a command with."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return UNSURE if error.may_have_charged and error.ref is None else FAILED
