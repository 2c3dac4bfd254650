"""Images that are uploaded to the emulator. The service has nothing like it.

``PUT /images/NAME`` stores an image, ``GET`` returns it. A name begins with the checksum of the
image, so that it cannot be guessed. With ``If-None-Match: *`` an image that exists is not replaced;
one that does not arrive completely is not stored.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from aiohttp import web

from kling_async.testing.emulator.checks import Refusal
from kling_async.testing.emulator.files import file_response
from kling_async.testing.emulator.images import MAX_BYTES

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

PATH: Final = "/images"
_NAME: Final = re.compile(r"[0-9a-f]{64}[a-z0-9.-]{0,64}")
_TYPES: Final = {"image/jpeg", "image/png", "image/webp"}
# Bytes of all images together.
_ROOM: Final = 256 * 1024 * 1024


class Uploads:
    """The uploaded images of one emulator, in memory."""

    def __init__(self) -> None:
        self._images: dict[str, tuple[str, bytes]] = {}

    def add_routes(self, app: web.Application) -> None:
        """Add the routes to an application."""
        get: Handler = self._get
        app.router.add_put(f"{PATH}/{{name}}", self._put, name="upload")
        app.router.add_get(f"{PATH}/{{name}}", get, name="image")

    async def _put(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if not _NAME.fullmatch(name) or request.content_type not in _TYPES:
            raise Refusal(400, "Invalid request", error="Not the name and type of an image")
        self._check_precondition(request, name)
        content = bytearray()
        async for data in request.content.iter_any():
            content += data
            if len(content) > MAX_BYTES:
                raise Refusal(413, "Payload too large", error=f"At most {MAX_BYTES} bytes")
        used = sum(len(image) for _, image in self._images.values())
        if used + len(content) > _ROOM:
            raise Refusal(
                507, "Insufficient storage", error="Too many images: restart the emulator"
            )
        self._check_precondition(request, name)  # another upload may have ended first
        self._images[name] = request.content_type, bytes(content)
        return web.Response(status=201)

    def _check_precondition(self, request: web.Request, name: str) -> None:
        if name in self._images and request.headers.get("If-None-Match") == "*":
            raise Refusal(412, "Precondition failed", error="The image exists")

    async def _get(self, request: web.Request) -> web.Response:
        found = self._images.get(request.match_info["name"])
        if found is None:
            raise Refusal(404, "Not found", error="No such image")
        media_type, content = found
        return file_response(request, content, media_type)
