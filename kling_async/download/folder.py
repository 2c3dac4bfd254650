"""The folder that files are saved to: whether it can be used is found out before anything is paid.

Everything here blocks: it is for threads.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    import os


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Make a folder, with its parents, and check that files can be created in it.

    A disk may be slow: call it in a thread, as in ``asyncio.to_thread(check_folder, folder)``.

    Args:
        folder: Where files will be saved. It stays when this returns.

    Raises:
        ConfigurationError: It cannot be made, or not be written to.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path, prefix=".kling-"):
            pass
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"cannot save files to {path}: {reason}") from None
