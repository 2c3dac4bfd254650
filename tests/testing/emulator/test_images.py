from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web
from PIL import Image

from kling_async.testing.emulator.images import MAX_BYTES, ImageProblem, ImageReader, sniff
from kling_async.testing.media.film import SMALL_VIDEO
from tests.testing.emulator.test_videos import header

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import ServeApp


def picture(kind: str, size: tuple[int, int] = (32, 18)) -> bytes:
    """Give an encoded picture."""
    out = io.BytesIO()
    Image.new("RGB", size, "orange").save(out, kind)
    return out.getvalue()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A session as the emulator has one."""
    async with aiohttp.ClientSession() as session:
        yield session


async def problem(reader: ImageReader, url: str) -> str:
    """Read an image that cannot be used and give the code."""
    with pytest.raises(ImageProblem) as caught:
        await reader.check_image(url)
    assert caught.value.message
    return caught.value.code


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("decode", [True, False])
async def test_good_images(
    kind: str, *, decode: bool, serve_app: ServeApp, session: aiohttp.ClientSession
) -> None:
    """JPEG, PNG and WebP are taken, whatever they are called."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=picture(kind), content_type="text/plain")

    reader = ImageReader(session, decode=decode)
    url = f"{await serve_app(handler)}/a.gif"
    await reader.check_image(url)
    assert bool(await reader.picture(url)) is decode


@pytest.mark.parametrize(
    ("body", "decode", "code"),
    [
        (b"GIF89a" + bytes(100), False, "UNSUPPORTED_FORMAT"),
        (b"", False, "UNSUPPORTED_FORMAT"),
        (b"RIFF0000WAVE", False, "UNSUPPORTED_FORMAT"),
        (b"<html>", False, "UNSUPPORTED_FORMAT"),
        (b"\xff\xd8\xff" + bytes(100), True, "UNSUPPORTED_FORMAT"),
        (bytes(MAX_BYTES + 1), False, "IMAGE_TOO_LARGE"),
    ],
)
async def test_bad_content(
    body: bytes, code: str, *, decode: bool, serve_app: ServeApp, session: aiohttp.ClientSession
) -> None:
    """What is too large or no picture gets the documented code."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="image/jpeg")

    reader = ImageReader(session, decode=decode)
    assert await problem(reader, await serve_app(handler)) == code


async def test_too_many_pixels(serve_app: ServeApp, session: aiohttp.ClientSession) -> None:
    """A small file that unfolds into a huge picture is too large."""
    body = io.BytesIO()
    Image.new("1", (9000, 9000)).save(body, "PNG")

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=body.getvalue())

    reader = ImageReader(session, decode=True)
    assert await problem(reader, await serve_app(handler)) == "IMAGE_TOO_LARGE"


async def test_the_largest_image_allowed(
    serve_app: ServeApp, session: aiohttp.ClientSession
) -> None:
    """Exactly 10 MB are taken."""
    body = b"\xff\xd8\xff" + bytes(MAX_BYTES - 3)

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=body)

    await ImageReader(session, decode=False).check_image(await serve_app(handler))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "cat.jpg",
        "/cat.jpg",
        "file:///etc/hosts",
        "data:image/png;base64,xx",
        "http://",
        "http://[::1",
    ],
)
async def test_urls_that_are_none(url: str, session: aiohttp.ClientSession) -> None:
    """What is no absolute http(s) URL is INVALID_IMAGE_URL."""
    assert await problem(ImageReader(session, decode=False), url) == "INVALID_IMAGE_URL"


@pytest.mark.parametrize("path", ["/404", "/drop", "/loop", "/file", "/never"])
async def test_downloads_that_fail(
    path: str, serve_app: ServeApp, session: aiohttp.ClientSession
) -> None:
    """A refusal, a lost connection, endless redirects and silence are IMAGE_DOWNLOAD_FAILED."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/loop":
            raise web.HTTPFound("/loop")
        if request.path == "/file":
            raise web.HTTPFound("file:///etc/hosts")
        if request.path == "/never":
            await asyncio.sleep(11)
        if request.path == "/drop":
            assert request.transport is not None
            request.transport.abort()
        return web.Response(status=404)

    reader = ImageReader(session, decode=False)
    assert await problem(reader, f"{await serve_app(handler)}{path}") == "IMAGE_DOWNLOAD_FAILED"


async def test_no_server(session: aiohttp.ClientSession) -> None:
    """A port without a server is IMAGE_DOWNLOAD_FAILED."""
    reader = ImageReader(session, decode=False)
    assert await problem(reader, "http://127.0.0.1:1/a.jpg") == "IMAGE_DOWNLOAD_FAILED"
    assert await problem(reader, "http://127.0.0.1:99999/a.jpg") == "IMAGE_DOWNLOAD_FAILED"


@pytest.mark.parametrize(("redirects", "good"), [(5, True), (6, False)])
async def test_five_redirects(
    redirects: int, *, good: bool, serve_app: ServeApp, session: aiohttp.ClientSession
) -> None:
    """Five redirects are followed, six are not."""

    async def handler(request: web.Request) -> web.Response:
        left = int(request.path[1:])
        if left:
            raise web.HTTPFound(f"/{left - 1}")
        return web.Response(body=picture("PNG"))

    reader = ImageReader(session, decode=False)
    url = f"{await serve_app(handler)}/{redirects}"
    if good:
        await reader.check_image(url)
    else:
        assert await problem(reader, url) == "IMAGE_DOWNLOAD_FAILED"


async def test_one_reading_for_many(serve_app: ServeApp, session: aiohttp.ClientSession) -> None:
    """A URL that many name at once is fetched once, and again a minute later."""
    fetched = 0

    async def handler(_: web.Request) -> web.Response:
        nonlocal fetched
        fetched += 1
        return web.Response(body=picture("PNG"))

    reader = ImageReader(session, decode=True)
    url = await serve_app(handler)
    await asyncio.gather(*(reader.check_image(url) for _ in range(20)))
    await reader.picture(url)
    assert fetched == 1
    await asyncio.sleep(61)
    await reader.picture(url)
    assert fetched == 1
    await reader.check_image(url)
    assert fetched == 2
    await reader.close()


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/small.mp4", None),
        ("/long.mp4", "VIDEO_TOO_LONG"),
        ("/cat.jpg", "UNSUPPORTED_FORMAT"),
        ("/404", "INVALID_VIDEO_URL"),
    ],
)
async def test_videos(
    path: str, code: str | None, serve_app: ServeApp, session: aiohttp.ClientSession
) -> None:
    """A video is MP4 of at most 30 s; what cannot be read is INVALID_VIDEO_URL."""
    bodies = {"/small.mp4": SMALL_VIDEO.read_bytes(), "/cat.jpg": picture("JPEG")}
    bodies["/long.mp4"] = header(0, 1000, 30_001)

    async def handler(request: web.Request) -> web.Response:
        if request.path not in bodies:
            raise web.HTTPNotFound
        return web.Response(body=bodies[request.path])

    reader = ImageReader(session, decode=False)
    url = f"{await serve_app(handler)}{path}"
    if code is None:
        await reader.check_video(url)
    else:
        with pytest.raises(ImageProblem) as caught:
            await reader.check_video(url)
        assert caught.value.code == code
    with pytest.raises(ImageProblem) as caught:
        await reader.check_video("dance.mp4")
    assert caught.value.code == "INVALID_VIDEO_URL"


def test_sniffing() -> None:
    """The first bytes show the format."""
    assert [sniff(picture(kind)) for kind in ("JPEG", "PNG", "WEBP")] == ["JPEG", "PNG", "WEBP"]
    assert sniff(picture("GIF")) is None
