"""Files that can be read to an end at once."""

from __future__ import annotations

import stat
from errno import EINVAL
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path


def open_regular(path: Path) -> BufferedReader:
    """Open a file to read it. A pipe is an `OSError`: opening it would wait for a writer."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # that is an error in any case
        raise OSError(EINVAL, "not a regular file", str(path))
    return path.open("rb")
