"""Images on a web server that accepts uploads, such as the emulator of this package."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Mapping
from typing import Final

import aiohttp

from kling_async._network.connection_errors import describe
from kling_async._network.proxies import through_environment_proxy
from kling_async._utils.loops import LoopResources
from kling_async._utils.text import printable
from kling_async._utils.urls import redact_url, split_web_url
from kling_async.errors import ConfigurationError, StorageError
from kling_async.images.base import Image, KnownNames

# Seconds after which an image is looked for again: an emulator forgets all when it is restarted.
_KNOWN_FOR: Final = 2.0
_TIMEOUT: Final = aiohttp.ClientTimeout(total=60.0, sock_connect=10.0)

_SUCCESS: Final = range(200, 300)
_EXISTS: Final = 412  # to a PUT that may only create
_NOT_FOUND: Final = 404
_TEMPORARY: Final = (408, 425, 429, 500, 502, 503, 504)
_EXCERPT: Final = 100


class HttpImageStore:
    """Stores images with PUT at a web server that serves them to everyone with GET.

    The URL of an image contains the checksum of its content and does not expire. Use it for the
    emulator, which prints the URL, or a server of your own in a test network.

    Args:
        url: The URL of the folder.

    Raises:
        ConfigurationError: It is not an http(s) URL, or has a query or credentials.
    """

    def __init__(self, url: str) -> None:
        if split_web_url(url) is None or "?" in url or "#" in url or "@" in url:
            raise ConfigurationError(f"not the URL of a folder for images: {redact_url(url)}")
        self._url = url.rstrip("/")
        self._known = KnownNames(_KNOWN_FOR, time.monotonic)
        self._sessions: LoopResources[aiohttp.ClientSession] = LoopResources(
            aiohttp.ClientSession.close
        )

    def __repr__(self) -> str:
        return f"<HttpImageStore {self._url}>"

    async def put(self, image: Image) -> str:
        """Store an image, unless it is stored already, and return its URL."""
        url = f"{self._url}/{image.name}"
        if image.name not in self._known:
            if not await self._request_image("HEAD", url, missing=_NOT_FOUND):
                headers = {"Content-Type": image.media_type, "If-None-Match": "*"}
                await self._request_image("PUT", url, headers, await image.read(), missing=_EXISTS)
            self._known.add(image.name)
        return url

    async def close(self) -> None:
        """Close the connections of the running loop. A later call opens new ones."""
        await self._sessions.close()

    async def _request_image(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        *,
        missing: int,
    ) -> bool:
        """Send a request; return whether it succeeded, or False if it has the status ``missing``.

        Raises:
            StorageError: The request failed.
        """
        loop = asyncio.get_running_loop()
        if loop not in self._sessions:
            session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                middlewares=(through_environment_proxy,),
                timeout=_TIMEOUT,
            )
            await self._sessions.add(session)
        try:
            async with self._sessions[loop].request(
                method,
                url,
                data=None if content is None else io.BytesIO(content),  # sent in pieces
                headers=headers,
                allow_redirects=False,
            ) as response:
                status = response.status
                body = await response.content.read(_EXCERPT)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise StorageError(
                f"the image store {self._url} cannot be reached: {describe(error)}", retryable=True
            ) from None
        if status in _SUCCESS:
            return True
        if status == missing:
            return False
        excerpt = printable(body.decode("utf-8", "replace"))
        raise StorageError(
            f"the image store {self._url} answered HTTP {status} to {method}: {excerpt}",
            retryable=status in _TEMPORARY,
        )
