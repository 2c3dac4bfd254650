"""Result files: rendered on the first request, served whole or in part."""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import TYPE_CHECKING, Final

from aiohttp import ETag, web

from kling_async.testing.emulator.cache import SharedCache
from kling_async.testing.emulator.images import ImageProblem, ImageReader
from kling_async.testing.media.film import SMALL_VIDEO, Film

if TYPE_CHECKING:
    from kling_async.testing.emulator.rules import Order

NOT_SATISFIABLE: Final = slice(0, 0)
_RANGE: Final = re.compile(r"\s*bytes\s*=\s*(\d*)-(\d*)\s*", re.ASCII | re.IGNORECASE)
_CACHE_BYTES: Final = 64 * 1024 * 1024
# An MP4 remains valid with this at its end.
_EMPTY_BOX: Final = b"\x00\x00\x00\x08free"
# The encoder uses every core on its own.
_AT_ONCE: Final = 2


class Films:
    """The videos of tasks: rendered on demand in a thread, or the small one of the package."""

    def __init__(self, images: ImageReader, *, rendered: bool) -> None:
        self._images = images
        self._rendered = rendered
        self._cache = SharedCache(_CACHE_BYTES)
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def get(self, order: Order) -> bytes:
        """Return the MP4 of an order. Orders that look the same share one file."""
        if not self._rendered:
            return await self._cache.get("small", lambda: asyncio.to_thread(SMALL_VIDEO.read_bytes))
        key = (order.prompt, order.duration, order.aspect_ratio, order.image_urls)
        return await self._cache.get(key, lambda: self._render(order))

    async def close(self) -> None:
        """Cancel the rendering."""
        await self._cache.close()

    async def _render(self, order: Order) -> bytes:
        from kling_async.testing.media.encoder import render

        try:
            pictures = [await self._images.picture(url) for url in order.image_urls]
        except ImageProblem:
            # It existed when the task began. The prompt alone makes a video, too.
            pictures = []
        film = Film(
            prompt=order.prompt,
            duration=order.duration,
            aspect_ratio=order.aspect_ratio or "16:9",
            pictures=tuple(pictures),
        )
        async with self._room:
            return await asyncio.to_thread(render, film)


def file_response(
    request: web.Request, content: bytes, content_type: str, fault: str = ""
) -> web.Response:
    """Return the answer to a request for a file or a part of it (200, 206, 416).

    Args:
        request: The request, with its ``Range`` and ``If-Range``.
        content: The file.
        content_type: Its type.
        fault: What is wrong: "changed", "no-range" or "weak-etag".
    """
    if fault == "changed":
        content += _EMPTY_BOX
    weak = fault == "weak-etag"
    response = web.Response(content_type=content_type, headers={"Accept-Ranges": "bytes"})
    response.etag = ETag(hashlib.sha256(content).hexdigest()[:32], is_weak=weak)
    known = request.headers.get("If-Range")
    part = None
    # A part is useful only with the rest of the same file.
    if known is None or (known == response.headers["ETag"] and not weak):
        part = requested_part(request.headers.get("Range"), len(content))
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


def requested_part(header: str | None, size: int) -> slice | None:
    """Return the part that a ``Range`` header asks for, or `NOT_SATISFIABLE` (RFC 9110, 14).

    None is the whole file: without a header, or with one that is not understood or asks for
    several parts, which the RFC allows to ignore.
    """
    match = _RANGE.fullmatch(header or "")
    if match is None:
        return None
    first, last = match.groups()
    if not first:
        if not last:
            return None
        length = min(int(last), size)
        return slice(size - length, size) if length else NOT_SATISFIABLE
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        return NOT_SATISFIABLE
    return slice(int(first), min(int(last) + 1, size) if last else size)
