"""One URL to one file: attempts, and when to give up.

An interrupted file is resumed where it ended, by the next attempt or the next call, in any
process. This requires a strong ETag, which identifies the bytes: the rest is requested with
``If-Range``. A weak ETag, a date or a size does not suffice, and the file is fetched from its
beginning. The query of a URL may change, since signatures are part of it; the rest may not,
because an ETag identifies an entity of one URL.

Every attempt ends, once it has a connection: after a minute without a byte, and after five minutes
without 256 KiB, since single bytes would prevent the first from ever elapsing. Attempts that make
this much progress do not count as failed.

A file that does not exist yet is waited for, whatever the policy, outside the limit of downloads.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from errno import EDQUOT, EFBIG, EMFILE, ENFILE, ENOSPC
from hashlib import sha256
from random import random
from typing import TYPE_CHECKING

from kling_async._utils.shielding import run_in_thread
from kling_async._utils.text import format_size
from kling_async.download import files
from kling_async.download.names import alternative_names
from kling_async.download.parts import Part, remove_stale
from kling_async.download.source import CHUNK_BYTES, GRACE, Source
from kling_async.errors import (
    AnswerLostError,
    APIError,
    DownloadError,
    RequestError,
    ResultExpiredError,
)
from kling_async.policy.retry import backoff
from kling_async.results import SavedFile

if TYPE_CHECKING:
    from pathlib import Path

    from kling_async.download.source import DownloadJob

# The longest wait, in seconds, between two attempts to fetch a file that does not exist yet.
_GRACE_CAP = 8.0

_DISK_FULL = (ENOSPC, EDQUOT, EFBIG)
_TOO_MANY_OPEN = (EMFILE, ENFILE)


class FileDownload:
    """The download of one URL to one path."""

    def __init__(self, job: DownloadJob, url: str, path: Path) -> None:
        self._job = job
        self._url = url
        self._path = path
        self._source = Source(job, url, path.parent)
        unsigned = re.split(r"[?#]", url)[0]
        self._digest = sha256(unsigned.encode("utf-8", "replace")).hexdigest()

    async def run(self) -> SavedFile:
        """Fetch the file, or keep the one that exists."""
        retry, clock = self._job.retry, asyncio.get_running_loop().time
        started, attempt, missing_since = clock(), 0, float("inf")
        while True:
            attempt += 1
            try:
                async with self._job.session.slots:
                    return await self._attempt()
            except ResultExpiredError as error:
                missing_since = min(missing_since, clock())
                if not error.retryable or clock() - missing_since >= GRACE:
                    raise
                chance = (1 + random()) / 2  # noqa: S311 - jitter
                delay = backoff(attempt, retry.base, _GRACE_CAP, chance)
            except OSError as error:
                text = f"cannot save {self._path}: {error}"
                if error.errno not in _TOO_MANY_OPEN:
                    raise self._source.error(text) from None
                busy = AnswerLostError(str(error), retryable=True)
                wait = retry.next_delay(busy, attempt, clock() - started, random())  # noqa: S311 - jitter
                if wait is None:
                    raise self._source.error(text, retryable=True) from None
                delay = wait
            await asyncio.sleep(delay)

    async def _attempt(self) -> SavedFile:
        part = Part(self._path, self._digest)
        try:
            if not self._job.overwrite and self._job.previous is None:
                kept = await run_in_thread(self._find_existing)
                if kept is not None:
                    return kept
            await run_in_thread(part.lock)
            await self._fetch_part(part)
            return await run_in_thread(lambda: self._publish(part))
        except files.NoSpaceError as error:
            raise self._no_space(part, f": {error}") from None
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            usage = await run_in_thread(lambda: shutil.disk_usage(self._path.parent))
            needed = max((part.total or 0) - part.size, 0) + files.RESERVE_BYTES
            room = files.NoSpaceError(needed, usage.free)
            raise self._no_space(part, f" ({error.strerror}): {room}") from None
        finally:
            files.DISK_SPACE.release(part)
            await run_in_thread(part.close)

    async def _fetch_part(self, part: Part) -> None:
        """Repeat attempts until the part is complete, or until the policy gives up."""
        retry, clock = self._job.retry, asyncio.get_running_loop().time
        best, attempt, started = part.size, 0, clock()
        while True:
            attempt += 1
            try:
                while not await self._source.receive(part):
                    part.reset()  # it belongs to another entity: fetch from the beginning
            except (APIError, RequestError) as failed:
                error = failed
            else:
                return
            if part.size - best >= CHUNK_BYTES:
                best, attempt, started = part.size, 1, clock()
            delay = retry.next_delay(error, attempt, clock() - started, random())  # noqa: S311 - jitter
            if delay is None:
                total = format_size(part.total) if part.total else "an unknown size"
                size = f"{format_size(part.size)} of {total}"
                rest = f"{size} came"
                if part.stays:
                    rest = f"{size} are kept: download again to resume"
                text = f"{self._url} was not downloaded completely: {error}; {rest}"
                raise self._source.error(text, retryable=error.retryable)
            await asyncio.sleep(delay)

    def _find_existing(self) -> SavedFile | None:
        if (found := files.find_complete(self._path)) is None:
            return None
        remove_stale(self._path)  # no attempt will resume its parts
        return SavedFile(self._url, self._path.name, *found)

    def _publish(self, part: Part) -> SavedFile:
        """Give the file its name, or another one if a different file has it."""
        existing: tuple[int, str] | None = None

        def may_replace(path: Path) -> bool:
            nonlocal existing
            if self._job.overwrite:
                return True
            if self._job.previous is not None:
                # A file that an earlier call has saved, or what is left of it. It may have been
                # removed since, and its name be another file's.
                saved = self._job.previous.get(path.name)
                return saved is not None and (
                    not files.is_media(path) or files.checksum(path) == saved
                )
            # Another download of this file may have ended first.
            existing = files.find_complete(path)
            return existing is None

        part.sync()
        names = alternative_names(self._path.name, self._job.ref)
        while not part.publish(path := self._path.with_name(next(names)), may_replace):
            if existing is not None:
                return SavedFile(self._url, path.name, *existing)
        return SavedFile(self._url, path.name, part.size, part.sha256)

    def _no_space(self, part: Part, text: str) -> DownloadError:
        part.reset()  # closing it will free its space
        return self._source.error(f"no room for {self._path}{text}")
