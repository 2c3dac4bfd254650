"""Reading input images and videos as the service would: reachable, of the right type and size.

Images are JPEG, PNG or WebP of at most 10 MB, which is read as 10 * 1024 * 1024 bytes. Videos are
MP4, MOV or M4V of at most 30 s; the contract names no greatest size, and 100 MB is a choice.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

import aiohttp

from kling_async._network.proxies import through_environment_proxy
from kling_async.testing.emulator import videos
from kling_async.testing.emulator.cache import SharedCache
from kling_async.testing.media.film import TooManyPixelsError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MAX_BYTES: Final = 10 * 1024 * 1024
_MAX_VIDEO_BYTES: Final = 100 * 1024 * 1024
_REDIRECTS: Final = 5
_WITHIN: Final = 10.0
_AT_ONCE: Final = 32
_OK: Final = 200

_SUFFIXES: Final = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
_AT_ONCE_SAVED: Final = 8

# Prepared pictures are about 100 kB each.
_CACHE_BYTES: Final = 32 * 1024 * 1024
# A URL that many tasks name is read once; a picture that is replaced is read a minute later.
_FRESH: Final = 60.0


class ImageProblem(Exception):  # noqa: N818 - a value that is raised, not an error of ours
    """Why an image or a video cannot be used: the documented `code`, and a message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class _Codes(NamedTuple):
    """The documented codes of what may be wrong with a file."""

    invalid: str
    failed: str
    too_large: str


_IMAGE: Final = _Codes("INVALID_IMAGE_URL", "IMAGE_DOWNLOAD_FAILED", "IMAGE_TOO_LARGE")
# For a video, the contract names no others.
_VIDEO: Final = _Codes("INVALID_VIDEO_URL", "INVALID_VIDEO_URL", "VIDEO_TOO_LONG")


def sniff(data: bytes) -> str | None:
    """Return the format by the first bytes: JPEG, PNG or WEBP; None for anything else."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return None


class ImageReader:
    """Reads images over HTTP, each URL once at a time.

    With `decode` (needs Pillow) pictures are decoded, made smaller and kept for rendering. Without
    it only their first bytes are checked, and `picture` returns no bytes.
    """

    def __init__(self, session: aiohttp.ClientSession, *, decode: bool) -> None:
        self._session = session
        self._decode = decode
        self._cache = SharedCache(_CACHE_BYTES)
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def check_image(self, url: str) -> None:
        """Read an image, unless it has been read in the last minute. Raises `ImageProblem`."""
        await self._cache.get(url, lambda: self._read_image(url), max_age=_FRESH)

    async def check_video(self, url: str) -> None:
        """Read a video, unless it has been read in the last minute. Raises `ImageProblem`."""
        await self._cache.get(("video", url), lambda: self._read_video(url), max_age=_FRESH)

    async def picture(self, url: str) -> bytes:
        """Return a picture for rendering, as small as that allows. Raises `ImageProblem`."""
        return await self._cache.get(url, lambda: self._read_image(url))

    async def close(self) -> None:
        """Cancel the downloads."""
        await self._cache.close()

    async def _read_image(self, url: str) -> bytes:
        async with self._room:
            data = await download_image(self._session, url)
            if sniff(data) is None:
                raise ImageProblem("UNSUPPORTED_FORMAT", "The image is not JPEG, PNG or WebP")
            if not self._decode:
                return b""
            from kling_async.testing.media.pictures import prepare_picture

            try:
                return await asyncio.to_thread(prepare_picture, data)
            except TooManyPixelsError as error:
                raise ImageProblem("IMAGE_TOO_LARGE", str(error)) from error
            except ValueError as error:
                raise ImageProblem("UNSUPPORTED_FORMAT", str(error)) from error

    async def _read_video(self, url: str) -> bytes:
        async with self._room:
            data = await _download_file(self._session, url, _VIDEO, _MAX_VIDEO_BYTES)
        if not videos.is_video(data):
            raise ImageProblem("UNSUPPORTED_FORMAT", "The video is not MP4, MOV or M4V")
        if (seconds := videos.video_seconds(data) or 0.0) > videos.MAX_SECONDS:
            raise ImageProblem("VIDEO_TOO_LONG", f"The video takes {seconds:.1f} s: {url}")
        return b""


async def download_image(session: aiohttp.ClientSession, url: str) -> bytes:
    """Return a file of at most `MAX_BYTES`. Raises `ImageProblem`."""
    return await _download_file(session, url, _IMAGE, MAX_BYTES)


async def _download_file(
    session: aiohttp.ClientSession, url: str, codes: _Codes, max_bytes: int
) -> bytes:
    if not _is_http(url):
        raise ImageProblem(codes.invalid, f"Not an absolute http(s) URL: {url[:200]}")
    data = bytearray()
    try:
        async with (
            asyncio.timeout(_WITHIN),
            # aiohttp refuses the redirect with this number; one less is followed.
            session.get(url, max_redirects=_REDIRECTS + 1) as response,
        ):
            if response.status != _OK:
                raise ImageProblem(codes.failed, f"HTTP {response.status} from {url}")
            async for chunk in response.content.iter_any():
                data += chunk
                if len(data) > max_bytes:
                    raise ImageProblem(codes.too_large, f"More than {max_bytes} bytes: {url}")
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise ImageProblem(codes.failed, f"{url}: {reason}") from error
    return bytes(data)


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        return False


async def save_images(urls: Iterable[str], folder: Path) -> dict[str, str]:
    """Save each image once, as ``image-01.jpg`` and so on; return the names by URL.

    An image that cannot be downloaded, or is no JPEG, PNG or WebP of at most 10 MB, is left out:
    the service itself reports images that it cannot use.
    """
    names: dict[str, str] = {}
    semaphore = asyncio.Semaphore(_AT_ONCE_SAVED)

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
        aiohttp.ClientSession(cookie_jar=jar, middlewares=(through_environment_proxy,)) as session,
        asyncio.TaskGroup() as group,
    ):
        for number, url in enumerate(dict.fromkeys(urls), 1):
            group.create_task(save(session, number, url))
    return names
