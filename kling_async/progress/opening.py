"""Selects the display of progress: live in a notebook or on a terminal, else lines of text."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import TextIO

from kling_async.progress.text_display import TextDisplay


def open_display(*, silent: bool = False, total: int | None = None) -> TextDisplay:
    """Return the display of tasks: live, as lines of text, or silent.

    A terminal is drawn on if rich is installed, if its cursor can be moved (``TERM`` is not
    ``dumb``), and unless ``NO_COLOR`` asks for text without escape sequences.
    """
    if silent or sys.stderr is None:  # as in a Windows program without a console
        return TextDisplay(silent=True, total=total)
    if _is_notebook():
        from kling_async.progress.notebook_display import NotebookDisplay

        return NotebookDisplay(total)
    if not allows_escapes(sys.stderr) or find_spec("rich") is None:
        return TextDisplay(total=total)
    from kling_async.progress.rich_display import RichDisplay

    return RichDisplay(total)


def allows_escapes(stream: TextIO) -> bool:
    """Return whether colours and movements of the cursor may be written to a stream."""
    is_plain = os.environ.get("TERM") == "dumb" or bool(os.environ.get("NO_COLOR"))
    return stream.isatty() and not is_plain


def _is_notebook() -> bool:
    """Return whether this is a process of Jupyter that runs cells."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None
