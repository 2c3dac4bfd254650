from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from kling_async import Result, Retry, Snapshot, TaskRef
from kling_async.download import download
from kling_async.errors import ConfigurationError, DownloadError, InputError
from kling_async.results import SavedFile, TaskState

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import ServeApp, ServeRaw

pytestmark = pytest.mark.virtual_time

REF = TaskRef("kling-2-1", "task_1")
VIDEO = bytes(range(256)) * 4096  # a megabyte: several chunks


def result(*urls: str, task_id: str = "task_1") -> Result:
    """Make a result with these URLs."""
    return Result(TaskRef("kling-2-1", task_id), urls)


def content(folder: Path) -> dict[str, bytes]:
    """Read every file of a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def video(_: web.Request) -> web.Response:
    """Answer with the video."""
    return web.Response(body=VIDEO)


async def test_files_are_saved(serve_app: ServeApp, tmp_path: Path) -> None:
    """Each URL becomes a file, in the order of the URLs; nothing else is left."""
    origin = await serve_app(video)
    folder = tmp_path / "a" / "b"
    urls = (f"{origin}/x.mp4?signed=1", f"{origin}/y.MOV", f"{origin}/z")
    files = await download(result(*urls), folder)
    names = ("task_1.mp4", "task_1+2.mov", "task_1+3.mp4")
    digest = sha256(VIDEO).hexdigest()
    assert files == tuple(
        SavedFile(url, name, len(VIDEO), digest) for url, name in zip(urls, names, strict=True)
    )
    assert content(folder) == dict.fromkeys(names, VIDEO)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("result", ["https://host/a.mp4"]),
        ("session", "a session"),
        ("proxies", "http://proxy"),
        ("retry", 3),
    ],
)
async def test_arguments(name: str, value: object, tmp_path: Path) -> None:
    """An argument of another type is refused before anything is requested."""
    arguments: dict[str, Any] = {"result": result("https://host/a.mp4"), name: value}
    with pytest.raises((ConfigurationError, InputError)):
        await download(folder=tmp_path, **arguments)


async def test_a_snapshot_will_do(serve_app: ServeApp, tmp_path: Path) -> None:
    """The snapshot of a finished task can be downloaded too; one without URLs gives nothing."""
    origin = await serve_app(video)
    done = Snapshot(REF, TaskState.SUCCESS, result_urls=(f"{origin}/a.mp4",))
    (file,) = await download(done, tmp_path)
    assert file.name == "task_1.mp4"
    assert await download(Snapshot(REF, TaskState.PENDING), tmp_path) == ()


async def test_existing_files_are_kept(serve_app: ServeApp, tmp_path: Path) -> None:
    """A file that is there is neither fetched nor changed, unless that is asked for."""
    asked = 0

    async def count(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return await video(request)

    url = f"{await serve_app(count)}/a.mp4"
    (tmp_path / "task_1.mp4").write_bytes(b"mine")
    kept = await download(result(url), tmp_path)
    assert asked == 0
    assert kept == (SavedFile(url, "task_1.mp4", 4, sha256(b"mine").hexdigest()),)
    assert content(tmp_path) == {"task_1.mp4": b"mine"}
    await download(result(url), tmp_path, overwrite=True)
    assert asked == 1
    assert content(tmp_path) == {"task_1.mp4": VIDEO}


async def test_the_old_file_outlives_a_failed_download(serve_app: ServeApp, tmp_path: Path) -> None:
    """If fetching again fails, the file that was there is as it was."""

    async def broken(_: web.Request) -> web.Response:
        return web.Response(status=500)

    (tmp_path / "task_1.mp4").write_bytes(b"mine")
    with pytest.raises(DownloadError):
        await download(result(f"{await serve_app(broken)}/a.mp4"), tmp_path, overwrite=True)
    assert content(tmp_path) == {"task_1.mp4": b"mine"}


async def test_the_name_is_given_at_the_end(serve_raw: ServeRaw, tmp_path: Path) -> None:
    """While a file arrives there is only a hidden part file, none with the final name."""
    seen: list[str] = []

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        await asyncio.sleep(10)
        seen.extend(content(tmp_path))
        writer.write(b"world")

    await download(result(f"{await serve_raw(slow)}/a.mp4"), tmp_path)
    assert seen == [".task_1.mp4.part"]
    assert content(tmp_path) == {"task_1.mp4": b"helloworld"}


async def test_two_downloads_at_once(serve_app: ServeApp, tmp_path: Path) -> None:
    """Two downloads of one result into one folder do not disturb each other."""
    one = result(f"{await serve_app(video)}/a.mp4")
    await asyncio.gather(*(download(one, tmp_path, overwrite=True) for _ in range(5)))
    assert content(tmp_path) == {"task_1.mp4": VIDEO}


HEAD = b"HTTP/1.1 200 OK\r\n"


async def test_the_others_are_complete(serve_app: ServeApp, tmp_path: Path) -> None:
    """If the second of two files fails, the first is there, and is kept at the next try."""
    asked: list[str] = []

    async def second_fails(request: web.Request) -> web.Response:
        asked.append(request.path)
        if asked == ["/1.mp4", "/2.mp4"]:
            return web.Response(status=503)
        return await video(request)

    origin = await serve_app(second_fails)
    two = result(f"{origin}/1.mp4", f"{origin}/2.mp4")
    with pytest.raises(DownloadError, match="503"):
        await download(two, tmp_path, retry=Retry(attempts=1))
    assert content(tmp_path) == {"task_1.mp4": VIDEO}
    await download(two, tmp_path)
    assert asked == ["/1.mp4", "/2.mp4", "/2.mp4"]


async def test_a_folder_that_is_a_file(serve_app: ServeApp, tmp_path: Path) -> None:
    """A folder that cannot be made is an error before anything is fetched."""
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(DownloadError, match="folder") as caught:
            await download(result(f"{await serve_app(video)}/a.mp4"), folder)
        assert not caught.value.retryable


# ---------------------------------------------------------------------------------- lent sessions


async def test_nothing_of_a_lent_session_is_sent(serve_app: ServeApp, tmp_path: Path) -> None:
    """Of a lent session only the connections are used: no headers, cookies or base URL of it."""
    seen: list[dict[str, str]] = []

    async def note(request: web.Request) -> web.Response:
        seen.append({name.lower(): value for name, value in request.headers.items()})
        response = await video(request)
        response.set_cookie("c", "d")
        return response

    origin = (await serve_app(note)).replace("127.0.0.1", "localhost")
    headers = {"Authorization": "Bearer secret", "X-Mine": "1"}
    async with aiohttp.ClientSession(
        headers=headers, cookies={"a": "b"}, raise_for_status=True
    ) as session:
        await download(result(f"{origin}/1", f"{origin}/2"), tmp_path, session=session)
        assert not session.closed
    assert len(seen) == 2
    for sent in seen:
        assert not {"authorization", "cookie", "x-mine"} & set(sent)


async def test_a_lent_session_shares_its_connections(serve_raw: ServeRaw, tmp_path: Path) -> None:
    """Files that are fetched with a lent session share its connections."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD + b"Content-Length: 5\r\n\r\nhello")

    url = f"{await serve_raw(serve)}/a.mp4"
    async with aiohttp.ClientSession() as session:
        for number in range(3):
            await download(result(url, task_id=f"t{number}"), tmp_path, session=session)
    assert connections == 1


async def test_a_lent_session_that_is_closed(tmp_path: Path) -> None:
    """A lent session that is closed is an error that says so; nothing is left open."""
    session = aiohttp.ClientSession()
    await session.close()
    with pytest.raises(ConfigurationError, match="closed"):
        await download(result("http://127.0.0.1:1/a.mp4"), tmp_path, session=session)


# ------------------------------------------------------------------------------------------- names


async def test_a_hostile_id_stays_in_the_folder(serve_app: ServeApp, tmp_path: Path) -> None:
    """A task id that is a path is saved in the folder all the same."""
    url = f"{await serve_app(video)}/a.mp4"
    folder = tmp_path / "in"
    (file,) = await download(result(url, task_id="../../out"), folder)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]
    assert content(folder) == {file.name: VIDEO}
