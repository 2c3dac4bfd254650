"""All files of a result: one after another, with fresh URLs if theirs have expired."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve

from kling_async._utils.threads import in_thread
from kling_async._utils.urls import is_loopback
from kling_async.download.addresses import Guard, web_url
from kling_async.download.connections import Pool
from kling_async.download.fetch import File
from kling_async.download.names import file_name
from kling_async.download.parts import sweep
from kling_async.download.source import Job
from kling_async.errors import ConfigurationError, DownloadError, KlingError, ResultExpiredError
from kling_async.policy.retry import Retry

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Collection, Iterable
    from datetime import datetime

    import aiohttp

    from kling_async._network.proxies import Proxies
    from kling_async.results import Result, SavedFile, Snapshot


class Downloader:
    """Saves the files of results, so many at a time, with connections of its own.

    It may be made outside an event loop, and used on several, one after another.

    Args:
        session: Whose connections and proxy to use. Neither its headers nor its cookies nor its
            credentials are sent to the hosts of files.
        proxies: The way to the hosts; else the session's, or that of the environment.
        base_url: Where the service is. If that is this machine, files may be anywhere. Else URLs
            and redirects to internal addresses are refused, but for the service's own host.
            None: the URLs of results are the caller's own, and only where they lead to is checked.
        allow_hosts: Hosts that files may be fetched from though they are internal.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession | None = None,
        proxies: Proxies | None = None,
        base_url: str | None = None,
        allow_hosts: Iterable[str] = (),
    ) -> None:
        if isinstance(allow_hosts, str):
            raise ConfigurationError("allow_hosts must be several hosts, such as ['10.0.0.7']")
        self._pool = Pool(session, proxies)
        self._judges_results = base_url is not None
        service = (web_url(base_url).raw_host or "") if base_url is not None else ""
        # The service's own host is connected to anyway, and may have its files, too.
        hosts = {host.strip("[]").lower() for host in allow_hosts} | {service}
        self._guard = Guard(open=is_loopback(service), allowed=frozenset(hosts))

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
    ) -> tuple[SavedFile, ...]:
        """Save a result's files, as :func:`download` does.

        Args:
            result: What a finished task gave.
            folder: Where to save.
            name: What to call the files.
            overwrite: Fetch what is there already, and replace it.
            previous: Files that an earlier call has saved, and that this one may replace. No
                other file is replaced or kept then: the new one gets another name.
            retry: How failed attempts are repeated.
            seen_at: When this process has seen the task end, if it has.
            renew: Gives the URLs that the service has for the result now. It is called once at
                most, when a URL has expired.
            on_renewed: Is awaited with the new URLs before they are used.
        """
        connections = await self._pool.connections()
        target = Path(folder)
        try:
            await in_thread(lambda: target.mkdir(parents=True, exist_ok=True))
        except OSError as error:
            text = f"cannot make the folder {target}: {error}"
            raise DownloadError(text, retryable=False, ref=result.ref) from None
        urls = result.result_urls
        job = Job(
            result.ref,
            connections,
            self._guard if self._judges_results else self._guard.for_own(urls),
            retry or Retry(),
            overwrite=overwrite,
            previous=None if previous is None else {one.name: one.sha256 for one in previous},
            ended_at=tuple(
                moment
                for moment in (result.completed_at, seen_at)
                if moment is not None and moment.tzinfo is not None
            ),
            renewable=renew is not None,
        )
        saved: list[SavedFile] = []
        while len(saved) < len(urls):
            index = len(saved)
            path = target / file_name(result.ref, index, urls[index], name)
            try:
                saved.append(await File(job, urls[index], path).save())
            except ResultExpiredError as expired:
                if renew is None:
                    raise
                try:
                    urls = await _renewed(expired, urls, index, renew)
                except ResultExpiredError as final:
                    if not final.retryable:  # then nothing will be gone on with
                        await in_thread(partial(sweep, path))
                    raise
                if on_renewed is not None:
                    await on_renewed(urls)
                # Once, and a fresh URL has no reason to be dead.
                job, renew = evolve(job, renewable=False, patient=False), None
        return tuple(saved)

    async def close(self) -> None:
        """Close the connections of the running loop; a later call opens others."""
        await self._pool.close()


async def _renewed(
    expired: ResultExpiredError,
    urls: tuple[str, ...],
    index: int,
    renew: Callable[[], Awaitable[tuple[str, ...]]],
) -> tuple[str, ...]:
    """Return other URLs of the same files; raise if there are none."""
    try:
        fresh = await renew()
    except KlingError as error:
        raise ResultExpiredError(
            f"{expired}; the service gave no fresh one: {error}",
            url=expired.url,
            retryable=expired.retryable or error.retryable,
            ref=expired.ref,
        ) from None
    if len(fresh) != len(urls) or fresh[index] == urls[index]:
        raise expired
    return fresh


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

    When this returns, the files are on the disk, safe from a power cut. Downloads of one file at
    the same time, in one process or several, do not disturb each other.

    Args:
        result: What a finished task gave.
        folder: Where to save; made if it does not exist.
        name: What to call the files; else by the task's id. The suffix is added.
        overwrite: Fetch again what is there already, instead of keeping it. What is empty, or
            is a page of text, is always fetched again.
        session: Whose connections and proxy to use. Nothing else of it is used: neither its
            headers nor its cookies nor its credentials go to the file's host.
        proxies: Which proxies to use; else the session's, or ``HTTPS_PROXY``, ``HTTP_PROXY`` and
            ``NO_PROXY``.
        allow_hosts: Hosts that redirects may lead to though they are of this machine or of a
            private network.
        retry: How failed attempts are repeated. An attempt that made progress does not count,
            and its ``request_timeout`` is not used: a file takes the time that it takes.

    Raises:
        DownloadError: A file did not arrive whole, is no video, or cannot be written. The others
            are complete. Calling again continues where it ended.
        ResultExpiredError: A URL is dead; or its file is not there yet, if the error is
            ``retryable``.
        ConfigurationError: The session is closed or of another event loop, or a proxy is no URL.
    """
    downloader = Downloader(session=session, proxies=proxies, allow_hosts=allow_hosts)
    try:
        return await downloader.save(result, folder, name=name, overwrite=overwrite, retry=retry)
    finally:
        await downloader.close()
