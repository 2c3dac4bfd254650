"""Writing a file so that no reader sees a part of it."""

from __future__ import annotations

from contextlib import contextmanager
from secrets import token_hex
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that takes the place of ``path`` at the end, unless there is an error.

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
