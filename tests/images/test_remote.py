from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from kling_async import ConfigurationError, DownloadError
from kling_async.images.check import ImageFault
from kling_async.images.remote import RemoteImages
from kling_async.inputs.local_image import MAX_BYTES
from tests.images.pictures import picture

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.conftest import ServeApp, ServeRaw

pytestmark = pytest.mark.virtual_time

CAT = picture()
LOCAL = "http://127.0.0.1"


@pytest.fixture
async def images_of() -> AsyncIterator[Callable[[str], RemoteImages]]:
    """Make the images of clients with a base URL; they are closed at the end."""
    made: list[RemoteImages] = []

    def images_of(base_url: str) -> RemoteImages:
        made.append(RemoteImages(session=None, proxies=None, base_url=base_url, allow_hosts=()))
        return made[-1]

    yield images_of
    for images in made:
        await images.close()


async def test_fetch(serve_app: ServeApp, images_of: Callable[[str], RemoteImages]) -> None:
    """An image is fetched, also after a redirect and a failure that passes."""
    answers = [302, 503, 429, 200]
    paths: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        paths.append(request.raw_path)
        status = answers.pop(0)
        if status == 302:
            return web.Response(status=302, headers={"Location": "/cat.jpg?sig=a%2Fb"})
        return web.Response(status=status, body=CAT)

    url = await serve_app(answer)
    assert await images_of(LOCAL).fetch(f"{url}/cat") == CAT
    assert paths == ["/cat", "/cat.jpg?sig=a%2Fb", "/cat", "/cat"]


async def test_temporary(serve_app: ServeApp, images_of: Callable[[str], RemoteImages]) -> None:
    """A failure that may pass is an error without the signature; the image may be right."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=503)

    url = f"{await serve_app(answer)}/cat.jpg?sig=secret"
    with pytest.raises(DownloadError, match=r"cat\.jpg could not be fetched.*HTTP 503") as caught:
        await images_of(LOCAL).fetch(url)
    assert caught.value.retryable
    assert "secret" not in f"{caught.value} {caught.value.url}"


async def test_slow(serve_raw: ServeRaw, images_of: Callable[[str], RemoteImages]) -> None:
    """A server that sends a byte now and then does not delay a submit for long."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            writer.write(b"x")
            await asyncio.sleep(5)

    started = asyncio.get_running_loop().time()
    with pytest.raises(DownloadError, match="no answer in 30 s"):
        await images_of(LOCAL).fetch(await serve_raw(drip))
    assert asyncio.get_running_loop().time() - started < 100


@pytest.mark.parametrize("chunked", [True, False])
async def test_too_large(
    serve_app: ServeApp, images_of: Callable[[str], RemoteImages], *, chunked: bool
) -> None:
    """Of an image that is too large, no more is read than shows it."""
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        if chunked:
            response.enable_chunked_encoding()
        else:
            response.content_length = 10**12
        await response.prepare(request)
        while True:
            await response.write(CAT + bytes(100_000))
            sent += 100_000

    url = await serve_app(answer)
    with pytest.raises(ImageFault, match="at most 10 MB"):
        await images_of(LOCAL).fetch(url)
    assert sent < (2 * MAX_BYTES if chunked else MAX_BYTES)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/a", "http://169.254.169.254/latest", "http://[::1]/a", "http://2130706433/"],
)
async def test_internal_hosts(images_of: Callable[[str], RemoteImages], url: str) -> None:
    """An image is not fetched from this machine or a private network, unless the service is."""
    with pytest.raises(ImageFault, match="internal address") as caught:
        await images_of("https://api.apixo.ai").fetch(url)
    assert "use a public URL" in caught.value.remedy


async def test_redirect_to_an_internal_host(
    serve_app: ServeApp, images_of: Callable[[str], RemoteImages]
) -> None:
    """Nor is a redirect followed to one."""

    async def answer(_: web.Request) -> web.Response:
        raise web.HTTPFound("http://169.254.169.254/latest/meta-data")

    url = await serve_app(answer)
    images = RemoteImages(
        session=None, proxies=None, base_url="https://api.apixo.ai", allow_hosts=["127.0.0.1"]
    )
    with pytest.raises(ImageFault, match=r"169\.254\.169\.254 is an internal address"):
        await images.fetch(url)
    await images.close()


@pytest.mark.parametrize(
    ("location", "seen"),
    [
        ("", "HTTP 404"),
        ("ftp://a/b", "not an absolute"),
        ("http://a:99999", "Port out of range"),
        ("/", "TooManyRedirects"),
    ],
)
async def test_final(
    serve_app: ServeApp, images_of: Callable[[str], RemoteImages], location: str, seen: str
) -> None:
    """What the service could not fetch either is the fault of the image."""

    async def answer(_: web.Request) -> web.Response:
        if not location:
            return web.Response(status=404)
        return web.Response(status=302, headers={"Location": location})

    url = await serve_app(answer)
    with pytest.raises(ImageFault, match=seen):
        await images_of(LOCAL).fetch(url)


async def test_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong proxy is an error of the configuration, not of the image."""
    monkeypatch.setenv("HTTPS_PROXY", "socks://proxy")
    images = RemoteImages(
        session=None, proxies=None, base_url="https://api.apixo.ai", allow_hosts=()
    )
    with pytest.raises(ConfigurationError, match="https_proxy"):
        await images.fetch("https://example.com/cat.jpg")
    await images.close()


async def test_without_tls(serve_app: ServeApp, images_of: Callable[[str], RemoteImages]) -> None:
    """A server that does not speak TLS will not, however often it is asked."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response()

    url = (await serve_app(answer)).replace("http:", "https:")
    with pytest.raises(ImageFault, match="SSL"):
        await images_of(LOCAL).fetch(url)
