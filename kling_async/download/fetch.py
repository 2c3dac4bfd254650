"""One URL to one file: attempts, what each is checked for, and when to give up.

A file that is cut is gone on with where it ended, at once or by the next call, in any process.
That needs a strong ETag from the server, which says that the bytes are the same ones: then the
rest is asked for with ``If-Range``. Neither a weak ETag, nor a date (it counts seconds, and many
files share one), nor the size is enough: without a strong ETag a file is fetched anew, which costs
a minute and no money. The query of a URL may change meanwhile, since that is where the service's
signature would be; the rest of the URL may not, because an ETag is one URL's.

Every download ends, once it has a connection. A minute without a byte ends an attempt. So do five
minutes without a quarter of a mebibyte, because bytes that drip one by one would never let the
minute pass. Only attempts that bring as much as that, beyond all that was there before, do not
count as failed.

What is not there yet is waited for without a place among the downloads, whatever the policy.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from errno import EDQUOT, EFBIG, EMFILE, ENFILE, ENOSPC
from hashlib import sha256
from random import random
from typing import TYPE_CHECKING

from kling_async._utils.threads import in_thread
from kling_async.download.files import checksum, is_known, look
from kling_async.download.names import alternatives
from kling_async.download.parts import Part, sweep
from kling_async.download.room import RESERVE_BYTES, ROOM, NoRoomError
from kling_async.download.source import CHUNK_BYTES, GRACE, NotReadyError, Source
from kling_async.errors import AnswerLostError, APIError, DownloadError, RequestError
from kling_async.policy.retry import backoff
from kling_async.results import SavedFile

if TYPE_CHECKING:
    from pathlib import Path

    from kling_async.download.source import Job

# Seconds between two tries for a file that is not there yet, at the most.
_GRACE_CAP = 8.0

_FULL = (ENOSPC, EDQUOT, EFBIG)
_TOO_MANY_OPEN = (EMFILE, ENFILE)


class File:
    """One URL on its way to one name."""

    def __init__(self, job: Job, url: str, path: Path) -> None:
        self._job = job
        self._url = url
        self._path = path
        self._from = Source(job, url, path.parent)
        source = re.split(r"[?#]", url)[0]
        self._source = sha256(source.encode("utf-8", "replace")).hexdigest()
        self._part = Part(path, self._source)

    async def save(self) -> SavedFile:
        """Fetch it, or keep what is there.

        Raises:
            DownloadError: It did not arrive whole, or cannot be written.
            ResultExpiredError: The URL is dead.
        """
        retry, clock = self._job.retry, asyncio.get_running_loop().time
        begun, attempt, missing_since = clock(), 0, float("inf")
        while True:
            attempt += 1
            try:
                async with self._job.connections.places:
                    return await self._save()
            except NotReadyError as error:
                missing_since = min(missing_since, clock())
                if clock() - missing_since >= GRACE:
                    raise self._from.dead(error.status, young=True) from None
                chance = (1 + random()) / 2  # noqa: S311 - jitter
                delay = backoff(attempt, retry.base, _GRACE_CAP, chance)
            except OSError as error:
                if error.errno not in _TOO_MANY_OPEN:
                    raise self._from.error(f"cannot save {self._path}: {error}") from None
                busy = AnswerLostError(str(error), retryable=True)
                wait = retry.wait(busy, attempt, clock() - begun, random())  # noqa: S311 - jitter
                if wait is None:
                    text = f"cannot save {self._path}: {error}"
                    raise self._from.error(text, retryable=True) from None
                delay = wait
            await asyncio.sleep(delay)

    async def _save(self) -> SavedFile:
        job, part = self._job, Part(self._path, self._source)
        self._part = part
        try:
            if not job.overwrite and job.previous is None:
                kept = await in_thread(self._keep)
                if kept is not None:
                    return kept
            await in_thread(part.open)
            await self._fetch()
            return await in_thread(self._finish)
        except NoRoomError as error:
            raise self._no_room(f": {error}") from None
        except OSError as error:
            if error.errno not in _FULL:
                raise
            usage = await in_thread(lambda: shutil.disk_usage(self._path.parent))
            needed = max((part.total or 0) - part.size, 0) + RESERVE_BYTES
            room = f"{needed} more bytes are needed, {usage.free} are free"
            raise self._no_room(f" ({error.strerror}): {room}") from None
        finally:
            await in_thread(self._close)

    def _keep(self) -> SavedFile | None:
        """Return the file that is there already, if there is one."""
        if (found := look(self._path)) is None:
            return None
        sweep(self._path)  # no part of it will be gone on with
        return SavedFile(self._url, self._path.name, *found)

    def _finish(self) -> SavedFile:
        """Give the file a name."""
        part, names = self._part, alternatives(self._path.name, self._job.ref)
        kept: tuple[int, str] | None = None

        def may_replace(path: Path) -> bool:
            nonlocal kept
            if self._job.overwrite:
                return True
            if self._job.previous is not None:
                return self._is_previous(path)
            kept = look(path)  # another download of this file may have been complete first
            return kept is None

        part.sync()
        while not part.publish(path := self._path.with_name(next(names)), may_replace):
            if kept is not None:
                return SavedFile(self._url, path.name, *kept)
        return SavedFile(self._url, path.name, part.size, part.sha256)

    def _is_previous(self, path: Path) -> bool:
        """Whether a file is one that an earlier call has saved, or what is left of it."""
        saved = (self._job.previous or {}).get(path.name)
        # The name was given then. But that file may have been removed, and this be another's.
        return saved is not None and (not is_known(path) or checksum(path) == saved)

    def _close(self) -> None:
        ROOM.release(self._part)
        self._part.close()

    async def _fetch(self) -> None:
        """Try until all of it is there, or until the policy gives up."""
        part, clock, retry = self._part, asyncio.get_running_loop().time, self._job.retry
        best, attempt, begun = part.size, 0, clock()
        while True:
            attempt += 1
            try:
                while not await self._from.receive(part):
                    part.reset()  # it belongs to something else: at once again, without it
            except (APIError, RequestError) as failed:
                error = failed
            else:
                return
            if part.size - best >= CHUNK_BYTES:
                best, attempt, begun = part.size, 1, clock()
            delay = retry.wait(error, attempt, clock() - begun, random())  # noqa: S311 - jitter, not secrets
            if delay is None:
                size = f"{part.size} of {part.total or 'unknown'} bytes"
                rest = f"{size} are kept: download again to go on from there"
                text = f"did not arrive whole: {error}; {rest if part.stays else f'{size} came'}"
                raise self._from.error(f"{self._url} {text}", retryable=error.retryable)
            await asyncio.sleep(delay)

    def _no_room(self, text: str) -> DownloadError:
        self._part.reset()  # room is what is missing, so what was taken is given back
        return self._from.error(f"no room for {self._path}{text}")
