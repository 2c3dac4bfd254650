"""Faults that users of this and of other SDKs have reported, from the caller's side."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import ssl
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme
from aiohttp import web

from kling_async import ConfigurationError, KlingClient, MasterTextToVideo
from tests.faults.service import TASK_ID, VIDEO

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.virtual_time

FOX = MasterTextToVideo("a fox")
KEY = "a-key-of-some-length"


class Backend:
    """A service behind a gateway that compresses for clients which ask for that."""

    def __init__(self) -> None:
        self.origin = ""
        self.authority = trustme.CA()
        self.submits = 0
        self.asked: list[str] = []
        self.keys: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        if request.path.startswith("/files/"):
            return web.Response(body=VIDEO, content_type="video/mp4")
        asked = request.headers.get("Accept-Encoding", "")
        self.asked.append(asked)
        self.keys.append(request.headers.get("Authorization", ""))
        data: dict[str, object] = {"taskId": TASK_ID}
        if request.method == "POST":
            self.submits += 1
            await asyncio.sleep(0.3)
        else:
            urls = json.dumps({"resultUrls": [f"{self.origin}/files/a.mp4"]})
            data |= {"state": "success", "resultJson": urls}
        body = json.dumps({"code": 200, "message": "success", "data": data}).encode()
        if "br" in asked:  # which an older package for it cannot read
            return web.Response(body=b"\xff" * 100, headers={"Content-Encoding": "br"})
        if "gzip" in asked:
            return web.Response(body=gzip.compress(body), headers={"Content-Encoding": "gzip"})
        return web.Response(body=body)

    def trusted(self) -> ssl.SSLContext:
        """Return a context that trusts the authority."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context

    async def start(self, runner: web.AppRunner, *, tls: bool) -> None:
        """Listen."""
        context = None
        if tls:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self.authority.issue_cert("127.0.0.1").configure_cert(context)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        scheme = "https" if tls else "http"
        self.origin = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"


@asynccontextmanager
async def running(*, tls: bool = False) -> AsyncIterator[Backend]:
    """Run the service."""
    backend = Backend()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", backend.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await backend.start(runner, tls=tls)
        yield backend
    finally:
        await runner.cleanup()


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    """Run the service without TLS."""
    async with running() as backend:
        yield backend


async def generate(backend: Backend, folder: Path, **options: Any) -> bytes:  # noqa: ANN401
    """Generate, download, and return the file."""
    async with KlingClient(KEY, base_url=backend.origin, **options) as kling:
        (path,) = await kling.download(await kling.generate(FOX), folder)
    return path.read_bytes()


async def test_brotli_is_not_asked_for(backend: Backend, tmp_path: Path) -> None:
    """Answers come in encodings that every installation can read, whatever packages it has."""
    assert await generate(backend, tmp_path) == VIDEO
    assert not any("br" in asked or "zstd" in asked for asked in backend.asked)


CHILD = """
import asyncio, sys
from kling_async import KlingClient, MasterTextToVideo, Polling

async def main():
    async with KlingClient("a-key", base_url=sys.argv[1], polling=Polling(first=0.05)) as kling:
        await kling.download(await kling.generate(MasterTextToVideo("a fox")), sys.argv[2])

asyncio.run(main())
"""


def test_an_authority_of_the_environment(tmp_path: Path) -> None:
    """SSL_CERT_FILE names an authority that is trusted, for the API and for files."""
    authority = tmp_path / "authority.pem"

    async def main() -> tuple[int, str]:
        async with running(tls=True) as backend:
            backend.authority.cert_pem.write_to_path(str(authority))
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", CHILD, backend.origin, str(tmp_path)),
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, "SSL_CERT_FILE": str(authority)},
            )
            _, errors = await process.communicate()
            return process.returncode or 0, errors.decode()

    assert asyncio.run(main()) == (0, "")
    assert [path.read_bytes() for path in tmp_path.glob("*.mp4")] == [VIDEO]


async def test_an_authority_of_a_lent_session(tmp_path: Path) -> None:
    """A lent session that trusts an authority does so for the API and for files."""
    async with running(tls=True) as backend:
        connector = aiohttp.TCPConnector(ssl=backend.trusted())
        async with aiohttp.ClientSession(connector=connector) as session:
            assert await generate(backend, tmp_path, session=session) == VIDEO


LENT: dict[str, dict[str, Any]] = {
    "plain": {},
    "auto_decompress": {"auto_decompress": False},
    "raise_for_status": {"raise_for_status": True},
    "total timeout": {"timeout": aiohttp.ClientTimeout(total=0.1)},
    "read timeout": {"timeout": aiohttp.ClientTimeout(sock_read=0.1)},
    "headers": {"headers": {"content-type": "text/plain", "authorization": "Basic other"}},
    "HTTP/1.0": {"version": aiohttp.HttpVersion10},
    "skipped headers": {"skip_auto_headers": ["User-Agent", "Content-Type", "Accept-Encoding"]},
    "cookies": {"cookies": {"sid": "abc"}},
    "another base_url": {"base_url": "http://127.0.0.1:1/other/"},
}


@pytest.mark.parametrize("options", LENT.values(), ids=LENT)
async def test_lent_sessions(options: dict[str, Any], backend: Backend, tmp_path: Path) -> None:
    """Whatever a lent session is set up for, the paid answer is read; the key is the client's."""
    async with aiohttp.ClientSession(**options) as session:
        assert await generate(backend, tmp_path, session=session) == VIDEO
    assert backend.submits == 1
    assert set(backend.keys) == {f"Bearer {KEY}"}


def test_a_lent_session_of_a_loop_that_has_ended() -> None:
    """A session of another loop is refused before anything is sent."""

    async def make() -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    async def use(session: aiohttp.ClientSession) -> None:
        kling = KlingClient(KEY, base_url="http://127.0.0.1:1", session=session)
        with pytest.raises(ConfigurationError, match="another event loop"):
            await kling.generate(FOX)
        await session.close()

    asyncio.run(use(asyncio.run(make())))
