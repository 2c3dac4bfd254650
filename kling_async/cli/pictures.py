"""The input images, saved beside the videos, so that the contact sheet needs no network."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import aiohttp

from kling_async._network.proxies import Proxies, route
from kling_async.testing.emulator.images import ImageProblem, download_image, sniff

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
_CONCURRENT = 8


async def save_pictures(urls: Iterable[str], folder: Path) -> dict[str, str]:
    """Save each image once, as ``image-01.jpg`` and so on; return the names by URL.

    An image that cannot be downloaded, or is no JPEG, PNG or WebP of at most 10 MB, is left out:
    the service itself reports images that it cannot use.
    """
    names: dict[str, str] = {}
    semaphore = asyncio.Semaphore(_CONCURRENT)

    async def save(session: aiohttp.ClientSession, number: int, url: str) -> None:
        with suppress(ImageProblem, OSError):
            async with semaphore:
                content = await download_image(session, url)
            if (kind := sniff(content)) is not None:
                name = f"image-{number:02}{_SUFFIXES[kind]}"
                await asyncio.to_thread((folder / name).write_bytes, content)
                names[url] = name

    jar = aiohttp.DummyCookieJar()
    async with (
        aiohttp.ClientSession(cookie_jar=jar, middlewares=(_through_proxy,)) as session,
        asyncio.TaskGroup() as group,
    ):
        for number, url in enumerate(dict.fromkeys(urls), 1):
            group.create_task(save(session, number, url))
    return names


async def _through_proxy(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    proxy = await asyncio.to_thread(Proxies().find, request.url)
    return await route(proxy)(request, handler)
