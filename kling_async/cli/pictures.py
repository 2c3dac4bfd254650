"""The input images, saved beside the videos so that the contact sheet works offline."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import aiohttp

from kling_async._network.proxies import Proxies, route
from kling_async.testing.emulator.images import MAX_BYTES, sniff

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
_AT_ONCE = 8
_TIMEOUT = aiohttp.ClientTimeout(total=30.0)
_OK = 200


async def save_pictures(urls: Iterable[str], folder: Path) -> dict[str, str]:
    """Save each image once, as ``image-01.jpg`` and so on; return the names by URL.

    What cannot be had, or is no JPEG, PNG or WebP of at most 10 MB, is missing in the answer: the
    videos are the point, and the service complains of its images itself.
    """
    names: dict[str, str] = {}
    room = asyncio.Semaphore(_AT_ONCE)

    async def save(session: aiohttp.ClientSession, number: int, url: str) -> None:
        async with room:
            content = await _fetch(session, url)
        if content is not None and (kind := sniff(content)) is not None:
            name = f"image-{number:02}{_SUFFIXES[kind]}"
            with suppress(OSError):
                await asyncio.to_thread((folder / name).write_bytes, content)
                names[url] = name

    jar = aiohttp.DummyCookieJar()
    async with (
        aiohttp.ClientSession(
            cookie_jar=jar, timeout=_TIMEOUT, middlewares=(_through_proxy,)
        ) as session,
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


async def _fetch(session: aiohttp.ClientSession, url: str) -> bytes | None:
    content = bytearray()
    try:
        async with session.get(url) as answer:
            if answer.status != _OK:
                return None
            async for chunk in answer.content.iter_any():
                content += chunk
                if len(content) > MAX_BYTES:
                    return None
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None
    return bytes(content)
