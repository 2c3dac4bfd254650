from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from kling_async import ConfigurationError, StorageError
from kling_async.images import HttpImageStore, Image
from tests.images.pictures import picture

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.conftest import Emulate, ServeApp, ServeRaw

pytestmark = pytest.mark.virtual_time

NAME = f"{'ab' * 32}.jpg"


@pytest.fixture
async def store_at() -> AsyncIterator[Callable[[str], HttpImageStore]]:
    """Open stores; they are closed at the end."""
    stores: list[HttpImageStore] = []

    def store_at(url: str) -> HttpImageStore:
        stores.append(HttpImageStore(url))
        return stores[-1]

    yield store_at
    for store in stores:
        await store.close()


def image(reads: list[str], content: bytes = picture()) -> Image:
    """Return an image that records when it is read."""

    async def read() -> bytes:
        reads.append(NAME)
        return content

    return Image(NAME, "image/jpeg", read)


async def test_put(emulate: Emulate, store_at: Callable[[str], HttpImageStore]) -> None:
    """An image is uploaded once, by whichever store is first, and read only for that."""
    emulator = await emulate(uploads=True)
    reads: list[str] = []
    first, second = store_at(f"{emulator.image_store}/"), store_at(emulator.image_store)
    for store in (first, first, second):
        assert await store.put(image(reads)) == f"{emulator.image_store}/{NAME}"
    assert reads == [NAME]
    assert [request.method for request in emulator.requests] == ["HEAD", "PUT", "HEAD"]
    assert repr(first) == f"<HttpImageStore {emulator.image_store}>"


async def test_at_the_same_time(
    emulate: Emulate, store_at: Callable[[str], HttpImageStore]
) -> None:
    """Of several uploads at the same time one creates the image, and the others use it."""
    emulator = await emulate(uploads=True)
    stores = [store_at(emulator.image_store) for _ in range(4)]
    urls = await asyncio.gather(*(store.put(image([])) for store in stores))
    assert len(set(urls)) == 1
    statuses = [request.status for request in emulator.requests if request.method == "PUT"]
    assert statuses.count(201) == 1


@pytest.mark.parametrize(("status", "retryable"), [(503, True), (403, False), (507, False)])
async def test_refused(
    serve_app: ServeApp,
    store_at: Callable[[str], HttpImageStore],
    status: int,
    *,
    retryable: bool,
) -> None:
    """A refusal is an error with what the server said; whether it may pass is known."""

    async def answer(request: web.Request) -> web.Response:
        if request.method == "HEAD":
            return web.Response(status=404)
        return web.Response(status=status, text=f"\x1b[31mno{'!' * 200}")

    store = store_at(await serve_app(answer))
    with pytest.raises(StorageError, match=rf"HTTP {status} to PUT: \\x1b\[31mno!") as caught:
        await store.put(image([]))
    assert caught.value.retryable is retryable
    assert len(str(caught.value)) < 250


async def test_unreachable(serve_raw: ServeRaw, store_at: Callable[[str], HttpImageStore]) -> None:
    """A server that is slow, or cuts the connection, is an error that may pass."""

    async def talk(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: int
    ) -> None:
        await reader.readline()
        await asyncio.sleep(seconds)
        writer.close()

    for seconds in (0, 1000):
        store = store_at(await serve_raw(partial(talk, seconds=seconds)))
        with pytest.raises(StorageError, match="cannot be reached") as caught:
            await store.put(image([]))
        assert caught.value.retryable


@pytest.mark.parametrize("url", ["ftp://host/a", "http://host/?a=b", "https://user:secret@host/a"])
def test_wrong_urls(url: str) -> None:
    """The URL of a folder has neither a query nor credentials; those are not shown."""
    with pytest.raises(ConfigurationError, match="not the URL of a folder") as caught:
        HttpImageStore(url)
    assert "secret" not in str(caught.value)
