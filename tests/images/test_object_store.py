from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import subprocess
import sys
from datetime import timedelta
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from kling_async import ConfigurationError, Polling, StandardImageToVideo, StorageError
from kling_async._storage import objects
from kling_async.images import Image, ObjectImageStore
from tests.engines.object_stores import (  # noqa: F401 - fixtures
    az_url,
    azure_server,
    fetch,
    gcs_server,
    gs_url,
    s3_server,
    s3_url,
    store_url,
)
from tests.images.pictures import picture
from tests.processes import unmeasured

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    from tests.conftest import Connect, Emulate, ServeApp, ServeRaw

pytestmark = pytest.mark.slow

CAT = picture()
NAME = f"{sha256(CAT).hexdigest()}.jpg"


class Reads:
    """Reads an image, and counts how often."""

    def __init__(self, content: bytes = CAT) -> None:
        self.content = content
        self.count = 0

    async def read(self) -> bytes:
        self.count += 1
        await asyncio.sleep(0)
        return self.content

    def image(self, name: str = NAME) -> Image:
        return Image(name, "image/jpeg", self.read)


async def test_put(store_url: str) -> None:  # noqa: F811 - the fixture
    """An image is stored once, and its URL is enough to fetch it, with its type."""
    reads, store = Reads(), ObjectImageStore(store_url)
    for each in (store, store, ObjectImageStore(store_url)):
        await each.put(reads.image())
    url = await store.put(reads.image())
    assert reads.count == 1
    assert await fetch(url) == (200, "image/jpeg", CAT)
    assert "…" not in url
    secret = urlsplit(url).query
    assert secret
    assert secret not in repr(store)


async def test_at_the_same_time(store_url: str) -> None:  # noqa: F811 - the fixture
    """Of several uploads at the same time one creates the object, which is never replaced."""
    reads = [Reads(CAT), *(Reads(picture(color=color)) for color in ("red", "green", "blue"))]
    stores = [ObjectImageStore(store_url) for _ in reads]
    puts = [store.put(read.image()) for store, read in zip(stores, reads, strict=True)]
    urls = await asyncio.gather(*puts)
    contents = {(await fetch(url))[2] for url in urls}
    assert len(contents) == 1
    assert contents <= {read.content for read in reads}


PUT = """
import asyncio, sys
from hashlib import sha256
from kling_async.images import Image, ObjectImageStore

content = sys.argv[2].encode() * 1000

async def read():
    print("reading", flush=True)
    if sys.argv[3] == "hang":
        await asyncio.sleep(1000)
    return content

async def main():
    name = sha256(content).hexdigest() + ".png"
    print(await ObjectImageStore(sys.argv[1]).put(Image(name, "image/png", read)))

asyncio.run(main())
"""


def start(url: str, how: str = "") -> subprocess.Popen[str]:
    """Start a process that stores an image."""
    command = [sys.executable, "-c", PUT, url, "a picture", how]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=unmeasured())


async def test_four_processes(s3_url: str) -> None:  # noqa: F811 - the fixture
    """Four processes store the same image once, and all have URLs of it."""
    processes = [start(s3_url) for _ in range(4)]
    outputs = [await asyncio.to_thread(process.communicate) for process in processes]
    urls = [out.split()[-1] for out, _ in outputs]
    assert len({url.partition("?")[0] for url in urls}) == 1
    for url in urls:
        assert (await fetch(url))[2] == b"a picture" * 1000


async def test_killed(s3_url: str) -> None:  # noqa: F811 - the fixture
    """A process that is killed before its upload leaves nothing, and the next one uploads."""
    process = start(s3_url, "hang")
    assert process.stdout is not None
    assert await asyncio.to_thread(process.stdout.readline) == "reading\n"
    os.kill(process.pid, signal.SIGKILL)
    await asyncio.to_thread(process.communicate)
    out, _ = await asyncio.to_thread(start(s3_url).communicate)
    assert out.startswith("reading\n")
    assert (await fetch(out.split()[-1]))[2] == b"a picture" * 1000


async def test_a_part_of_an_upload(
    s3_server: str,  # noqa: F811 - the fixture
    s3_url: str,  # noqa: F811 - the fixture
    serve_raw: ServeRaw,
) -> None:
    """An upload that is cut off leaves no object: the store knows how long it is."""
    port = urlsplit(s3_server).port
    seen = 0

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward a request; cut one with a large body off in the middle."""
        nonlocal seen
        there, back = await asyncio.open_connection("127.0.0.1", port)
        try:
            while data := await reader.read(65_536):
                seen += len(data)
                if seen > 200_000:
                    return
                back.write(data)
                if seen < 50_000:
                    writer.write(await there.read(65_536))
        finally:
            back.close()

    proxied = await serve_raw(cut)
    name = f"{'ab' * 32}.jpg"
    store = ObjectImageStore(s3_url.replace(s3_server, proxied))
    with pytest.raises(StorageError) as caught:
        await store.put(Reads(bytes(1_000_000)).image(name))
    assert caught.value.retryable
    reads = Reads(bytes(1_000_000))
    url = await ObjectImageStore(s3_url).put(reads.image(name))
    assert reads.count == 1  # it was not there
    assert len((await fetch(url))[2]) == 1_000_000


@pytest.mark.parametrize("kind", ["s3", "az"])
async def test_expired_signature(kind: str, request: pytest.FixtureRequest) -> None:
    """A URL is valid for as long as was asked for; put makes another one."""
    store = ObjectImageStore(request.getfixturevalue(f"{kind}_url"))
    store._lifetime = timedelta(seconds=2)  # noqa: SLF001 - ten minutes are too long for a test
    url = await store.put(Reads().image())
    assert (await fetch(url))[0] == 200
    if kind == "s3":  # moto does not check it
        assert "X-Amz-Expires=2" in url
        return
    await asyncio.sleep(4)
    assert (await fetch(url))[0] == 403
    assert (await fetch(await store.put(Reads().image())))[0] == 200


async def test_missing_bucket(s3_url: str) -> None:  # noqa: F811 - the fixture
    """A bucket that does not exist is an error that does not pass; nothing can be stored in it."""
    store = ObjectImageStore(s3_url.replace("//bucket/", "//other-bucket/"))
    with pytest.raises(StorageError, match="NoSuchBucket") as caught:
        await store.put(Reads().image())
    assert not caught.value.retryable
    assert "cannot store s3://other-bucket/" in str(caught.value)


async def test_denied(az_url: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Without a permission, the error says so, and that waiting does not help."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0")
    with pytest.raises(StorageError, match="AuthorizationFailure") as caught:
        await ObjectImageStore(az_url).put(Reads().image())
    assert not caught.value.retryable


async def serve(
    serve_app: ServeApp, answers: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> str:
    """Start an S3 server that answers as the function says; return its URL as a store."""
    return f"s3://bucket/p?endpoint={await serve_app(answers)}"


async def test_without_permission_to_list(
    serve_app: ServeApp,
    s3_url: str,  # noqa: F811 - its credentials
) -> None:
    """S3 denies HEAD of what does not exist, without permission to list; the image is stored."""
    from aiohttp import web

    methods: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        methods.append(request.method)
        assert request.method == "HEAD" or request.headers["If-None-Match"] == "*"
        status = 403 if request.method == "HEAD" else 200
        return web.Response(status=status, headers={"ETag": '"1"'})

    assert s3_url
    store = ObjectImageStore(await serve(serve_app, answer))
    assert "X-Amz-Signature" in await store.put(Reads().image())
    assert methods == ["HEAD", "PUT"]


async def test_full(serve_app: ServeApp, s3_url: str) -> None:  # noqa: F811 - its credentials
    """A store that is full, or over its quota, is an error."""
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        if request.method == "HEAD":
            return web.Response(status=404)
        text = "<Error><Code>QuotaExceeded</Code><Message>x</Message></Error>"
        return web.Response(status=400, text=f'<?xml version="1.0"?>\n{text}')

    assert s3_url
    with pytest.raises(StorageError, match=r"QuotaExceeded: .* 400 Bad Request"):
        await ObjectImageStore(await serve(serve_app, answer)).put(Reads().image())


@pytest.mark.parametrize("method", ["HEAD", "PUT"])
async def test_slow(
    serve_app: ServeApp,
    s3_url: str,  # noqa: F811 - its credentials
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    """A store that does not answer is an error in the end, which may pass."""
    from aiohttp import web

    monkeypatch.setattr(objects, "_TIME_LIMIT", 0.5)

    async def answer(request: web.Request) -> web.Response:
        if request.method == method:
            await asyncio.sleep(5)
        return web.Response(status=404)

    assert s3_url
    with pytest.raises(StorageError, match=r"no answer in 0\.5 s") as caught:
        await ObjectImageStore(await serve(serve_app, answer)).put(Reads().image())
    assert caught.value.retryable


async def test_cancelled(
    serve_app: ServeApp,
    s3_url: str,  # noqa: F811 - its credentials
) -> None:
    """A cancelled upload ends at once."""
    from aiohttp import web

    asked = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        if request.method == "PUT":
            asked.set()
            await asyncio.sleep(5)
        return web.Response(status=404)

    assert s3_url
    store = ObjectImageStore(await serve(serve_app, answer))
    task = asyncio.create_task(store.put(Reads().image()))
    await asked.wait()
    started = asyncio.get_running_loop().time()
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()
    assert asyncio.get_running_loop().time() - started < 2


async def test_a_store_of_obstore(s3_url: str) -> None:  # noqa: F811 - the fixture
    """A store with credentials of the caller's may be given, and stays open."""
    from kling_async._storage.opening import open_store

    store = ObjectImageStore(open_store(s3_url))
    assert repr(store) == "<ObjectImageStore S3Store>"
    assert (await fetch(await store.put(Reads().image())))[0] == 200


@pytest.mark.parametrize("lifetime", [0, 599, 7 * 86_400 + 1, float("nan")])
def test_lifetime(lifetime: float) -> None:
    """A URL is valid for ten minutes at least, and for a week at most."""
    with pytest.raises(ConfigurationError, match="lifetime must be from 600 to 604800 seconds"):
        ObjectImageStore("s3://bucket", lifetime=lifetime)


async def test_generate(
    store_url: str,  # noqa: F811 - the fixture
    emulate: Emulate,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The emulator fetches an image from a store by its signed URL, as the service would."""
    caplog.set_level(logging.DEBUG, "kling_async")
    emulator = await emulate(speed=1000.0)
    kling = await connect(emulator, image_store=store_url, polling=Polling(first=0.1))
    result = await kling.generate(StandardImageToVideo("pan", CAT))
    assert result.result_urls
    (submission,) = emulator.ledger
    signature = re.search(r"(?i)(?:signature|sig)=([^&']+)", str(submission.input["image_urls"]))
    assert signature is not None
    ours = [record for record in caplog.records if record.name.startswith("kling_async")]
    assert ours
    assert not any(signature[1] in record.getMessage() for record in ours)
