from __future__ import annotations

import asyncio
import sys
import tempfile
from hashlib import sha256
from typing import TYPE_CHECKING, TypeAlias, cast

import pytest

from kling_async import (
    ConfigurationError,
    DownloadError,
    MasterTextToVideo,
    Polling,
    StorageError,
    TaskRef,
    blocking,
)
from kling_async._storage.objects import Objects
from kling_async.download import archive as archive_module
from kling_async.download.archive import Archive
from kling_async.download.names import alternative_names
from kling_async.results import SavedFile
from kling_async.testing import Emulator
from tests.engines.object_stores import (  # noqa: F401 - fixtures
    az_url,
    azure_server,
    forward,
    gcs_server,
    gs_url,
    s3_server,
    s3_url,
    store_url,
)
from tests.patience import HANGS
from tests.processes import unmeasured

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from aiohttp import web
    from obstore.store import MemoryStore

    from kling_async._storage.opening import BucketStore
    from tests.conftest import Connect, Emulate, ServeApp

REF = TaskRef("kling-2-1", "task_1")
FOX = b"a fox in fresh snow" * 100
CAT = b"a cat, which is another video" * 100
NAMES = alternative_names("fox.mp4", REF)
FIRST, SECOND = next(NAMES), next(NAMES)
URL = "https://cdn.example.com/fox.mp4"

Fetch: TypeAlias = "Callable[[Path], Awaitable[tuple[SavedFile, ...]]]"


def fetching(content: bytes = FOX, name: str = FIRST, digest: str | None = None) -> Fetch:
    """Return what saves a file to a folder, and returns it with its checksum or another one."""

    async def fetch(folder: Path) -> tuple[SavedFile, ...]:
        await asyncio.to_thread((folder / name).write_bytes, content)
        return (SavedFile(URL, name, len(content), digest or sha256(content).hexdigest()),)

    return fetch


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let temporary folders be made in a folder, which is returned."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def memory() -> MemoryStore:
    """Return a store in the memory of this process."""
    from obstore.store import MemoryStore

    return MemoryStore()


@pytest.fixture
def archive(memory: MemoryStore) -> Archive:
    """Return an archive in memory."""
    return Archive(cast("BucketStore", memory))


@pytest.fixture(params=["whole", "parts"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let files be sent in one request, or in parts."""
    if request.param == "parts":
        monkeypatch.setattr(archive_module, "_WHOLE_BYTES", 1)
    return str(request.param)


def objects(store: MemoryStore) -> dict[str, bytes]:
    """Return the content of each object of a store."""
    import obstore

    paths = [meta["path"] for batch in obstore.list(store) for meta in batch]
    return {path: bytes(obstore.get(store, path).bytes()) for path in paths}


@pytest.mark.usefixtures("how")
async def test_saved(archive: Archive, memory: MemoryStore, folders: Path) -> None:
    """A file becomes an object with its name, content and type; nothing else remains."""
    (file,) = await archive.save(REF, fetching())
    assert (file.name, file.size_bytes) == (FIRST, len(FOX))
    assert objects(memory) == {FIRST: FOX}
    assert memory.get(FIRST).attributes == {"Content-Type": "video/mp4"}
    assert list(folders.iterdir()) == []


@pytest.mark.usefixtures("how")
async def test_saved_again(archive: Archive, memory: MemoryStore) -> None:
    """A file that is stored already is not stored twice, also under its second name."""
    await archive.save(REF, fetching(CAT))
    for _ in range(3):
        (file,) = await archive.save(REF, fetching())
        assert file.name == SECOND
    assert objects(memory) == {FIRST: CAT, SECOND: FOX}


async def test_a_name_that_is_taken_meanwhile(
    archive: Archive, memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another process takes the name between look-up and copy, the parts are sent once."""

    async def exists(*_: object) -> bool:
        return False

    monkeypatch.setattr(archive_module, "_WHOLE_BYTES", 1)
    monkeypatch.setattr(Objects, "object_exists", exists)
    memory.put(FIRST, CAT)
    (file,) = await archive.save(REF, fetching())
    assert file.name == SECOND
    assert objects(memory) == {FIRST: CAT, SECOND: FOX}


@pytest.mark.usefixtures("how")
async def test_other_content_of_the_same_size(archive: Archive, memory: MemoryStore) -> None:
    """An object of the same size and other content is another one."""
    memory.put(FIRST, FOX[::-1])
    (file,) = await archive.save(REF, fetching())
    assert file.name == SECOND
    assert objects(memory) == {FIRST: FOX[::-1], SECOND: FOX}


@pytest.mark.usefixtures("how")
async def test_wrong_content(archive: Archive, memory: MemoryStore, folders: Path) -> None:
    """An object whose content is wrong is deleted, and the error may pass and has the task."""
    with pytest.raises(StorageError, match=r"MemoryStore/fox\.mp4 .* another content") as caught:
        await archive.save(REF, fetching(digest="0" * 64))
    assert caught.value.retryable
    assert (caught.value.ref, caught.value.may_have_charged) == (REF, True)
    assert objects(memory) == {}
    assert list(folders.iterdir()) == []


async def test_many_at_one_time(
    archive: Archive, memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several tasks that save the same file at one time make one object."""
    monkeypatch.setattr(archive_module, "_WHOLE_BYTES", 1)
    saved = await asyncio.gather(*(archive.save(REF, fetching()) for _ in range(4)))
    assert {file.name for (file,) in saved} == {FIRST}
    assert objects(memory) == {FIRST: FOX}


async def test_create(archive: Archive, memory: MemoryStore) -> None:
    """A small object is created, and not replaced."""
    await archive.create("fox.mp4.json", b"{}", "application/json")
    await archive.create("fox.mp4.json", b"[]", "application/json")
    assert objects(memory) == {"fox.mp4.json": b"{}"}


async def test_check(archive: Archive, memory: MemoryStore) -> None:
    """An archive is checked with an object that is deleted."""
    await archive.check()
    assert objects(memory) == {}


async def test_a_failed_fetch(archive: Archive, folders: Path) -> None:
    """The error of a download is raised, and the temporary folder is removed."""

    async def fetch(folder: Path) -> tuple[SavedFile, ...]:
        assert await asyncio.to_thread(folder.stat)
        raise DownloadError("cut off")

    with pytest.raises(DownloadError, match="cut off"):
        await archive.save(REF, fetch)
    assert list(folders.iterdir()) == []


async def test_no_temporary_folder(archive: Archive, folders: Path) -> None:
    """Without a temporary folder nothing is fetched."""
    folders.rmdir()
    with pytest.raises(DownloadError, match="cannot create a temporary folder") as caught:
        await archive.save(REF, fetching())
    assert caught.value.ref == REF


def test_url() -> None:
    """The URLs of objects and the archive's name do not have its query."""
    archive = Archive("s3://bucket/a@b/?endpoint=https://minio.example.com")
    assert archive.url_of(FIRST) == "s3://bucket/a@b/fox.mp4"
    assert repr(archive) == "<Archive s3://bucket/a@b>"
    with pytest.raises(ConfigurationError):
        Archive("https://bucket")


async def serve(
    serve_app: ServeApp,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> Archive:
    """Start an S3 server that answers as the function says; return an archive in it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "no secret")
    return Archive(f"s3://bucket/p?endpoint={await serve_app(answer)}")


@pytest.mark.parametrize("denied", ["PUT", "HEAD", "POST"])
async def test_denied(serve_app: ServeApp, monkeypatch: pytest.MonkeyPatch, denied: str) -> None:
    """Where creating, reading or deleting is denied, the check says so; waiting does not help."""
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        if request.method == denied:
            return web.Response(status=403)
        body = "<DeleteResult></DeleteResult>" if request.method == "POST" else ""
        return web.Response(
            body=body,
            headers={"ETag": '"1"', "Last-Modified": "Mon, 05 Jan 2026 00:00:00 GMT"},
        )

    archive = await serve(serve_app, monkeypatch, answer)
    with pytest.raises(StorageError, match="403") as caught:
        await archive.check()
    assert not caught.value.retryable
    assert "no secret" not in str(caught.value)


@pytest.mark.usefixtures("how")
async def test_cancelled(
    serve_app: ServeApp, monkeypatch: pytest.MonkeyPatch, folders: Path, how: str
) -> None:
    """A cancelled upload ends, its folder is removed, and its temporary object is deleted."""
    from aiohttp import web

    asked, seen = asyncio.Event(), []

    async def answer(request: web.Request) -> web.Response:
        text = (await request.read()).decode(errors="replace")
        seen.append(f"{request.method} {text}")
        if request.method == "HEAD":
            return web.Response(status=404)
        if "delete" not in request.query:
            asked.set()
            await asyncio.sleep(5)
        return web.Response(body="<DeleteResult></DeleteResult>")

    archive = await serve(serve_app, monkeypatch, answer)
    task = asyncio.create_task(archive.save(REF, fetching()))
    await asked.wait()
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()
    assert list(folders.iterdir()) == []
    assert any(".uploads/" in one for one in seen if one.startswith("POST")) is (how == "parts")


# With real servers ------------------------------------------------------------------------------

PUT = """
import asyncio, sys
from hashlib import sha256
from kling_async import TaskRef
from kling_async.download.archive import Archive
from kling_async.results import SavedFile

async def fetch(folder):
    content = b"0123456789abcdef" * 1024 * 1280  # 20 MiB
    (folder / "fox.mp4").write_bytes(content)
    return (SavedFile("", "fox.mp4", len(content), sha256(content).hexdigest()),)

async def main():
    (file,) = await Archive(sys.argv[1]).save(TaskRef("kling-2-1", "task_1"), fetch)
    print(file.name)

asyncio.run(main())
"""
LARGE = 20 * 1024**2


async def start(url: str) -> asyncio.subprocess.Process:
    """Start a process that archives a large file."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PUT, url),
        stdout=asyncio.subprocess.PIPE,
        env={**unmeasured(), "TMPDIR": str(tempfile.gettempdir())},
    )


async def size_of(url: str, name: str) -> int | None:
    """Return the size of an object, or None if it does not exist."""
    from kling_async._storage.objects import Objects

    objects = Objects(url)
    return await objects.object_size(name) if await objects.object_exists(name) else None


@pytest.mark.slow
async def test_in_each_store(store_url: str) -> None:  # noqa: F811 - the fixture
    """Each kind of store takes a file once, and keeps others."""
    archive = Archive(store_url)
    await archive.check()
    for content, name in ((CAT, FIRST), (FOX, SECOND), (CAT, FIRST), (FOX, SECOND)):
        (file,) = await archive.save(REF, fetching(content))
        assert file.name == name


@pytest.mark.slow
async def test_client(
    emulate: Emulate,
    connect: Connect,
    s3_url: str,  # noqa: F811 - the fixture
) -> None:
    """A client archives a result, and returns the URLs of the objects."""
    kling = await connect(await emulate(speed=1000.0), polling=Polling(first=0.02))
    result = await kling.generate(MasterTextToVideo("a fox"))
    for _ in range(2):
        (url,) = await kling.archive(result, s3_url, name="fox")
        assert url == f"{s3_url.partition('?')[0]}/fox.mp4"
    assert await size_of(s3_url, "fox.mp4")


@pytest.mark.slow
def test_blocking_client(s3_url: str) -> None:  # noqa: F811 - the fixture
    """The blocking client archives a result, too."""
    with (
        Emulator(video="small", speed=1000.0) as emulator,
        blocking.KlingClient(
            emulator.key, base_url=emulator.base_url, polling=Polling(first=0.02)
        ) as kling,
    ):
        result = kling.generate(MasterTextToVideo("a fox"))
        assert kling.archive(result, s3_url, name="fox") == (f"{s3_url.partition('?')[0]}/fox.mp4",)


@pytest.mark.slow
async def test_four_processes(s3_url: str) -> None:  # noqa: F811 - the fixture
    """Four processes archive the same large video at one time: there is one object."""
    processes = [await start(s3_url) for _ in range(4)]
    outputs = [(await process.communicate())[0] for process in processes]
    assert outputs == [b"fox.mp4\n"] * 4
    assert await size_of(s3_url, "fox.mp4") == LARGE
    assert await size_of(s3_url, SECOND) is None


@pytest.mark.slow
async def test_killed(
    s3_server: str,  # noqa: F811 - the fixture
    s3_url: str,  # noqa: F811 - the fixture
    serve_app: ServeApp,
) -> None:
    """A process that is killed during an upload leaves no object; the next one completes it."""
    part = asyncio.Event()

    async def stop_at_second_part(request: web.Request) -> web.StreamResponse:
        if request.query.get("partNumber") == "2":
            part.set()
            await asyncio.Event().wait()
        return await forward(request, s3_server)

    process = await start(s3_url.replace(s3_server, await serve_app(stop_at_second_part)))
    async with asyncio.timeout(HANGS):
        await part.wait()
    process.kill()
    await process.wait()
    assert await size_of(s3_url, "fox.mp4") is None
    out, _ = await (await start(s3_url)).communicate()
    assert out == b"fox.mp4\n"
    assert await size_of(s3_url, "fox.mp4") == LARGE
