from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING

import aiohttp
import pytest

from kling_async.testing.emulator import uploads
from kling_async.testing.emulator.images import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import Emulate

NAME = f"/images/{'ab' * 32}.jpg"
JPEG = {"Content-Type": "image/jpeg", "If-None-Match": "*"}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Open a session."""
    async with aiohttp.ClientSession() as session:
        yield session


async def test_uploads(emulate: Emulate, session: aiohttp.ClientSession) -> None:
    """An image is created once, and served to everyone, with its type and in parts.

    Without the precondition it is replaced.
    """
    emulator = await emulate(uploads=True)
    assert emulator.image_store == f"{emulator.origin}/images"
    url = f"{emulator.origin}{NAME}"
    statuses = []
    for content in (b"cat", b"dog"):
        async with session.put(url, data=content, headers=JPEG) as response:
            statuses.append(response.status)
    assert statuses == [201, 412]
    async with session.get(url, headers={"Range": "bytes=1-"}) as response:
        assert response.content_type == "image/jpeg"
        assert await response.read() == b"at"
    async with session.put(url, data=b"dog", headers={"Content-Type": "image/png"}) as response:
        assert response.status == 201
    async with session.get(url) as response:
        assert (response.content_type, await response.read()) == ("image/png", b"dog")
    async with session.head(f"{url}x") as response:
        assert response.status == 404


async def test_only_on_request(emulate: Emulate, session: aiohttp.ClientSession) -> None:
    """An emulator accepts no uploads by default, as the service does not."""
    emulator = await emulate()
    async with session.put(f"{emulator.origin}{NAME}", data=b"cat", headers=JPEG) as response:
        assert response.status == 404


@pytest.mark.parametrize(
    ("path", "media_type", "status"),
    [("/images/cat.jpg", "image/jpeg", 400), (NAME, "text/html", 400)],
)
async def test_refused(
    emulate: Emulate, session: aiohttp.ClientSession, path: str, media_type: str, status: int
) -> None:
    """Only images can be uploaded, under names that cannot be guessed."""
    emulator = await emulate(uploads=True)
    headers = {"Content-Type": media_type}
    async with session.put(f"{emulator.origin}{path}", data=b"x", headers=headers) as response:
        assert response.status == status


async def test_too_large(emulate: Emulate, session: aiohttp.ClientSession) -> None:
    """An image with more bytes than the service accepts is not stored."""
    emulator = await emulate(uploads=True)
    content = io.BytesIO(bytes(MAX_BYTES + 1))
    async with session.put(f"{emulator.origin}{NAME}", data=content, headers=JPEG) as response:
        assert response.status == 413
    async with session.get(f"{emulator.origin}{NAME}") as response:
        assert response.status == 404


async def test_incomplete(emulate: Emulate) -> None:
    """An upload that is cut off leaves nothing."""
    emulator = await emulate(uploads=True)
    host, port = emulator.origin.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"PUT {NAME} HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 9\r\n\r\n"
    )
    writer.write(head.encode() + b"half")
    await writer.drain()
    writer.close()
    await reader.read()
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{emulator.origin}{NAME}") as response,
    ):
        assert response.status == 404


async def test_full(
    emulate: Emulate, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the images have as many bytes as fit, another one is refused."""
    monkeypatch.setattr(uploads, "_ROOM", 5)
    emulator = await emulate(uploads=True)
    statuses: list[int] = []
    for index in range(2):
        url = f"{emulator.image_store}/{str(index) * 64}.png"
        async with session.put(url, data=b"cat", headers=JPEG) as response:
            statuses.append(response.status)
    assert statuses == [201, 507]
