"""Downloads one URL: requests the missing bytes of its file, and checks each response.

A new file may not be on every server of its host yet. So requests that are answered with 403 or
404 are repeated for a short time if the task has just ended.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Mapping
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
from kling_async._utils.shielding import run_in_thread
from kling_async._utils.text import format_size
from kling_async.download.addresses import HostPolicy, parse_url
from kling_async.download.connections import PROGRESS_TIMEOUT, DownloadSession, extend
from kling_async.download.files import DISK_SPACE, HEAD_BYTES, NoSpaceError, non_media_kind
from kling_async.download.parts import STRONG_ETAG
from kling_async.errors import (
    AnswerLostError,
    APIError,
    ConfigurationError,
    DownloadError,
    ResultExpiredError,
)
from kling_async.policy.retry import Retry
from kling_async.protocol.rejections import parse_retry_after
from kling_async.protocol.requests import Response
from kling_async.results import TaskRef

if TYPE_CHECKING:
    from pathlib import Path

    from kling_async.download.parts import Part

# Much more than a video of 15 seconds has.
MAX_BYTES = 4 * 1024**3

# Bytes that are written at once, in a thread; also the least that counts as progress.
CHUNK_BYTES = 256 * 1024

# Seconds for which 403 and 404 are waited out, if the task has ended in the last ten minutes.
GRACE = 70.0
_YOUNG = timedelta(minutes=10)

_OK = 200
_PARTIAL_CONTENT = 206
# The part belongs to another entity; 412 should not answer If-Range, but some servers send it.
_RANGE_REFUSED = (412, 416)
_GONE = 410  # the file was there
# A URL that has expired or never existed. Object stores answer 403 for an expired signature.
_DEAD = (403, 404, _GONE)
# The other 4xx are final, except for these, which gateways and busy hosts send.
_TEMPORARY = (408, 409, 423, 425, 429, 499)

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})")


@frozen
class DownloadJob:
    """What all files of one download have in common.

    Attributes:
        ref: The task.
        session: The connections.
        hosts: The internal hosts that they may be fetched from.
        retry: How failed attempts are repeated.
        overwrite: Fetch and replace existing files.
        previous: None keeps existing files. Else the names and checksums of files that may be
            replaced; a file whose name any other file has gets another name.
        ended_at: When the task ended, by the service's clock and by this machine's, if known.
        patient: Repeat requests that are answered with 403 or 404 if the result is new.
        renewable: The service may return a new URL in place of an expired one.
        on_received: Called with numbers of bytes that were received.
    """

    ref: TaskRef
    session: DownloadSession
    hosts: HostPolicy
    retry: Retry
    overwrite: bool = False
    previous: Mapping[str, str] | None = None
    ended_at: tuple[datetime, ...] = ()
    patient: bool = True
    renewable: bool = False
    on_received: Callable[[int], None] | None = None


def is_young(ended_at: Collection[datetime], now: Collection[datetime]) -> bool:
    """Return whether a task has just ended, according to any pair of clocks, which may differ."""
    return any(moment - ended < _YOUNG for ended in ended_at for moment in now)


class Source:
    """One URL of a download."""

    def __init__(self, job: DownloadJob, url: str, folder: Path) -> None:
        self._job = job
        self._url = url
        self._folder = folder

    async def receive(self, part: Part) -> bool:
        """Request the missing bytes of a part; return False if it belongs to another entity.

        Raises:
            RequestError, APIError: The attempt failed; another one may succeed.
            ResultExpiredError: The URL is no longer valid; if retryable, the file may not exist
                yet.
            DownloadError: Another attempt would fail, too.
            NoSpaceError, OSError: The part cannot be written.
        """
        try:
            async with asyncio.timeout(None) as timeout:
                fits = await self._request(part, timeout)
        except aiohttp.InvalidURL as error:
            raise self.error(f"{self._url} cannot be fetched: {error!r}") from None
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = (
                describe(error) if str(error) else f"{describe(error)}: the response was too slow"
            )
            if remedy := advice(error, None):
                raise self.error(f"{self._url} cannot be fetched: {reason}; {remedy}") from None
            raise AnswerLostError(reason, retryable=True) from None
        except ConfigurationError:  # also a ValueError
            raise
        except ValueError as error:  # an invalid URL, or an internal host
            raise self.error(f"{self._url} cannot be fetched: {error}") from None
        except RuntimeError:  # how aiohttp reports a closed session
            if not self._job.session.closed:
                raise
            text = f"{self._url} was not downloaded completely: the client was closed"
            raise self.error(text, retryable=True) from None
        # No video is empty, whatever size was announced.
        if fits and (not part.size or part.size != (part.total or part.size)):
            raise AnswerLostError(f"it ended at {format_size(part.size)}", retryable=True)
        return fits

    async def _request(self, part: Part, timeout: asyncio.Timeout) -> bool:
        # The announced size of a compressed body does not allow to check that it is complete.
        headers: dict[str, str] = {hdrs.ACCEPT_ENCODING: "identity"}
        resuming = part.resumable
        if resuming:
            headers |= {hdrs.RANGE: f"bytes={part.size}-", hdrs.IF_RANGE: part.etag or ""}
        url, hosts = parse_url(self._url), self._job.hosts
        async with self._job.session.get(url, headers, hosts, timeout) as response:
            extend(timeout, PROGRESS_TIMEOUT)
            if resuming and response.status in (_PARTIAL_CONTENT, *_RANGE_REFUSED):
                if not _continues(response, part):
                    return False
            else:
                self._check_status(response, part)
                etag = response.headers.get(hdrs.ETAG, "")
                strong = etag if re.fullmatch(STRONG_ETAG, etag) else None
                encoded = hdrs.CONTENT_ENCODING in response.headers
                total = None if encoded else response.content_length
                await run_in_thread(lambda: part.restart(strong, total))
            missing = max((part.total or 0) - part.size, 0)
            await run_in_thread(lambda: DISK_SPACE.reserve(part, self._folder, missing))
            await self._read_body(response, part, timeout)
        return True

    def _check_status(self, response: aiohttp.ClientResponse, part: Part) -> None:
        status = response.status
        if status in _DEAD:
            now = [datetime.now(UTC), *_date(response)]
            young = self._job.patient and status != _GONE and is_young(self._job.ended_at, now)
            if not young and not self._job.renewable:
                part.reset()  # no later attempt can resume it
            raise self._expired(status, young=young)
        if status == PROXY_AUTHENTICATION:
            raise self.error(f"{self._url} cannot be fetched: {PROXY_REFUSES_CREDENTIALS}")
        if status != _OK:
            final = status in range(400, 500) and status not in _TEMPORARY
            wait = parse_retry_after(Response(status, b"", response.headers), datetime.now(UTC))
            text = f"it answered HTTP {status}"
            raise APIError(text, status=status, retry_after=wait, retryable=not final)

    async def _read_body(
        self, response: aiohttp.ClientResponse, part: Part, timeout: asyncio.Timeout
    ) -> None:
        """Write the body to the part, even if it is incomplete."""
        content_type = response.headers.get(hdrs.CONTENT_TYPE, "")
        pending = bytearray()

        def check(least: int) -> None:
            if max(part.size + len(pending), part.total or 0) > MAX_BYTES:
                part.reset()
                raise self.error(f"{self._url} is larger than {format_size(MAX_BYTES)}")
            if part.size == 0 and len(pending) >= least:
                kind = non_media_kind(content_type, bytes(pending[:HEAD_BYTES]))
                if kind is not None:
                    text = f"it answered with {kind}, which is not a video"
                    raise AnswerLostError(text, retryable=True)

        try:
            async for data in response.content.iter_any():
                pending += data
                if self._job.on_received is not None:
                    self._job.on_received(len(data))
                check(least=HEAD_BYTES)
                if len(pending) >= CHUNK_BYTES:
                    chunk, pending = pending, bytearray()
                    await self._write_chunk(part, chunk)
                    extend(timeout, PROGRESS_TIMEOUT)
            check(least=1)
        except BaseException:
            if part.size or non_media_kind(content_type, bytes(pending[:HEAD_BYTES])) is None:
                with suppress(OSError, NoSpaceError):  # there is a better error
                    await self._write_chunk(part, pending)
            raise
        await self._write_chunk(part, pending)

    async def _write_chunk(self, part: Part, data: bytearray) -> None:
        def write() -> None:
            missing = max((part.total or 0) - part.size, len(data))
            DISK_SPACE.reserve(part, self._folder, missing)
            part.write(data)
            DISK_SPACE.written(part, len(data))

        if data:
            await run_in_thread(write)

    def _expired(self, status: int, *, young: bool) -> ResultExpiredError:
        text = (
            f"{self._url} is no longer valid (HTTP {status}); result URLs expire after 15 days at"
            " the latest"
        )
        if young:
            text = (
                f"{self._url} answered HTTP {status} for {GRACE:.0f} s, but its task has just"
                " ended: download again later"
            )
        return ResultExpiredError(text, url=self._url, retryable=young, ref=self._job.ref)

    def error(self, text: str, *, retryable: bool = False) -> DownloadError:
        """Return an error about this URL."""
        return DownloadError(text, url=self._url, retryable=retryable, ref=self._job.ref)


def _continues(response: aiohttp.ClientResponse, part: Part) -> bool:
    """Return whether a response to a range request begins where the part ends, in its entity."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get(hdrs.CONTENT_RANGE, ""))
    return (
        match is not None
        and response.status == _PARTIAL_CONTENT
        and (int(match[1]), int(match[2])) == (part.size, part.total)
        # A server that ignores If-Range could send any entity.
        and response.headers.get(hdrs.ETAG) == part.etag
        and hdrs.CONTENT_ENCODING not in response.headers
    )


def _date(response: aiohttp.ClientResponse) -> list[datetime]:
    """Return the time by the host's clock, if the response has it."""
    try:
        date = parsedate_to_datetime(response.headers.get(hdrs.DATE, ""))
    except (TypeError, ValueError):
        return []
    return [date if date.tzinfo is not None else date.replace(tzinfo=UTC)]
