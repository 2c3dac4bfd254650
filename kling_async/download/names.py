"""What files are called: every key and number has a name of its own, on every file system.

Names that differ only in case, or in how an accent is written, are one file on many disks; others
are devices of Windows. So a key is its own name if it is made of lower-case letters, digits and
``-_.`` and is nothing special. Any other key is made readable, and told apart by a digest of it.
``+``, which no plain name has, stands before the digest and before the number of a second file.
"""

from __future__ import annotations

import re
import unicodedata
from hashlib import sha256
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kling_async.results import TaskRef

_PLAIN = re.compile(r"[a-z0-9_-](?:[a-z0-9._-]{0,118}[a-z0-9_-])?")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)
_SUFFIXES = (".mp4", ".mov", ".webm", ".m4v", ".mkv", ".png", ".jpg", ".jpeg", ".webp", ".gif")

# With a digest, number, suffix and what part files add, this is far below the 255 bytes of a name.
_LONGEST = 120

# 64 bits: of a million keys, two have one digest with a chance of 1 in 40 million. Numbers of
# files have fewer digits, so that a digest of digits is none.
_DIGITS = 16


def stem(key: str, number: int = 1) -> str:
    """Return the name, without suffix, of an item's file.

    The names of any two pairs of key and number differ, however a file system compares them.

    Args:
        key: The item's key, or a task's id: any text.
        number: Which of the item's files, from 1.
    """
    name = key
    if not _PLAIN.fullmatch(key) or _DEVICE.fullmatch(key):
        ascii_ = unicodedata.normalize("NFKD", key).encode("ascii", "ignore").decode()
        readable = _UNSAFE.sub("_", ascii_)[:_LONGEST].strip("._-") or "result"
        if _DEVICE.fullmatch(readable):
            readable = f"_{readable}"
        name = f"{readable}+{_digest(key)}"
    return name if number == 1 else f"{name}+{number}"


def file_name(ref: TaskRef, index: int, url: str, name: str | None = None) -> str:
    """Return the name under which a result URL is saved; it cannot leave its folder.

    It is made of the task's id or the name given, a number from the second file on, and the
    URL's suffix if that is one of a video or picture.
    """
    suffix = PurePosixPath(re.split(r"[?#]", url)[0]).suffix.lower()
    base = stem(ref.task_id if name is None else name, index + 1)
    return f"{base}{suffix if suffix in _SUFFIXES else '.mp4'}"


def alternatives(name: str, ref: TaskRef) -> Iterator[str]:
    """Give names for a file, the best first, for a folder in which other files may have them.

    They depend on the task, so that another try for it finds the same names.
    """
    yield name
    path = PurePosixPath(name)
    attempt = 1
    while True:
        yield f"{path.stem}+{_digest(f'{ref} {attempt}')}{path.suffix}"
        attempt += 1


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
