"""Files that other programs never see in part."""

from __future__ import annotations

import os
from contextlib import contextmanager
from secrets import token_hex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def replaced_file(target: Path) -> Iterator[Path]:
    """Yield a path for a file that replaces ``target`` at the end, or is removed after an error.

    It gets its name when it is on the disk. This blocks.
    """
    part = target.parent / f".kling-{token_hex(8)}.part"
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
