"""One URL to one file: attempts, what each is checked for, and when to give up.

A file that is cut is gone on with where it ended, at once or by the next call, in any process.
That needs a strong ETag from the server, which says that the bytes are the same ones: then the
rest is asked for with ``If-Range``. Neither a weak ETag, nor a date (it counts seconds, and many
files share one), nor the size is enough: without a strong ETag a file is fetched anew, which costs
a minute and no money. The query of a URL may change meanwhile, since that is where the service's
signature would be; the rest of the URL may not, because an ETag is one URL's.

Every download ends. A minute without a byte ends an attempt. So do five minutes without a
quarter of a mebibyte, because bytes that drip one by one would never let the minute pass. Only
attempts that bring as much as that, beyond all that was there before, do not count as failed.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from datetime import UTC, datetime
from errno import EDQUOT, EFBIG, ENOSPC
from hashlib import sha256
from random import random
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import hdrs

from kling_async._threads import in_thread
from kling_async.download.parts import STRONG_ETAG, Part, look
from kling_async.errors import (
    AnswerLostError,
    APIError,
    DownloadError,
    RequestError,
    ResultExpiredError,
)
from kling_async.protocol.responses import Response, retry_after
from kling_async.results import SavedFile

if TYPE_CHECKING:
    from pathlib import Path

    from kling_async.policy.retry import Retry
    from kling_async.results import TaskRef

__all__ = ["MAX_BYTES", "File"]

# Nothing that the service makes in 15 seconds of video comes near this.
MAX_BYTES = 4 * 1024**3

# What must stay free on the disk: somebody else may need it, such as the journal of a batch.
RESERVE_BYTES = 16 * 1024**2

# Written to disk at a time, in a thread: the loop is never held up by a slow disk. It is also
# the least that counts as progress, and what must come in every `_PACE` seconds.
_CHUNK_BYTES = 256 * 1024
_PACE = 300.0

# Seconds without a single byte, and seconds for the connection.
_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=15.0, sock_read=60.0)

# The statuses of a URL that is gone or was never there. 403 is how object stores answer for a
# link that has expired.
_DEAD = (403, 404, 410)
_OK = 200
_PARTIAL = 206
_NO_SUCH_RANGE = 416
_TOO_MANY = 429
_CLIENT = range(400, 500)

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})")

# The last is what a host's name gives that cannot be one.
_NO_ADDRESS = (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, UnicodeError)

_FULL = (ENOSPC, EDQUOT, EFBIG)


class File:
    """One URL on its way to one name."""

    def __init__(self, session: aiohttp.ClientSession, url: str, path: Path, ref: TaskRef) -> None:
        self._session = session
        self._url = url
        self._path = path
        self._ref = ref
        source = re.split(r"[?#]", url)[0]
        self._part = Part(path, sha256(source.encode("utf-8", "replace")).hexdigest())

    async def save(self, retry: Retry, *, overwrite: bool) -> SavedFile:
        """Fetch it, or keep what is there."""
        part = self._part
        try:
            kept = None if overwrite else await in_thread(lambda: look(self._path))
            if kept is not None:
                return SavedFile(self._url, self._path.name, *kept)
            await in_thread(part.open)
            await self._fetch(retry)
            await in_thread(part.finish)
        except OSError as error:
            if error.errno in _FULL:
                await self._check_room(error)
            raise self._error(f"cannot save {self._path}: {error}") from None
        finally:
            await in_thread(part.close)
        return SavedFile(self._url, self._path.name, part.size, part.sha256)

    async def _fetch(self, retry: Retry) -> None:
        """Try until all of it is there, or until the policy gives up."""
        part, clock = self._part, asyncio.get_running_loop().time
        best, attempt, begun = part.size, 0, clock()
        while True:
            attempt += 1
            try:
                while not await self._attempt():
                    part.reset()  # it belongs to something else: at once again, without it
            except (APIError, RequestError) as failed:
                error = failed
            else:
                return
            if part.size - best >= _CHUNK_BYTES:
                best, attempt, begun = part.size, 1, clock()
            delay = retry.wait(error, attempt, clock() - begun, random())  # noqa: S311 - jitter, not secrets
            if delay is None:
                size = f"{part.size} of {part.total or 'unknown'} bytes"
                rest = f"{size} are kept: download again to go on from there"
                text = f"did not arrive whole: {error}; {rest if part.stays else f'{size} came'}"
                raise self._error(f"{self._url} {text}", retryable=error.retryable)
            await asyncio.sleep(delay)

    async def _attempt(self) -> bool:
        """Ask once for what is missing; false if what is there is no part of what was offered."""
        part = self._part
        # A compressed body would make the size that is announced useless as a check.
        headers = {hdrs.ACCEPT_ENCODING: "identity"}
        asked = part.resumable
        if asked:
            headers |= {hdrs.RANGE: f"bytes={part.size}-", hdrs.IF_RANGE: part.etag or ""}
        try:
            async with (
                asyncio.timeout(_PACE) as pace,
                self._session.get(
                    self._url, headers=headers, timeout=_TIMEOUT, raise_for_status=False
                ) as answer,
            ):
                if asked and answer.status in (_PARTIAL, _NO_SUCH_RANGE):
                    if not _continues(answer, part):
                        return False
                else:
                    self._check_status(answer)
                    await self._begin(answer)
                await self._check_room()
                await self._receive(answer, pace)
        except _NO_ADDRESS as error:
            raise self._error(f"{self._url} cannot be fetched: {error!r}") from None
        except (aiohttp.ClientError, TimeoutError) as error:
            said = f"{type(error).__name__}: {str(error) or 'it came too slowly'}"
            raise AnswerLostError(said, retryable=True) from None
        # No video is empty, whatever size was announced.
        if not part.size or part.size != (part.total or part.size):
            raise AnswerLostError(f"it ended at {part.size} bytes", retryable=True)
        return True

    def _check_status(self, answer: aiohttp.ClientResponse) -> None:
        status = answer.status
        if status in _DEAD:
            self._part.reset()
            raise ResultExpiredError(
                f"{self._url} is dead (HTTP {status}); result URLs live for 15 days at most",
                url=self._url,
                retryable=False,
                ref=self._ref,
            )
        if status != _OK:
            refused = status in _CLIENT and status != _TOO_MANY
            wait = retry_after(Response(status, b"", answer.headers), datetime.now(UTC))
            raise APIError(
                f"it answered HTTP {status}", status=status, retry_after=wait, retryable=not refused
            )

    async def _begin(self, answer: aiohttp.ClientResponse) -> None:
        """Start the part anew with this answer, whatever was there before."""
        etag = answer.headers.get(hdrs.ETAG, "")
        total = None if hdrs.CONTENT_ENCODING in answer.headers else answer.content_length
        strong = etag if re.fullmatch(STRONG_ETAG, etag) else None
        await in_thread(lambda: self._part.begin(strong, total))

    async def _receive(self, answer: aiohttp.ClientResponse, pace: asyncio.Timeout) -> None:
        """Write the body to the part, also if it ends too soon."""
        part, clock = self._part, asyncio.get_running_loop().time
        pending = bytearray()
        try:
            async for data in answer.content.iter_any():
                pending += data
                if max(part.size + len(pending), part.total or 0) > MAX_BYTES:
                    part.reset()
                    raise self._error(f"{self._url} is larger than {MAX_BYTES} bytes")
                if len(pending) >= _CHUNK_BYTES:
                    chunk, pending = pending, bytearray()
                    await _write(part, chunk)
                    pace.reschedule(clock() + _PACE)
        finally:
            await _write(part, pending)

    async def _check_room(self, full: OSError | None = None) -> None:
        """Raise unless the disk has room for what is missing."""
        part = self._part
        needed = max((part.total or 0) - part.size, 0) + RESERVE_BYTES
        free = (await in_thread(lambda: shutil.disk_usage(self._path.parent))).free
        if full is not None:
            part.reset()  # room is what is missing, so what was taken is given back
        if full is not None or free < needed:
            said = f" ({full.strerror})" if full is not None else ""
            room = f"{needed} more bytes are needed, {free} are free"
            raise self._error(f"no room for {self._path}{said}: {room}")

    def _error(self, text: str, *, retryable: bool = False) -> DownloadError:
        return DownloadError(text, url=self._url, retryable=retryable, ref=self._ref)


def _continues(answer: aiohttp.ClientResponse, part: Part) -> bool:
    """Say whether an answer to a range begins where the part ends, in the same entity."""
    match = _CONTENT_RANGE.fullmatch(answer.headers.get(hdrs.CONTENT_RANGE, ""))
    return (
        match is not None
        and answer.status == _PARTIAL
        and (int(match[1]), int(match[2])) == (part.size, part.total)
        # A server that heeds If-Range must send it; one that does not might send anything.
        and answer.headers.get(hdrs.ETAG) == part.etag
        and hdrs.CONTENT_ENCODING not in answer.headers
    )


async def _write(part: Part, data: bytearray) -> None:
    await in_thread(lambda: part.write(data))
