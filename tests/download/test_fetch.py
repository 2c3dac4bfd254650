from __future__ import annotations

import asyncio
import gzip
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from kling_async import Result, Retry, TaskRef
from kling_async.download import MAX_BYTES, download
from kling_async.download.files import DISK_SPACE
from kling_async.errors import DownloadError, ResultExpiredError
from tests.processes import unmeasured

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import ServeApp, ServeRaw

virtual = pytest.mark.virtual_time

REF = TaskRef("kling-2-1", "task_1")
VIDEO = bytes(range(256)) * 4096  # a megabyte: several chunks
OTHER = VIDEO[::-1]
ONCE = Retry(attempts=1)
GIB = 1024**3
PART = ".task_1.mp4.part"
NOTE = ".task_1.mp4.part.json"
HEAD = b"HTTP/1.1 200 OK\r\n"


def result(*urls: str) -> Result:
    """Make a result with these URLs."""
    return Result(REF, urls)


def content(folder: Path) -> dict[str, bytes]:
    """Read every file of a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Store:
    """Serves one file, whole or from some byte on, and drops connections if asked to.

    `cuts` are the bytes that the next answers give before the connection drops.
    """

    def __init__(self, *cuts: int, file: bytes = VIDEO, etag: str = '"one"') -> None:
        self.cuts = list(cuts)
        self.file = file
        self.etag = etag
        self.ranges: list[str | None] = []
        self.conditions: list[str | None] = []

    async def serve(self, request: web.Request) -> web.StreamResponse:
        asked = request.headers.get("Range")
        self.ranges.append(asked)
        self.conditions.append(request.headers.get("If-Range"))
        start = 0
        answer = web.StreamResponse(headers={"ETag": self.etag} if self.etag else {})
        if asked and self.conditions[-1] == self.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            answer.set_status(206)
            size = len(self.file)
            answer.headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        answer.content_length = len(self.file) - start
        await answer.prepare(request)
        if self.cuts:
            await answer.write(self.file[start : start + self.cuts.pop(0)])
            assert request.transport is not None
            # What aiohttp has not been asked for by the end of the connection is lost.
            await asyncio.sleep(0.1)
            request.transport.close()
        else:
            await answer.write(self.file[start:])
        return answer


# ----------------------------------------------------------------------------------------- resuming


@virtual
async def test_the_next_call_goes_on(serve_app: ServeApp, tmp_path: Path) -> None:
    """A cut file is gone on with by the next call, where it ended; then nothing else is left."""
    store = Store(600_001)
    url = f"{await serve_app(store.serve)}/a.mp4"
    with pytest.raises(DownloadError, match=r"600 kB of 1\.0 MB are kept.*again") as caught:
        await download(result(url), tmp_path, retry=ONCE)
    assert caught.value.retryable
    assert caught.value.url == url
    left = content(tmp_path)
    assert set(left) == {PART, NOTE}
    assert left[PART] == VIDEO[:600_001]
    (file,) = await download(result(url), tmp_path)
    assert store.ranges == [None, "bytes=600001-"]
    assert store.conditions == [None, '"one"']
    assert content(tmp_path) == {"task_1.mp4": VIDEO}
    assert (file.size_bytes, file.sha256) == (len(VIDEO), sha256(VIDEO).hexdigest())


@virtual
async def test_one_call_goes_on_by_itself(serve_app: ServeApp, tmp_path: Path) -> None:
    """Within a call, too, only what is missing is asked for again."""
    store = Store(1000, 2000)
    (file,) = await download(result(f"{await serve_app(store.serve)}/a.mp4"), tmp_path)
    assert store.ranges == [None, "bytes=1000-", "bytes=3000-"]
    assert content(tmp_path) == {"task_1.mp4": VIDEO}
    assert file.sha256 == sha256(VIDEO).hexdigest()


@virtual
@pytest.mark.parametrize("etag", ["", 'W/"one"', "one", '""', '"o n e"'])
async def test_without_proof_it_starts_again(
    etag: str, serve_app: ServeApp, tmp_path: Path
) -> None:
    """Without a strong ETag no part is asked for, and none is left behind."""
    store = Store(600_000, 600_000, etag=etag)
    url = f"{await serve_app(store.serve)}/a.mp4"
    with pytest.raises(DownloadError, match=r"600 kB of 1\.0 MB came"):
        await download(result(url), tmp_path, retry=ONCE)
    assert content(tmp_path) == {}
    await download(result(url), tmp_path)
    assert store.ranges == [None, None, None]
    assert content(tmp_path) == {"task_1.mp4": VIDEO}


@virtual
async def test_a_file_that_has_changed(serve_app: ServeApp, tmp_path: Path) -> None:
    """If the file is another one by now, it is fetched whole: the halves are not joined."""
    store = Store(600_000)
    url = f"{await serve_app(store.serve)}/a.mp4"
    with pytest.raises(DownloadError):
        await download(result(url), tmp_path, retry=ONCE)
    store.file, store.etag = OTHER, '"two"'
    await download(result(url), tmp_path, retry=ONCE)
    assert store.ranges == [None, "bytes=600000-"]
    assert content(tmp_path) == {"task_1.mp4": OTHER}


@virtual
@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (206, {"Content-Range": "bytes 599999-1048575/1048576"}),
        (206, {"Content-Range": "bytes 600001-1048575/1048576"}),
        (206, {"Content-Range": "bytes 600000-1048575/1048577"}),
        (206, {"Content-Range": "bytes 600000-1048575/*"}),
        (206, {"Content-Range": "bytes 600000-1048575/1048576", "ETag": '"two"'}),
        (206, {"Content-Range": "bytes 600000-1048575/1048576", "ETag": 'W/"one"'}),
        (206, {"Content-Range": "bytes 600000-1048575/1048576", "Content-Encoding": "gzip"}),
        (206, {"Content-Range": f"bytes {'9' * 5000}-1048575/1048576"}),
        (206, {"Content-Range": "bytes 600000-1048575/1048576", "ETag": None}),
        (206, {"Content-Range": None}),
        (412, {"Content-Range": None}),
        (416, {"Content-Range": "bytes */1048576"}),
        (416, {"Content-Range": "bytes 600000-1048575/1048576"}),
    ],
)
async def test_a_part_that_does_not_fit(
    status: int, headers: dict[str, str | None], serve_app: ServeApp, tmp_path: Path
) -> None:
    """An answer to a range that proves nothing is thrown away, and the file is fetched whole."""
    store = Store(600_000)

    async def odd(request: web.Request) -> web.StreamResponse:
        if "Range" in request.headers:
            sent = {name: value for name, value in headers.items() if value is not None}
            if "ETag" not in headers:  # all is well but for one header
                sent["ETag"] = '"one"'
            return web.Response(status=status, headers=sent, body=b"x" * 448_576)
        return await store.serve(request)

    url = f"{await serve_app(odd)}/a.mp4"
    with pytest.raises(DownloadError):
        await download(result(url), tmp_path, retry=ONCE)
    await download(result(url), tmp_path, retry=ONCE)
    assert content(tmp_path) == {"task_1.mp4": VIDEO}


@virtual
async def test_less_than_was_asked_for(serve_app: ServeApp, tmp_path: Path) -> None:
    """A server may give the rest in portions."""
    store = Store(500_000)

    async def portions(request: web.Request) -> web.StreamResponse:
        asked = request.headers.get("Range")
        if asked is None:
            return await store.serve(request)
        start = int(asked[6:-1])
        end = min(start + 100_000, len(VIDEO))
        headers = {"Content-Range": f"bytes {start}-{end - 1}/{len(VIDEO)}", "ETag": '"one"'}
        return web.Response(status=206, headers=headers, body=VIDEO[start:end])

    url = f"{await serve_app(portions)}/a.mp4"
    await download(result(url), tmp_path, retry=Retry(attempts=9))
    assert content(tmp_path) == {"task_1.mp4": VIDEO}


@virtual
async def test_more_than_was_announced(serve_app: ServeApp, tmp_path: Path) -> None:
    """A rest that is too long is no rest: nothing of it gets the name."""
    store = Store(500_000)

    async def long(request: web.Request) -> web.StreamResponse:
        if "Range" not in request.headers:
            return await store.serve(request)
        headers = {"Content-Range": f"bytes 500000-{len(VIDEO) - 1}/{len(VIDEO)}", "ETag": '"one"'}
        return web.Response(status=206, headers=headers, body=VIDEO[500_000:] + b"x")

    await download(result(f"{await serve_app(long)}/a.mp4"), tmp_path)
    assert store.ranges == [None, None]
    assert content(tmp_path) == {"task_1.mp4": VIDEO}


@virtual
@pytest.mark.parametrize(
    ("second", "asked"),
    [("/a.mp4?sign=new#x", "bytes=600000-"), ("/b/a.mp4?sign=old", None)],
)
async def test_signed_urls(
    second: str, asked: str | None, serve_app: ServeApp, tmp_path: Path
) -> None:
    """The query may be another one at the next call, the path may not; no note has either."""
    store = Store(600_000)
    origin = await serve_app(store.serve)
    with pytest.raises(DownloadError):
        await download(result(f"{origin}/a.mp4?sign=old"), tmp_path, retry=ONCE)
    assert b"sign" not in content(tmp_path)[NOTE]
    assert b"127.0.0.1" not in content(tmp_path)[NOTE]
    await download(result(f"{origin}{second}"), tmp_path)
    assert store.ranges == [None, asked]
    assert content(tmp_path) == {"task_1.mp4": VIDEO}


@virtual
async def test_a_cancelled_download_can_be_resumed(serve_raw: ServeRaw, tmp_path: Path) -> None:
    """What had come before a cancellation is kept, to the last byte."""

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b'ETag: "one"\r\nContent-Length: 1048576\r\n\r\n' + VIDEO[:700_000])
        await reader.read()

    task = asyncio.create_task(download(result(f"{await serve_raw(stall)}/a.mp4"), tmp_path))
    await asyncio.sleep(5)
    assert set(content(tmp_path)) == {PART}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert set(content(tmp_path)) == {PART, NOTE}
    assert content(tmp_path)[PART] == VIDEO[:700_000]


@virtual
async def test_a_cancelled_download_that_cannot_be_resumed(
    serve_raw: ServeRaw, tmp_path: Path
) -> None:
    """A part that cannot be resumed does not outlive a cancellation."""

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"\r\n")
        while True:
            writer.write(VIDEO)
            await writer.drain()
            await asyncio.sleep(1)

    task = asyncio.create_task(download(result(f"{await serve_raw(flood)}/a.mp4"), tmp_path))
    await asyncio.sleep(5)
    assert set(content(tmp_path)) == {PART}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert content(tmp_path) == {}


# ------------------------------------------------------------------------------- several processes

SCRIPT = """
import asyncio, sys
from kling_async import Result, TaskRef
from kling_async.download import download
url, folder = sys.argv[1:]
asyncio.run(download(Result(TaskRef("kling-2-1", "task_1"), (url,)), folder))
"""


async def start(url: str, folder: Path) -> asyncio.subprocess.Process:
    """Start a process that downloads."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SCRIPT, url, folder), env=unmeasured()
    )


class Halting(Store):
    """Drops the first answer, and holds back the second one until `resume` is set."""

    def __init__(self, cut: int, file: bytes) -> None:
        super().__init__(cut, file=file)
        self.asked_again = asyncio.Event()
        self.resume = asyncio.Event()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if len(self.ranges) == 1:
            self.ranges.append("halted")
            self.asked_again.set()
            await self.resume.wait()
        return await super().serve(request)


async def test_a_killed_process(serve_app: ServeApp, tmp_path: Path) -> None:
    """After SIGKILL, another process resumes from the last note, at most 4 MiB back."""
    film = os.urandom(6 * 1024**2)
    store = Halting(5 * 1024**2, film)
    url = f"{await serve_app(store.serve)}/a.mp4"
    process = await start(url, tmp_path)
    await store.asked_again.wait()
    process.kill()
    await process.wait()
    store.resume.set()
    assert set(content(tmp_path)) == {PART, NOTE}
    await download(result(url), tmp_path)
    asked = store.ranges[-1]
    assert asked is not None
    assert 4 * 1024**2 <= int(asked[6:-1]) <= 5 * 1024**2
    assert content(tmp_path) == {"task_1.mp4": film}


@pytest.mark.slow
async def test_two_processes(serve_app: ServeApp, tmp_path: Path) -> None:
    """A part that another process is at is left alone, and both processes get the file."""
    store = Halting(5 * 1024**2, VIDEO * 6)
    url = f"{await serve_app(store.serve)}/a.mp4"
    process = await start(url, tmp_path)
    await store.asked_again.wait()
    await download(result(url), tmp_path)
    there = content(tmp_path)
    assert there["task_1.mp4"] == VIDEO * 6
    assert (VIDEO * 6).startswith(there[PART])
    assert len(there[PART]) >= 4 * 1024**2
    store.resume.set()
    assert await process.wait() == 0
    assert store.ranges[1:] == ["halted", None, f"bytes={len(there[PART])}-"]
    assert content(tmp_path) == {"task_1.mp4": VIDEO * 6}


# ------------------------------------------------------------------------------------------ retries


@virtual
async def test_trouble_is_retried(serve_app: ServeApp, tmp_path: Path) -> None:
    """Errors of the server are waited out, as long as it asks for."""
    answers = [500, 429, 502]
    at: list[float] = []

    async def recovering(_: web.Request) -> web.Response:
        at.append(asyncio.get_running_loop().time())
        if answers:
            return web.Response(status=answers.pop(0), headers={"Retry-After": "7"})
        return web.Response(body=VIDEO)

    await download(result(f"{await serve_app(recovering)}/a.mp4"), tmp_path)
    assert content(tmp_path) == {"task_1.mp4": VIDEO}
    waits = [after - before for before, after in pairwise(at)]
    assert waits == pytest.approx([7, 7, 7], abs=0.5)


@virtual
async def test_giving_up(serve_app: ServeApp, tmp_path: Path) -> None:
    """After as many attempts as the policy allows, the error says what happened last."""
    asked = 0

    async def broken(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=503)

    url = f"{await serve_app(broken)}/a.mp4"
    with pytest.raises(DownloadError, match="HTTP 503") as caught:
        await download(result(url), tmp_path, retry=Retry(attempts=4))
    assert asked == 4
    assert caught.value.retryable
    assert content(tmp_path) == {}


@virtual
async def test_progress_does_not_count(serve_app: ServeApp, tmp_path: Path) -> None:
    """Attempts that bring a good piece may be any number, and may take any time in all."""
    store = Store(300_000, 300_000, 300_000)
    url = f"{await serve_app(store.serve)}/a.mp4"
    await download(result(url), tmp_path, retry=Retry(attempts=2, base=0.01, deadline=0.25))
    assert len(store.ranges) == 4
    assert content(tmp_path) == {"task_1.mp4": VIDEO}


@virtual
@pytest.mark.parametrize(("etag", "cut"), [('"one"', 1000), ("", 300_000)])
async def test_no_progress_counts(etag: str, cut: int, serve_app: ServeApp, tmp_path: Path) -> None:
    """Attempts that bring next to nothing, or only what had come before, are soon too many."""
    store = Store(*[cut] * 50, etag=etag)
    with pytest.raises(DownloadError):
        await download(
            result(f"{await serve_app(store.serve)}/a.mp4"), tmp_path, retry=Retry(attempts=3)
        )
    assert len(store.ranges) in {3, 4}


@virtual
@pytest.mark.parametrize("status", [400, 401, 416, 451])
async def test_refusals_are_not_retried(status: int, serve_app: ServeApp, tmp_path: Path) -> None:
    """A request that the server finds wrong is not sent again, by us or on our advice."""
    asked = 0

    async def refuse(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=status)

    with pytest.raises(DownloadError, match=f"HTTP {status}") as caught:
        await download(result(f"{await serve_app(refuse)}/a.mp4"), tmp_path)
    assert asked == 1
    assert type(caught.value) is DownloadError
    assert not caught.value.retryable


@virtual
@pytest.mark.parametrize("status", [403, 404, 410])
async def test_a_dead_url(status: int, serve_app: ServeApp, tmp_path: Path) -> None:
    """A URL that is gone has expired: it is not tried again, and its part is removed."""
    store = Store(600_000)
    asked = 0

    async def gone(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return await store.serve(request) if asked == 1 else web.Response(status=status)

    url = f"{await serve_app(gone)}/a.mp4"
    with pytest.raises(ResultExpiredError, match="15 days") as caught:
        await download(result(url), tmp_path)
    assert asked == 2
    assert (caught.value.url, caught.value.ref, caught.value.retryable) == (url, REF, False)
    assert content(tmp_path) == {}


@virtual
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        HEAD + b"Content-Length: 100\r\n\r\nhello",
        HEAD + b"Content-Length: 0\r\n\r\n",
        HEAD + b"Connection: close\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nhe",
        HEAD + b"Content-Length: 5\r\nContent-Encoding: gzip\r\n\r\nhello",
        HEAD
        + b"Content-Length: 10\r\nContent-Encoding: gzip\r\n\r\n"
        + gzip.compress(VIDEO, mtime=0)[:10],
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 500 Oh\r\nContent-Length: 5\r\n\r\nhello",
        b"nonsense\r\n\r\n",
    ],
)
async def test_a_file_that_does_not_arrive_whole(
    answer: bytes, serve_raw: ServeRaw, tmp_path: Path
) -> None:
    """What is cut, empty, garbled or an error is no file, and leaves none behind."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    url = f"{await serve_raw(cut)}/a.mp4"
    with pytest.raises(DownloadError) as caught:
        await download(result(url), tmp_path)
    error = caught.value
    assert type(error) is DownloadError
    assert (error.url, error.ref, error.retryable) == (url, REF, True)
    assert not error.may_have_charged
    assert url in str(error)
    assert content(tmp_path) == {}


@virtual
async def test_a_server_that_stalls(serve_raw: ServeRaw, tmp_path: Path) -> None:
    """A minute without a byte ends an attempt, and three such minutes the download."""

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"Content-Length: 100\r\n\r\nhello")
        await reader.read()

    with pytest.raises(DownloadError, match="not downloaded completely"):
        await download(result(f"{await serve_raw(stall)}/a.mp4"), tmp_path)
    assert asyncio.get_running_loop().time() == pytest.approx(180, abs=3)
    assert content(tmp_path) == {}


@virtual
async def test_a_slow_server(serve_raw: ServeRaw, tmp_path: Path) -> None:
    """A server that is slow but never silent for a minute may take its time."""

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"Content-Length: 1048576\r\n\r\n")
        for start in range(0, len(VIDEO), 65536):
            await asyncio.sleep(50)
            writer.write(VIDEO[start : start + 65536])

    await download(result(f"{await serve_raw(slow)}/a.mp4"), tmp_path)
    assert asyncio.get_running_loop().time() == pytest.approx(800, abs=10)
    assert content(tmp_path) == {"task_1.mp4": VIDEO}


@virtual
async def test_a_server_that_drips(serve_raw: ServeRaw, tmp_path: Path) -> None:
    """A server that sends a byte now and then does not hold a download for ever."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"Content-Length: 1048576\r\n\r\n")
        while True:
            await asyncio.sleep(50)
            writer.write(b"x")
            await writer.drain()

    with pytest.raises(DownloadError, match="too slow"):
        await download(result(f"{await serve_raw(drip)}/a.mp4"), tmp_path)
    assert asyncio.get_running_loop().time() == pytest.approx(300, abs=3)


@virtual
@pytest.mark.parametrize(
    "url",
    [
        "http://a..b/x.mp4",
        f"http://{'x' * 64}.com/",
        "http://1:99999/",
        "http://[x",
        "http://127.1:1/",
    ],
)
async def test_a_url_that_leads_nowhere(url: str, tmp_path: Path) -> None:
    """A host that cannot be one is an error of ours, not of a codec, and is not tried again."""
    with pytest.raises(DownloadError) as caught:
        await download(result(url), tmp_path)
    assert not caught.value.retryable
    assert asyncio.get_running_loop().time() < 1


@virtual
async def test_a_redirect_out_of_the_web(serve_raw: ServeRaw, tmp_path: Path) -> None:
    """A redirect to something that is no web address is followed nowhere."""

    async def away(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: file:///etc/passwd\r\n\r\n"
        )

    with pytest.raises(DownloadError, match="cannot be fetched"):
        await download(result(f"{await serve_raw(away)}/a.mp4"), tmp_path)
    assert content(tmp_path) == {}


# ---------------------------------------------------------------------------------------- the disk


@virtual
async def test_a_file_that_is_too_large(serve_raw: ServeRaw, tmp_path: Path) -> None:
    """A file beyond any video is given up, and takes no room."""

    async def huge(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        size = b"Content-Length: %d\r\n" % (MAX_BYTES + 1)
        writer.write(HEAD + b'ETag: "one"\r\n' + size + b"\r\nx")
        await reader.read()

    with pytest.raises(DownloadError, match="larger") as caught:
        await download(result(f"{await serve_raw(huge)}/a.mp4"), tmp_path)
    assert not caught.value.retryable
    assert asyncio.get_running_loop().time() < 1
    assert content(tmp_path) == {}


@virtual
async def test_no_room_while_writing(serve_app: ServeApp, tmp_path: Path) -> None:
    """If the disk takes no more, the error says how much is needed, and the room is given back."""
    resource = pytest.importorskip("resource", reason="sizes of files can be limited on Unix only")
    store = Store(file=VIDEO * 4)
    url = f"{await serve_app(store.serve)}/a.mp4"
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, old[1]))
    try:
        with pytest.raises(DownloadError, match=r"no room .*needed, \d+.* are free") as caught:
            await download(result(url), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert not caught.value.retryable
    assert len(store.ranges) == 1
    assert content(tmp_path) == {}


FULL = """
import asyncio, os, pathlib, sys
from aiohttp import web
from kling_async import Result, TaskRef
from kling_async.download import download
from kling_async.errors import DownloadError

async def serve(request):
    answer = web.StreamResponse()
    if request.path == "/announced":
        answer.content_length = 30_000_000
    await answer.prepare(request)
    for _ in range(30):
        await answer.write(bytes(1_000_000))
    return answer

async def main():
    app = web.Application()
    app.router.add_get("/{name}", serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    for name in ("announced", "unknown"):
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/{name}"
        try:
            await download(Result(TaskRef("m", name), (url,)), sys.argv[1])
        except DownloadError as error:
            print(name, error.retryable, error, os.listdir(sys.argv[1]))
    await runner.cleanup()

asyncio.run(main())
"""


CROWD = """
import asyncio, os, pathlib, shutil, sys
from aiohttp import web
from kling_async import Result, TaskRef
from kling_async.download import download
from kling_async.errors import DownloadError

least = 10**9

async def serve(request):
    answer = web.StreamResponse()
    if request.path == "/announced":
        answer.content_length = 9_000_000
    await answer.prepare(request)
    global least
    for _ in range(90):
        await answer.write(bytes(100_000))
        least = min(least, shutil.disk_usage(sys.argv[1]).free)
        await asyncio.sleep(0.001)
    return answer

async def main():
    app = web.Application()
    app.router.add_get("/{name}", serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    for name in ("announced", "unknown"):
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/{name}"
        done = await asyncio.gather(
            *(download(Result(TaskRef("m", f"{name}{n}"), (url,)), sys.argv[1]) for n in range(5)),
            return_exceptions=True,
        )
        assert all(isinstance(one, (tuple, DownloadError)) for one in done), done
        saved = [one for one in done if isinstance(one, tuple)]
        print(name, len(saved), len(os.listdir(sys.argv[1])) == len(saved), least >= 16 * 1024**2)
        for path in pathlib.Path(sys.argv[1]).iterdir():
            path.unlink()
    await runner.cleanup()

asyncio.run(main())
"""


def run_on_a_small_disk(folder: Path, size: str, program: str) -> list[str]:
    """Run a program with a disk of so many bytes in a folder; give what it prints."""
    unshare = shutil.which("unshare")
    mount = f'mount -t tmpfs -o size={size} none "$1"'
    inside = (unshare or "unshare", "-Urm", "sh", "-c")
    if (
        unshare is None
        or subprocess.run(
            (*inside, mount, "sh", folder), capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("no small disk can be had here")
    command = f'{mount} && ip link set lo up 2>/dev/null; exec "$2" -c "$3" "$1"'
    run = subprocess.run(
        (*inside, command, "sh", folder, sys.executable, program),
        capture_output=True,
        check=True,
        text=True,
    )
    return run.stdout.splitlines()


def test_a_disk_that_is_too_small(tmp_path: Path) -> None:
    """A file that does not fit is refused before a byte is written, or when no room is left."""
    announced, unknown = run_on_a_small_disk(tmp_path, "20m", FULL)
    assert announced.startswith("announced False no room")
    assert "46.8 MB more are needed, 21.0 MB are free" in announced
    assert unknown.startswith("unknown False no room")
    assert "are free" in unknown
    assert announced.endswith(" []")
    assert unknown.endswith(" []")


@pytest.mark.slow
def test_a_disk_that_is_too_small_for_all(tmp_path: Path) -> None:
    """Of five files of which two fit, two are saved if their size is known; the reserve stays."""
    announced, unknown = run_on_a_small_disk(tmp_path, "35m", CROWD)
    assert announced == "announced 2 True True"
    assert unknown.startswith("unknown ")
    assert unknown.endswith(" True True")


@virtual
async def test_cancelled_without_room(serve_raw: ServeRaw, tmp_path: Path) -> None:
    """A download that is cancelled is cancelled, also if what has come cannot be written."""
    resource = pytest.importorskip("resource", reason="sizes of files can be limited on Unix only")

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"Content-Length: 1000000\r\n\r\n" + VIDEO[:100_000])
        await reader.read()

    task = asyncio.create_task(download(result(f"{await serve_raw(stall)}/a.mp4"), tmp_path))
    await asyncio.sleep(5)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, old[1]))
    try:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert content(tmp_path) == {}


@virtual
async def test_room_that_others_have_claimed(serve_raw: ServeRaw, tmp_path: Path) -> None:
    """Free space that another download of this process will need is not free."""

    async def large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"Content-Length: %d\r\n\r\nx" % (3 * GIB))
        await reader.read()

    url = f"{await serve_raw(large)}/a.mp4"
    # Others use this disk, too: a gibibyte more or less changes nothing.
    DISK_SPACE.reserve("another", tmp_path, max(shutil.disk_usage(tmp_path).free - 2 * GIB, 0))
    try:
        with pytest.raises(DownloadError, match=r"no room .*needed, \d+.* are free") as caught:
            await download(result(url), tmp_path)
    finally:
        DISK_SPACE.release("another")
    assert DISK_SPACE._reserved == {}  # noqa: SLF001 - what is left behind would add up
    assert not caught.value.retryable
    assert content(tmp_path) == {}


@virtual
async def test_too_many_open_files(serve_app: ServeApp, tmp_path: Path) -> None:
    """A file that cannot be opened because too many are is tried again under the policy."""
    resource = pytest.importorskip("resource", reason="open files can be limited on Unix only")
    one = result(f"{await serve_app(Store().serve)}/a.mp4")
    await download(one, tmp_path, name="first")  # what is opened once is open
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_free = os.dup(0)
    os.close(next_free)
    loop = asyncio.get_running_loop()
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_free, old[1]))
    try:
        with pytest.raises(DownloadError, match="Too many open files") as caught:
            await download(one, tmp_path, retry=Retry(attempts=2))
        assert caught.value.retryable
        loop.call_later(5, resource.setrlimit, resource.RLIMIT_NOFILE, old)
        (file,) = await download(one, tmp_path, retry=Retry(attempts=100, base=1.0, cap=1.0))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, old)
    assert file.name == "task_1.mp4"


@virtual
async def test_two_at_a_time_keep_one_file(serve_app: ServeApp, tmp_path: Path) -> None:
    """Of two downloads into one name, the second keeps what the first has saved."""
    stores = [Store(), Store(file=OTHER)]

    async def serve(request: web.Request) -> web.StreamResponse:
        store = stores.pop(0)
        await asyncio.sleep(5.0 if stores else 1.0)  # the second is complete first
        return await store.serve(request)

    one = result(f"{await serve_app(serve)}/a.mp4")
    first, second = await asyncio.gather(download(one, tmp_path), download(one, tmp_path))
    assert first == second
    assert content(tmp_path) == {"task_1.mp4": OTHER}
    assert first[0].sha256 == sha256(OTHER).hexdigest()


@virtual
@pytest.mark.parametrize("spoilt", [b"", b"<html>not found</html>", b'{"code": 404}'])
async def test_a_kept_file_that_is_none(spoilt: bytes, serve_app: ServeApp, tmp_path: Path) -> None:
    """A file of an earlier run that is empty or a page is fetched again, and then replaced."""
    (tmp_path / "task_1.mp4").write_bytes(spoilt)
    await download(result(f"{await serve_app(Store().serve)}/a.mp4"), tmp_path)
    assert content(tmp_path) == {"task_1.mp4": VIDEO}


@virtual
async def test_a_name_that_is_taken_by_a_folder(serve_app: ServeApp, tmp_path: Path) -> None:
    """A file that cannot be given its name is an error that names it, and leaves no part."""
    (tmp_path / "task_1.mp4" / "x").mkdir(parents=True)
    url = f"{await serve_app(Store().serve)}/a.mp4"
    for overwrite in (True, False):
        with pytest.raises(DownloadError, match=r"cannot save .*task_1\.mp4") as caught:
            await download(result(url), tmp_path, overwrite=overwrite)
        assert not caught.value.retryable
        assert [path.name for path in tmp_path.iterdir()] == ["task_1.mp4"]


@virtual
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
async def test_a_folder_without_permission(serve_app: ServeApp, tmp_path: Path) -> None:
    """A folder that may not be written to is an error that names the file."""
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(DownloadError, match="cannot save"):
            await download(result(f"{await serve_app(Store().serve)}/a.mp4"), tmp_path)
    finally:
        tmp_path.chmod(0o700)


# ------------------------------------------------------------------------------------------ bodies


@virtual
async def test_no_compression_is_asked_for(serve_app: ServeApp, tmp_path: Path) -> None:
    """The file is asked for as it is, so that its size can be checked."""
    seen: list[str] = []
    store = Store(1000)

    async def note(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers["Accept-Encoding"])
        return await store.serve(request)

    await download(result(f"{await serve_app(note)}/a.mp4"), tmp_path)
    assert seen == ["identity", "identity"]


@virtual
async def test_a_body_that_is_compressed_all_the_same(serve_app: ServeApp, tmp_path: Path) -> None:
    """A compressed body is unpacked, and its announced size is not held against it."""

    async def packed(_: web.Request) -> web.Response:
        return web.Response(
            body=gzip.compress(VIDEO, mtime=0), headers={"Content-Encoding": "gzip"}
        )

    await download(result(f"{await serve_app(packed)}/a.mp4"), tmp_path)
    assert content(tmp_path) == {"task_1.mp4": VIDEO}


@virtual
async def test_a_body_without_a_size(serve_app: ServeApp, tmp_path: Path) -> None:
    """A chunked body is complete when its last chunk has come."""

    async def chunked(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for i in range(0, len(VIDEO), 100_000):
            await response.write(VIDEO[i : i + 100_000])
        return response

    await download(result(f"{await serve_app(chunked)}/a.mp4"), tmp_path)
    assert content(tmp_path) == {"task_1.mp4": VIDEO}


@virtual
async def test_redirects_are_followed(serve_app: ServeApp, tmp_path: Path) -> None:
    """A file that has moved is fetched from where it is, its missing part too."""
    store = Store(1000)

    async def moved(request: web.Request) -> web.StreamResponse:
        if request.path == "/a.mp4":
            raise web.HTTPFound("/b.mp4")
        return await store.serve(request)

    await download(result(f"{await serve_app(moved)}/a.mp4"), tmp_path)
    assert store.ranges == [None, "bytes=1000-"]
    assert content(tmp_path) == {"task_1.mp4": VIDEO}
