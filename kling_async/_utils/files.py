"""Files: the reasons of their errors, reading regular ones, and writing a whole file at once."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from errno import EINVAL
from secrets import token_hex
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader
    from pathlib import Path


def format_os_error(error: OSError | ValueError) -> str:
    """Return the reason of an error of the operating system, without its number and its path."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)  # asyncio adds the address to the text of its errors
    return getattr(error, "strerror", None) or str(error)


def open_regular(path: Path) -> BufferedReader:
    """Open a file to read it. A pipe is an `OSError`: opening it would wait for a writer."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # that is an error in any case
        raise OSError(EINVAL, "not a regular file", str(path))
    return path.open("rb")


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that takes the place of ``path`` at the end, unless there is an error.

    No reader sees a part of it.

    Raises:
        OSError: The file cannot be written. What was at ``path`` is unchanged.
    """
    part = path.with_name(f".{token_hex(8)}.part")  # the longest names leave no room for more
    try:
        with part.open("xb") as file:
            yield file
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
