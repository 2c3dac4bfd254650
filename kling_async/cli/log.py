"""What the package logs while a command runs."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kling_async.cli.output import PROGRAM, printable, write

if TYPE_CHECKING:
    from collections.abc import Iterator

_log = logging.getLogger("kling_async")


@contextmanager
def log_to_stderr(*, as_json: bool) -> Iterator[None]:
    """Write warnings and errors of the log to stderr, unless logging is configured.

    What is logged of abandoned tasks is left out: each command reports them itself, with the
    command that waits for them.
    """
    handler = None if _log.hasHandlers() else _Handler(as_json=as_json)
    if handler is not None:
        _log.addHandler(handler)
    _log.addFilter(_is_news)
    try:
        yield
    finally:
        _log.removeFilter(_is_news)
        if handler is not None:
            _log.removeHandler(handler)


def _is_news(record: logging.LogRecord) -> bool:
    return record.module != "abandoned"


class _Handler(logging.Handler):
    def __init__(self, *, as_json: bool) -> None:
        super().__init__(logging.WARNING)
        self._as_json = as_json

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        line = json.dumps({"warning": text}) if self._as_json else f"{PROGRAM}: {printable(text)}"
        write(sys.stderr, line)
