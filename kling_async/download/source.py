"""One URL, asked for what is missing of its file: what each answer is checked for.

A file that is new may not have reached every server of its host yet. So 403 and 404 are final only
for a result that is older than that takes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import hdrs
from attrs import frozen

from kling_async._network.connection_errors import (
    PROXY_AUTHENTICATION,
    PROXY_REFUSES_CREDENTIALS,
    advice,
    describe,
)
from kling_async._utils.threads import in_thread
from kling_async.download.addresses import Guard, web_url
from kling_async.download.connections import Connections, Pace
from kling_async.download.content import HEAD_BYTES, not_media
from kling_async.download.parts import STRONG_ETAG
from kling_async.download.room import ROOM, NoRoomError
from kling_async.errors import (
    AnswerLostError,
    APIError,
    ConfigurationError,
    DownloadError,
    ResultExpiredError,
)
from kling_async.policy.retry import Retry
from kling_async.protocol.responses import Response, parse_retry_after
from kling_async.results import TaskRef

if TYPE_CHECKING:
    from pathlib import Path

    from kling_async.download.parts import Part

# Nothing that the service makes in 15 seconds of video comes near this.
MAX_BYTES = 4 * 1024**3

# Written to disk at a time, in a thread: the loop is never held up by a slow disk. It is also
# the least that counts as progress, and what must come in every `_PACE` seconds.
CHUNK_BYTES = 256 * 1024
_PACE = 300.0

# A result is young for so long after its task has ended. For so many seconds 403 and 404 of a
# young one are waited out.
_YOUNG = timedelta(minutes=10)
GRACE = 70.0

# The statuses of a URL that is gone or was never there. 403 is how object stores answer for a
# link that has expired.
_DEAD = (403, 404, 410)
_GONE = 410  # says that it was there
_OK = 200
_PARTIAL = 206
_NO_SUCH_RANGE = 416
_CLIENT = range(400, 500)
# Of those, what gateways and busy hosts answer for the moment.
_PASSING = (408, 409, 423, 425, 429, 499)

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})")


@frozen
class Job:
    """What is the same for all files of a download.

    Attributes:
        ref: The task.
        connections: What they are fetched with.
        guard: Which hosts they may come from.
        retry: How failed attempts are repeated.
        overwrite: Fetch what is there already, and replace it.
        previous: None keeps what is there already. Else names of files that may be replaced, with
            their checksums; of any others the names are not taken, and the file gets another one.
        ended_at: When the task ended, by the service and as this process has seen it, if known.
        patient: Whether 403 and 404 of a young result are waited out.
        renewable: Whether a dead URL may be replaced by a fresh one of the same file.
    """

    ref: TaskRef
    connections: Connections
    guard: Guard
    retry: Retry
    overwrite: bool = False
    previous: Mapping[str, str] | None = None
    ended_at: tuple[datetime, ...] = ()
    patient: bool = True
    renewable: bool = False


def is_young(ended_at: Collection[datetime], now: Collection[datetime]) -> bool:
    """Whether a result may be so new that its files are not everywhere yet.

    Args:
        ended_at: When its task ended, by clocks that may differ.
        now: The time, by clocks that may differ; one of them is enough.
    """
    return any(moment - ended < _YOUNG for ended in ended_at for moment in now)


class NotReadyError(Exception):
    """A file is not there, and may come."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Source:
    """One URL of a download."""

    def __init__(self, job: Job, url: str, folder: Path) -> None:
        self._job = job
        self._url = url
        self._folder = folder

    async def receive(self, part: Part) -> bool:
        """Ask once for what is missing; false if what is there is no part of what was offered.

        Raises:
            RequestError: There was no usable answer.
            APIError: The host answered with an error.
            NotReadyError: The file is not there, and may come.
            ResultExpiredError: The URL is dead.
            DownloadError: Another attempt would fail, too.
            NoRoomError: The disk has too little space.
            OSError: It cannot be written.
        """
        try:
            async with asyncio.timeout(None) as limit:
                fits = await self._ask(part, Pace(limit, _PACE))
        except aiohttp.InvalidURL as error:
            raise self.error(f"{self._url} cannot be fetched: {error!r}") from None
        except (aiohttp.ClientError, TimeoutError) as error:
            said = describe(error) if str(error) else f"{describe(error)}: it came too slowly"
            if todo := advice(error, None):
                raise self.error(f"{self._url} cannot be fetched: {said}; {todo}") from None
            raise AnswerLostError(said, retryable=True) from None
        except ConfigurationError:  # also a ValueError
            raise
        except ValueError as error:  # no URL, a host that cannot be one, or an internal one
            raise self.error(f"{self._url} cannot be fetched: {error}") from None
        except RuntimeError:  # all that aiohttp says of a session that is closed
            if not self._job.connections.closed:
                raise
            text = f"{self._url} did not arrive whole: the client was closed"
            raise self.error(text, retryable=True) from None
        # No video is empty, whatever size was announced.
        if fits and (not part.size or part.size != (part.total or part.size)):
            raise AnswerLostError(f"it ended at {part.size} bytes", retryable=True)
        return fits

    async def _ask(self, part: Part, pace: Pace) -> bool:
        # A compressed body would make the size that is announced useless as a check.
        headers: dict[str, str] = {hdrs.ACCEPT_ENCODING: "identity"}
        asked = part.resumable
        if asked:
            headers |= {hdrs.RANGE: f"bytes={part.size}-", hdrs.IF_RANGE: part.etag or ""}
        url, guard = web_url(self._url), self._job.guard
        async with self._job.connections.get(url, headers, guard, pace) as answer:
            pace.progress()
            if asked and answer.status in (_PARTIAL, _NO_SUCH_RANGE):
                if not _continues(answer, part):
                    return False
            else:
                self._check_status(answer, part)
                await _begin(answer, part)
            missing = max((part.total or 0) - part.size, 0)
            await in_thread(lambda: ROOM.claim(part, self._folder, missing))
            await self._read(answer, part, pace)
        return True

    def _check_status(self, answer: aiohttp.ClientResponse, part: Part) -> None:
        status = answer.status
        if status in _DEAD:
            now = [datetime.now(UTC), *_date(answer)]
            young = self._job.patient and is_young(self._job.ended_at, now)
            if young and status != _GONE:
                raise NotReadyError(status)
            if not self._job.renewable:
                part.reset()  # nothing will be gone on with
            raise self.dead(status)
        if status == PROXY_AUTHENTICATION:
            raise self.error(f"{self._url} cannot be fetched: {PROXY_REFUSES_CREDENTIALS}")
        if status != _OK:
            refused = status in _CLIENT and status not in _PASSING
            wait = parse_retry_after(Response(status, b"", answer.headers), datetime.now(UTC))
            raise APIError(
                f"it answered HTTP {status}", status=status, retry_after=wait, retryable=not refused
            )

    async def _read(self, answer: aiohttp.ClientResponse, part: Part, pace: Pace) -> None:
        """Write the body to the part, also if it ends too soon."""
        kind = answer.headers.get(hdrs.CONTENT_TYPE, "")
        pending = bytearray()
        try:
            async for data in answer.content.iter_any():
                pending += data
                self._check_size(part, len(pending))
                if part.size == 0 and len(pending) >= HEAD_BYTES:
                    _check_content(kind, pending)
                if len(pending) >= CHUNK_BYTES:
                    chunk, pending = pending, bytearray()
                    await self._write(part, chunk)
                    pace.progress()
            if part.size == 0 and pending:
                _check_content(kind, pending)
        except BaseException:
            if part.size or not_media(kind, bytes(pending[:HEAD_BYTES])) is None:
                with suppress(OSError, NoRoomError):  # there is a better error
                    await self._write(part, pending)
            raise
        await self._write(part, pending)

    def _check_size(self, part: Part, pending: int) -> None:
        if max(part.size + pending, part.total or 0) > MAX_BYTES:
            part.reset()
            raise self.error(f"{self._url} is larger than {MAX_BYTES} bytes")

    async def _write(self, part: Part, data: bytearray) -> None:
        def write() -> None:
            missing = max((part.total or 0) - part.size, len(data))
            ROOM.claim(part, self._folder, missing, writing=len(data))
            part.write(data)

        if data:
            await in_thread(write)

    def dead(self, status: int, *, young: bool = False) -> ResultExpiredError:
        """Return the error of a URL that is dead, or that is not alive yet."""
        text = f"{self._url} is dead (HTTP {status}); result URLs live for 15 days at most"
        if young:
            text = (
                f"{self._url} answered HTTP {status} for {GRACE:.0f} s, but its task has just"
                " ended: download again later"
            )
        return ResultExpiredError(text, url=self._url, retryable=young, ref=self._job.ref)

    def error(self, text: str, *, retryable: bool = False) -> DownloadError:
        """Return an error of this URL."""
        return DownloadError(text, url=self._url, retryable=retryable, ref=self._job.ref)


async def _begin(answer: aiohttp.ClientResponse, part: Part) -> None:
    """Start the part again with this answer, whatever was there before."""
    etag = answer.headers.get(hdrs.ETAG, "")
    total = None if hdrs.CONTENT_ENCODING in answer.headers else answer.content_length
    strong = etag if re.fullmatch(STRONG_ETAG, etag) else None
    await in_thread(lambda: part.begin(strong, total))


def _check_content(kind: str, begin: bytearray) -> None:
    found = not_media(kind, bytes(begin[:HEAD_BYTES]))
    if found is not None:
        raise AnswerLostError(f"it answered with {found}, which is no video", retryable=True)


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


def _date(answer: aiohttp.ClientResponse) -> list[datetime]:
    """Return the time by the clock of a file's host, if it gives one."""
    try:
        date = parsedate_to_datetime(answer.headers.get(hdrs.DATE, ""))
    except (TypeError, ValueError):
        return []
    return [date if date.tzinfo is not None else date.replace(tzinfo=UTC)]
