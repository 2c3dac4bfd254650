"""Fetching remote images to check them: bounded in time and size, and not from internal hosts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp import hdrs

from kling_async._network.connection_errors import advice, describe
from kling_async._utils.urls import redact_url
from kling_async.download.addresses import HostPolicy, InternalHostError, parse_url
from kling_async.download.connections import SessionPool
from kling_async.errors import ConfigurationError, DownloadError
from kling_async.images.check import HEAD_BYTES, ImageFacts, ImageFault, find_type, too_large
from kling_async.inputs.local_image import MAX_BYTES
from kling_async.policy.retry import backoff

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kling_async._network.proxies import Proxies
    from kling_async.download.connections import DownloadSession

# Seconds for one attempt, and between two.
_TIME_LIMIT: Final = 30.0
_ATTEMPTS: Final = 3
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 5.0

_OK: Final = 200
_TEMPORARY: Final = (408, 425, 429)
_SERVER: Final = range(500, 600)

_HEADERS: Final[Mapping[str, str]] = {hdrs.ACCEPT_ENCODING: "identity"}


class RemoteImages:
    """Fetches images with the session, proxies and permitted hosts of a client's downloads.

    Args:
        session, proxies, base_url, allow_hosts: As for ``Downloader``.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession | None,
        proxies: Proxies | None,
        base_url: str | None,
        allow_hosts: Iterable[str],
    ) -> None:
        self._sessions = SessionPool(session, proxies)
        self._hosts = HostPolicy.of_service(base_url, allow_hosts)

    async def fetch(self, url: str) -> bytes:
        """Return the content at a URL, if that is no larger than the service accepts.

        Raises:
            ImageFault: The service could not fetch it, or it is too large.
            DownloadError: It could not be fetched for a reason that may be temporary.
        """
        session = await self._sessions.session()
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with session.slots:
                    return await self._fetch_once(session, url)
            except DownloadError:
                if attempt == _ATTEMPTS:
                    raise
            await asyncio.sleep(backoff(attempt, _FIRST_WAIT, _LONGEST_WAIT, 1.0))
        raise AssertionError  # pragma: no cover - the last attempt raises

    async def close(self) -> None:
        """Close the connections of the running loop."""
        await self._sessions.close()

    async def _fetch_once(self, session: DownloadSession, url: str) -> bytes:
        shown = redact_url(url)
        try:
            async with asyncio.timeout(_TIME_LIMIT), asyncio.timeout(None) as progress:
                target = parse_url(url)
                async with session.get(target, _HEADERS, self._hosts, progress) as response:
                    _check_status(response.status, shown)
                    return await _read_image_body(response)
        except InternalHostError as error:
            rule = "must be a URL that the service can reach"
            remedy = "use a public URL, or give the picture as a file"
            raise ImageFault(rule, str(error), remedy) from None
        except (aiohttp.InvalidURL, aiohttp.TooManyRedirects) as error:
            raise _unreachable(describe(error)) from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            reason = describe(error) if str(error) else f"no answer in {_TIME_LIMIT:g} s"
            if advice(error, None):  # waiting does not help
                raise _unreachable(reason) from None
            raise _temporary(shown, reason) from None
        except ConfigurationError:  # also a ValueError
            raise
        except ValueError as error:
            raise _unreachable(str(error)) from None


def _check_status(status: int, shown: str) -> None:
    if status in _TEMPORARY or status in _SERVER:
        raise _temporary(shown, f"HTTP {status}")
    if status != _OK:
        raise _unreachable(f"HTTP {status}")


def _temporary(shown: str, reason: str) -> DownloadError:
    text = f"the image {shown} could not be fetched to check it: {reason}"
    return DownloadError(text, url=shown, retryable=True)


def _unreachable(seen: str) -> ImageFault:
    return ImageFault("must be a URL that can be fetched", seen, "check it in a browser")


async def _read_image_body(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for data in response.content.iter_any():
        content += data
        size = max(len(content), response.content_length or 0)
        if size > MAX_BYTES:
            raise too_large(ImageFacts(find_type(bytes(content[:HEAD_BYTES])), size))
    return bytes(content)
