"""File names: every key and number has its own, on every file system.

Names that differ only in case, or in how an accent is encoded, are one file on many disks; others
are devices on Windows. So a key is used as it is if it consists of lower-case letters, digits and
``-_.`` and is not special. Any other key becomes readable text and a digest. A ``+``, which no
plain name contains, precedes the digest, and the number of a second file.
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

# With a digest, number, suffix and the name of a part file, far below the 255 bytes of a name.
_MAX_LENGTH = 120

# 64 bits: among a million keys, two share a digest with a chance of 1 in 40 million. Numbers of
# files are shorter, so that no digest looks like one.
_DIGEST_LENGTH = 16


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
        readable = _UNSAFE.sub("_", ascii_)[:_MAX_LENGTH].strip("._-") or "result"
        if _DEVICE.fullmatch(readable):
            readable = f"_{readable}"
        name = f"{readable}+{_digest(key)}"
    return name if number == 1 else f"{name}+{number}"


def file_name(ref: TaskRef, index: int, url: str, name: str | None = None) -> str:
    """Return the name under which a result URL is saved. It cannot leave its folder.

    It consists of the task's id or the given name, a number from the second file on, and the
    URL's suffix if that is one of a video or picture.
    """
    suffix = PurePosixPath(re.split(r"[?#]", url)[0]).suffix.lower()
    base = stem(ref.task_id if name is None else name, index + 1)
    return f"{base}{suffix if suffix in _SUFFIXES else '.mp4'}"


def alternative_names(name: str, ref: TaskRef) -> Iterator[str]:
    """Yield names for a file, in order of preference, in case other files have the first ones.

    They depend on the task, so that another attempt finds the same names.
    """
    yield name
    path = PurePosixPath(name)
    attempt = 1
    while True:
        yield f"{path.stem}+{_digest(f'{ref} {attempt}')}{path.suffix}"
        attempt += 1


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_LENGTH]
