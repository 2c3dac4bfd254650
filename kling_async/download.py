"""Result URLs to files: streamed to a part file, checked, and only then given their name."""

from __future__ import annotations

import asyncio
import re
from hashlib import sha256
from pathlib import Path, PurePosixPath
from secrets import token_hex
from typing import TYPE_CHECKING, BinaryIO

import aiohttp
from aiohttp import hdrs

from kling_async.errors import ConfigurationError, DownloadError, ResultExpiredError

if TYPE_CHECKING:
    import os

    from kling_async.results import Result, Snapshot, TaskRef

__all__ = ["download", "file_name"]

# Nothing that the service makes in 15 seconds of video comes near this.
MAX_BYTES = 4 * 1024**3

# Written to disk at a time, in a thread: the loop is never held up by a slow disk.
_CHUNK_BYTES = 256 * 1024

# Seconds without a single byte, and seconds for the connection.
_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=15.0, sock_read=60.0)

# A compressed body would make the size that is announced useless as a check.
_HEADERS = {hdrs.ACCEPT_ENCODING: "identity"}

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_SUFFIXES = (".mp4", ".mov", ".webm", ".m4v", ".mkv", ".png", ".jpg", ".jpeg", ".webp", ".gif")

# The statuses of a URL that is gone or was never there. 403 is how object stores answer for a
# link that has expired.
_DEAD = (403, 404, 410)
_OK = 200


def file_name(ref: TaskRef, index: int, url: str) -> str:
    """Return the name under which a result URL is saved; it cannot leave its folder.

    It is made of the task's id, a number from the second file on, and the URL's suffix if that
    is one of a video or picture.
    """
    stem = _UNSAFE.sub("_", ref.task_id).strip("._")[:120] or "result"
    if stem != ref.task_id:  # two ids must not become one name: the file of another would be kept
        stem = f"{stem}-{sha256(ref.task_id.encode()).hexdigest()[:8]}"
    suffix = PurePosixPath(re.split(r"[?#]", url)[0]).suffix.lower()
    number = f"-{index + 1}" if index else ""
    return f"{stem}{number}{suffix if suffix in _SUFFIXES else '.mp4'}"


async def download(
    result: Result | Snapshot,
    folder: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    session: aiohttp.ClientSession | None = None,
) -> tuple[Path, ...]:
    """Save a result's files to a folder, and return the paths in the order of the URLs.

    Args:
        result: What a finished task gave.
        folder: Where to save; made if it does not exist.
        overwrite: Fetch again what is there already, instead of keeping it.
        session: Whose connections to use. Nothing else of it is used: neither its headers nor
            its cookies go to the file's host.

    Raises:
        DownloadError: A file did not arrive whole. The others are complete.
        ResultExpiredError: A URL is dead.
        ConfigurationError: The session is closed.
    """
    if session is not None and session.closed:
        raise ConfigurationError("the session that was lent for the download is closed")
    target = Path(folder)
    try:
        await asyncio.to_thread(target.mkdir, parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(f"cannot make the folder {target}: {error}", retryable=False) from None
    paths = [target / file_name(result.ref, i, url) for i, url in enumerate(result.result_urls)]
    # A session of its own, so that whatever the API's session sends by default stays there.
    async with aiohttp.ClientSession(
        connector=session.connector if session else None,
        connector_owner=session is None,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=session.trust_env if session else False,
    ) as bare:
        for url, path in zip(result.result_urls, paths, strict=True):
            if overwrite or not await asyncio.to_thread(path.exists):
                await _fetch(bare, url, path, result.ref)
    return tuple(paths)


async def _fetch(session: aiohttp.ClientSession, url: str, path: Path, ref: TaskRef) -> None:
    # No other download has this name, in this process or another.
    part = path.with_name(f".{path.name}.{token_hex(8)}.part")
    try:
        async with session.get(
            url, headers=_HEADERS, timeout=_TIMEOUT, raise_for_status=False
        ) as answer:
            _check_status(answer, url, ref)
            with part.open("xb") as file:
                written = await _stream(answer, file, url, ref)
        size = None if hdrs.CONTENT_ENCODING in answer.headers else answer.content_length
        # No video is empty, whatever size was announced.
        if not written or written != (written if size is None else size):
            raise DownloadError(f"{url} gave {written} of {size} bytes", url=url, ref=ref)
        part.replace(path)
    except (aiohttp.ClientError, TimeoutError, UnicodeError) as error:  # the last: no such host
        said = f"{type(error).__name__}: {error}"
        raise DownloadError(f"{url} did not arrive whole: {said}", url=url, ref=ref) from None
    except OSError as error:
        raise DownloadError(f"cannot write {path}: {error}", url=url, ref=ref) from None
    finally:
        # Without an await, so that it happens in a cancellation too.
        part.unlink(missing_ok=True)


def _check_status(answer: aiohttp.ClientResponse, url: str, ref: TaskRef) -> None:
    if answer.status in _DEAD:
        raise ResultExpiredError(
            f"{url} is dead (HTTP {answer.status}); result URLs live for 15 days at most",
            url=url,
            retryable=False,
            ref=ref,
        )
    if answer.status != _OK:
        raise DownloadError(f"{url} answered HTTP {answer.status}", url=url, ref=ref)


async def _stream(answer: aiohttp.ClientResponse, file: BinaryIO, url: str, ref: TaskRef) -> int:
    """Write the body to the file; return the bytes written."""
    written, announced = 0, answer.content_length or 0
    pending = bytearray()
    async for chunk in answer.content.iter_any():
        pending += chunk
        written += len(chunk)
        if max(written, announced) > MAX_BYTES:
            raise DownloadError(f"{url} is larger than {MAX_BYTES} bytes", url=url, ref=ref)
        if len(pending) >= _CHUNK_BYTES:
            await asyncio.to_thread(file.write, pending)
            pending = bytearray()
    await asyncio.to_thread(file.write, pending)
    return written
