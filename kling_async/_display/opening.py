"""Selects the display of progress: live on a terminal, if rich is installed, else lines of text."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

from kling_async._display.progress import Progress


def open_progress(*, silent: bool = False, total: int = 1) -> Progress:
    """Return the progress of tasks: live, as lines of text, or silent."""
    # On a terminal with a movable cursor.
    is_live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    if silent or not is_live or find_spec("rich") is None:
        return Progress(silent=silent)
    from kling_async._display.rich_progress import RichProgress

    return RichProgress(total)
