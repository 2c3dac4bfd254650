"""Saves all files of a result, one after another, with new URLs if theirs have expired."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from attrs import evolve

from kling_async._network.proxies import Proxies
from kling_async._utils.shielding import run_in_thread
from kling_async.download.addresses import HostPolicy
from kling_async.download.connections import SessionPool
from kling_async.download.fetch import FileDownload
from kling_async.download.names import file_name, stem
from kling_async.download.parts import remove_stale
from kling_async.download.source import DownloadJob
from kling_async.errors import (
    ConfigurationError,
    DownloadError,
    InputError,
    KlingError,
    ResultExpiredError,
)
from kling_async.policy.retry import Retry
from kling_async.results import Result, SavedFile, Snapshot

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Iterable
    from datetime import datetime


class Downloader:
    """Saves the files of results. It limits downloads at one time, and shares connections.

    It may be created outside an event loop, and used on several loops, one after another.

    Args:
        session, proxies: As for :func:`download`.
        base_url: The URL of the service. If it is this machine, files may be on any host. Else
            internal addresses are refused, except for the service's own host. None: the result
            URLs are the caller's own, and only redirects are checked.
        allow_hosts: Internal hosts that files may be fetched from.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession | None = None,
        proxies: Proxies | None = None,
        base_url: str | None = None,
        allow_hosts: Iterable[str] = (),
    ) -> None:
        self._sessions = SessionPool(session, proxies)
        self._trusts_urls = base_url is None
        self._hosts = HostPolicy.of_service(base_url, allow_hosts)

    async def save(  # noqa: PLR0913 - every one is a keyword with a default
        self,
        result: Result | Snapshot,
        folder: str | os.PathLike[str],
        *,
        name: str | None = None,
        overwrite: bool = False,
        previous: Collection[SavedFile] | None = None,
        retry: Retry | None = None,
        seen_at: datetime | None = None,
        renew: Callable[[], Awaitable[tuple[str, ...]]] | None = None,
        on_renewed: Callable[[tuple[str, ...]], Awaitable[object]] | None = None,
        on_received: Callable[[int], None] | None = None,
    ) -> tuple[SavedFile, ...]:
        """Save a result's files, as :func:`download` does.

        ``previous`` has the files that an earlier call has saved and that this one may replace. If
        any other file has the name, the new one gets another name. ``seen_at`` is when this process
        found that the task had ended. ``renew`` returns the result's current URLs at the service;
        it is called at most once, when a URL has expired, and ``on_renewed`` is awaited with them
        before they are used. ``on_received`` is called with numbers of bytes that were received.
        """
        _check_arguments(result, previous, on_renewed)
        session = await self._sessions.session()
        try:
            target = Path(folder)
            stem("" if name is None else name)
            await run_in_thread(lambda: target.mkdir(parents=True, exist_ok=True))
        except TypeError as error:
            raise ConfigurationError(f"the folder and the name must be text: {error}") from None
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            text = f"cannot create the folder {folder}: {error}"
            raise DownloadError(text, retryable=False, ref=result.ref) from None
        urls = result.result_urls
        moments = (result.completed_at, seen_at)
        job = DownloadJob(
            result.ref,
            session,
            self._hosts.trusting(urls) if self._trusts_urls else self._hosts,
            retry or Retry(),
            overwrite=overwrite,
            previous=None if previous is None else {file.name: file.sha256 for file in previous},
            ended_at=tuple(at for at in moments if at is not None and at.tzinfo is not None),
            renewable=renew is not None,
            on_received=on_received,
        )
        saved: list[SavedFile] = []
        while len(saved) < len(urls):
            index = len(saved)
            path = target / file_name(result.ref, index, urls[index], name)
            try:
                saved.append(await FileDownload(job, urls[index], path).run())
            except ResultExpiredError as expired:
                if renew is None:
                    raise
                try:
                    urls = await _renewed_urls(expired, urls, index, renew)
                except ResultExpiredError as error:
                    if not error.retryable:  # no attempt will resume its parts
                        await run_in_thread(lambda: remove_stale(path))  # noqa: B023 - awaited here
                    raise
                if on_renewed is not None:
                    await on_renewed(urls)
                # Only once: a new URL is expected to be valid.
                job, renew = evolve(job, renewable=False, patient=False), None
        return tuple(saved)

    async def close(self) -> None:
        """Close the connections of the running loop. A later call opens new ones."""
        await self._sessions.close()


def _check_arguments(result: object, previous: object, on_renewed: object) -> None:
    if not isinstance(result, Result | Snapshot):
        raise InputError(f"not the result of a task: {result!r:.80}")
    if previous is not None and not (
        isinstance(previous, Collection) and all(isinstance(one, SavedFile) for one in previous)
    ):
        raise ConfigurationError(f"previous must be several SavedFile, not {previous!r:.80}")
    if on_renewed is not None and not callable(on_renewed):
        raise ConfigurationError(f"on_renewed must be a function, not {on_renewed!r:.80}")


async def _renewed_urls(
    expired: ResultExpiredError,
    urls: tuple[str, ...],
    index: int,
    renew: Callable[[], Awaitable[tuple[str, ...]]],
) -> tuple[str, ...]:
    """Return the current URLs of the same files; raise if the expired one is still the same."""
    try:
        current = await renew()
    except KlingError as error:
        raise ResultExpiredError(
            f"{expired}; the service returned no new one: {error}",
            url=expired.url,
            retryable=expired.retryable or error.retryable,
            ref=expired.ref,
        ) from None
    if len(current) != len(urls) or current[index] == urls[index]:
        raise expired
    return current


async def download(  # noqa: PLR0913 - every one is a keyword with a default
    result: Result | Snapshot,
    folder: str | os.PathLike[str],
    *,
    name: str | None = None,
    overwrite: bool = False,
    session: aiohttp.ClientSession | None = None,
    proxies: Proxies | None = None,
    allow_hosts: Iterable[str] = (),
    retry: Retry | None = None,
) -> tuple[SavedFile, ...]:
    """Save a result's files to a folder, and return them in the order of the URLs.

    When this returns, the files are on the disk, safe from a power cut. Several downloads of one
    file at the same time, in one process or several, do not conflict.

    Args:
        result: The result of a finished task.
        folder: The folder; created if it does not exist.
        name: The name of the files; else the task's id. The suffix is added.
        overwrite: Fetch existing files again, instead of keeping them. A file that is empty or
            that is a page of text is always fetched again.
        session: Its connections and proxy are used. Its headers, cookies and credentials are not
            sent to the file's host.
        proxies: The proxies; else the session's, or ``HTTPS_PROXY``, ``HTTP_PROXY`` and
            ``NO_PROXY``.
        allow_hosts: Hosts that redirects may lead to although they are this machine or in a
            private network.
        retry: How failed attempts are repeated. An attempt that made progress does not count, and
            its ``request_timeout`` is not used: large files take long.

    Raises:
        DownloadError: A file could not be downloaded completely, is not a video, or cannot be
            written. The others are complete. Call again to resume.
        ResultExpiredError: A URL is no longer valid; or, if the error is ``retryable``, its file
            may not exist yet.
        ConfigurationError: The session is closed or belongs to another event loop, the URL of a
            proxy is invalid, or an argument is of another type.
        InputError: ``result`` is not one.
    """
    kinds = (("session", session, aiohttp.ClientSession), ("proxies", proxies, Proxies))
    for argument, value, kind in (*kinds, ("retry", retry, Retry)):
        if value is not None and not isinstance(value, kind):
            raise ConfigurationError(f"{argument} must be a {kind.__name__}, not {value!r:.80}")
    downloader = Downloader(session=session, proxies=proxies, allow_hosts=allow_hosts)
    try:
        return await downloader.save(result, folder, name=name, overwrite=overwrite, retry=retry)
    finally:
        await downloader.close()
