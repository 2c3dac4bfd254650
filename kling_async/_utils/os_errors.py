"""Errors of the operating system, for messages."""

from __future__ import annotations

import os


def format_os_error(error: OSError | ValueError) -> str:
    """Return the reason of an error of the operating system, without its number and its path."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)  # asyncio adds the address to the text of its errors
    return getattr(error, "strerror", None) or str(error)
