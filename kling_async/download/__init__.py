"""Result URLs to files: streamed to a part file, checked, and only then given their name."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import aiohttp

from kling_async._threads import in_thread
from kling_async.download.fetch import MAX_BYTES, File
from kling_async.download.folder import check_folder
from kling_async.errors import ConfigurationError, DownloadError
from kling_async.policy.retry import Retry

if TYPE_CHECKING:
    import os

    from kling_async.results import Result, SavedFile, Snapshot, TaskRef

__all__ = ["MAX_BYTES", "check_folder", "download", "file_name"]

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_SUFFIXES = (".mp4", ".mov", ".webm", ".m4v", ".mkv", ".png", ".jpg", ".jpeg", ".webp", ".gif")


def file_name(ref: TaskRef, index: int, url: str, name: str | None = None) -> str:
    """Return the name under which a result URL is saved; it cannot leave its folder.

    It is made of the task's id or the name given, a number from the second file on, and the
    URL's suffix if that is one of a video or picture.
    """
    asked = ref.task_id if name is None else name
    stem = _UNSAFE.sub("_", asked).strip("._")[:120] or "result"
    if stem != asked:  # two names must not become one: the file of another would be kept
        stem = f"{stem}-{sha256(asked.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    suffix = PurePosixPath(re.split(r"[?#]", url)[0]).suffix.lower()
    number = f"-{index + 1}" if index else ""
    return f"{stem}{number}{suffix if suffix in _SUFFIXES else '.mp4'}"


async def download(  # noqa: PLR0913 - every one is a keyword with a default
    result: Result | Snapshot,
    folder: str | os.PathLike[str],
    *,
    name: str | None = None,
    overwrite: bool = False,
    session: aiohttp.ClientSession | None = None,
    retry: Retry | None = None,
) -> tuple[SavedFile, ...]:
    """Save a result's files to a folder, and return them in the order of the URLs.

    When this returns, the files are on the disk, safe from a power cut. Downloads of one file at
    the same time, in one process or several, do not disturb each other.

    Args:
        result: What a finished task gave.
        folder: Where to save; made if it does not exist.
        name: What to call the files; else by the task's id. The suffix is added.
        overwrite: Fetch again what is there already, instead of keeping it.
        session: Whose connections to use. Nothing else of it is used: neither its headers nor
            its cookies go to the file's host.
        retry: How failed attempts are repeated. An attempt that made progress does not count,
            and its ``request_timeout`` is not used: a file takes the time that it takes.

    Raises:
        DownloadError: A file did not arrive whole, or cannot be written. The others are complete.
            Calling again goes on where it ended.
        ResultExpiredError: A URL is dead.
        ConfigurationError: The session is closed.
    """
    if session is not None and session.closed:
        raise ConfigurationError("the session that was lent for the download is closed")
    target = Path(folder)
    try:
        await in_thread(lambda: target.mkdir(parents=True, exist_ok=True))
    except OSError as error:
        raise DownloadError(f"cannot make the folder {target}: {error}", retryable=False) from None
    saved: list[SavedFile] = []
    # A session of its own, so that whatever the API's session sends by default stays there.
    async with aiohttp.ClientSession(
        connector=session.connector if session else None,
        connector_owner=session is None,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=session.trust_env if session else False,
    ) as bare:
        for index, url in enumerate(result.result_urls):
            path = target / file_name(result.ref, index, url, name)
            file = File(bare, url, path, result.ref)
            saved.append(await file.save(retry or Retry(), overwrite=overwrite))
    return tuple(saved)
