"""Result files: made when they are first asked for, served in parts if wanted."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Final

from aiohttp import ETag, web

from kling_async.testing.emulator.cache import SharedCache
from kling_async.testing.emulator.images import ImageProblem, ImageReader
from kling_async.testing.emulator.ranges import NOT_SATISFIABLE, read_range
from kling_async.testing.media import film as media

if TYPE_CHECKING:
    from kling_async.testing.emulator.rules import Order

_CACHE_BYTES: Final = 64 * 1024 * 1024
# An MP4 stays a good one with this at its end.
_EMPTY_BOX: Final = b"\x00\x00\x00\x08free"
# The encoder uses every core on its own.
_AT_ONCE: Final = 2


class Films:
    """The videos of tasks: rendered on demand in a thread, or the small one that is shipped."""

    def __init__(self, images: ImageReader, *, rendered: bool) -> None:
        self._images = images
        self._rendered = rendered
        self._cache = SharedCache(_CACHE_BYTES)
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def get(self, order: Order) -> bytes:
        """Give the MP4 of an order. Orders that look the same share one file."""
        if not self._rendered:
            return await self._cache.get("small", lambda: asyncio.to_thread(media.small_video))
        key = (order.prompt, order.duration, order.aspect_ratio, order.image_urls)
        return await self._cache.get(key, lambda: self._render(order))

    async def close(self) -> None:
        """End what is being rendered."""
        await self._cache.close()

    async def _render(self, order: Order) -> bytes:
        try:
            pictures = [await self._images.picture(url) for url in order.image_urls]
        except ImageProblem:
            # It was there when the task began. The prompt alone makes a video, too.
            pictures = []
        film = media.Film(
            prompt=order.prompt,
            duration=order.duration,
            aspect_ratio=order.aspect_ratio or "16:9",
            pictures=tuple(pictures),
        )
        async with self._room:
            return await asyncio.to_thread(media.render, film)


def file_response(
    request: web.Request, content: bytes, content_type: str, fault: str = ""
) -> web.Response:
    """Answer with a file or the part of it that is asked for (206, 416).

    Args:
        request: What is asked for.
        content: The file.
        content_type: Its type.
        fault: How it is served otherwise: "changed", "no-range" or "weak-etag".
    """
    if fault == "changed":
        content += _EMPTY_BOX
    weak = fault == "weak-etag"
    response = web.Response(content_type=content_type, headers={"Accept-Ranges": "bytes"})
    response.etag = ETag(hashlib.sha256(content).hexdigest()[:32], is_weak=weak)
    known = request.headers.get("If-Range")
    part = None
    # A part is good only to somebody who holds the rest of the same file.
    if known is None or (known == response.headers["ETag"] and not weak):
        part = read_range(request.headers.get("Range"), len(content))
    if part is None or fault == "no-range":
        response.body = content
    elif part == NOT_SATISFIABLE:
        response.set_status(416)
        response.headers["Content-Range"] = f"bytes */{len(content)}"
    else:
        response.set_status(206)
        response.headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(content)}"
        response.body = content[part]
    return response
