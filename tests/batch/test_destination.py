from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, cast

import pytest

from kling_async import (
    Batch,
    BatchOptions,
    ConfigurationError,
    Item,
    MasterTextToVideo,
    Polling,
    StorageError,
)
from kling_async._storage.objects import Objects
from kling_async.batch.destination import (
    ArchiveDestination,
    FolderDestination,
    open_destination,
)
from kling_async.download.archive import Archive
from kling_async.journal.base import ItemState
from tests.engines.object_stores import forward, s3_server, s3_url  # noqa: F401 - fixtures
from tests.patience import HANGS
from tests.processes import unmeasured

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp import web
    from obstore.store import MemoryStore

    from kling_async._storage.opening import BucketStore
    from tests.batch.conftest import ReadHistories, RunBatch
    from tests.conftest import Connect, Emulate, ServeApp

FAST = Polling(first=0.02)
FOX = MasterTextToVideo("a fox in fresh snow")
PLACE = "s3://bucket/videos?endpoint=https://minio.example.com"


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """Let the archive of a batch be in the memory of this process."""
    from obstore.store import MemoryStore

    memory = MemoryStore()
    archived = ArchiveDestination(Archive(cast("BucketStore", memory)))
    monkeypatch.setattr("kling_async.batch.runner.open_destination", lambda _: archived)
    return memory


def names(memory: MemoryStore) -> list[str]:
    """Return the names of the objects of a store."""
    return sorted(meta["path"] for batch in memory.list() for meta in batch)


def test_open(tmp_path: Path) -> None:
    """A URL is an archive, and anything else a folder."""
    assert isinstance(open_destination(tmp_path), FolderDestination)
    assert isinstance(open_destination("videos"), FolderDestination)
    assert isinstance(open_destination(PLACE), ArchiveDestination)


@pytest.mark.parametrize("url", ["https://example.com/videos", "s3://", "s3://bucket?key=SECRET"])
def test_other_urls(url: str) -> None:
    """Any other URL is refused with the options."""
    with pytest.raises(ConfigurationError) as caught:
        BatchOptions(download_to=url)
    assert "SECRET" not in str(caught.value)


@pytest.mark.slow
async def test_archived(
    emulate: Emulate, connect: Connect, run: RunBatch, histories: ReadHistories, memory: MemoryStore
) -> None:
    """A batch stores the video and its manifest; its second run repeats nothing."""
    emulator = await emulate(speed=1000.0)
    client = await connect(emulator, polling=FAST)
    for _ in range(2):
        (outcome,) = await run(client, [Item("fox", FOX)], download_to=PLACE)
        assert (outcome.files, outcome.archived) == ((), ("MemoryStore/fox.mp4",))
        assert str(outcome).endswith(": MemoryStore/fox.mp4")
    assert len(emulator.ledger) == 1
    assert names(memory) == ["fox.mp4", "fox.mp4.json"]
    manifest = json.loads(bytes(memory.get("fox.mp4.json").bytes()))
    assert (manifest["file"], manifest["key"]) == ("fox.mp4", "fox")
    assert manifest["size_bytes"] == len(memory.get("fox.mp4").bytes())
    assert (await histories())["fox"][-1] is ItemState.SAVED


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True], ids=["file", "shared"])
async def test_saved_elsewhere(
    *,
    shared: bool,
    emulate: Emulate,
    connect: Connect,
    tmp_path: Path,
    s3_url: str,  # noqa: F811 - the fixture
    request: pytest.FixtureRequest,
) -> None:
    """What a folder has is not in an archive, and the reverse: the next run saves it there."""
    emulator = await emulate(speed=1000.0)
    client = await connect(emulator, polling=FAST)
    folder = tmp_path / "videos"
    journal = request.getfixturevalue("postgres_url") if shared else tmp_path / "run.sqlite"

    async def save(download_to: str | Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
        async with Batch(client, journal=journal, download_to=download_to) as batch:
            (outcome,) = [outcome async for outcome in batch.run([Item("fox", FOX)])]
        assert (outcome.error, outcome.done_by_other) == (None, False)
        return outcome.files, outcome.archived

    await save(folder)
    for url in (s3_url, s3_url.replace("?", "/other?")):
        assert await save(url) == ((), (f"{url.partition('?')[0]}/fox.mp4",))
        assert await Objects(url).object_size("fox.mp4")
    (folder / "fox.mp4").write_bytes(b"of another batch")
    (saved,), archived = await save(folder)
    assert saved.name.startswith("fox+")
    assert archived == ()
    assert len(emulator.ledger) == 1


@pytest.mark.slow
async def test_a_taken_name(
    emulate: Emulate, connect: Connect, run: RunBatch, memory: MemoryStore
) -> None:
    """Where another video has the name, the video and its manifest get another one."""
    memory.put("fox.mp4", b"of another batch")
    client = await connect(await emulate(speed=1000.0), polling=FAST)
    (outcome,) = await run(client, [Item("fox", FOX)], download_to=PLACE)
    (url,) = outcome.archived
    name = url.partition("/")[2]
    assert name.startswith("fox+")
    assert names(memory) == sorted(["fox.mp4", name, f"{name}.json"])
    assert json.loads(bytes(memory.get(f"{name}.json").bytes()))["file"] == name


@pytest.mark.slow
async def test_without_manifests(
    emulate: Emulate, connect: Connect, run: RunBatch, memory: MemoryStore
) -> None:
    """Without manifests there are only videos."""
    client = await connect(await emulate(speed=1000.0), polling=FAST)
    await run(client, [Item("fox", FOX)], download_to=PLACE, manifest="none")
    assert names(memory) == ["fox.mp4"]


@pytest.mark.slow
async def test_rescued_and_inspected(
    emulate: Emulate, connect: Connect, run: RunBatch, memory: MemoryStore, path: Path
) -> None:
    """A rescue stores what was not saved, and what the video contains is in its manifest."""
    client = await connect(await emulate(speed=1000.0), polling=FAST)
    await run(client, [Item("fox", FOX)])
    async with Batch(client, journal=path, download_to=PLACE, manifest="media") as batch:
        (outcome,) = [outcome async for outcome in batch.rescue()]
    (facts,) = outcome.media
    assert outcome.archived == ("MemoryStore/fox.mp4",)
    assert facts.width > 0
    manifest = json.loads(bytes(memory.get("fox.mp4.json").bytes()))
    assert manifest["media"] == facts.to_dict()


# With a real server ------------------------------------------------------------------------------


@pytest.mark.slow
async def test_denied(
    emulate: Emulate,
    connect: Connect,
    run: RunBatch,
    s3_url: str,  # noqa: F811 - the fixture
) -> None:
    """An archive that cannot be used ends the run before anything is paid."""
    emulator = await emulate(speed=1000.0)
    other = s3_url.replace("//bucket/", "//other-bucket/")
    with pytest.raises(StorageError, match="NoSuchBucket"):
        await run(await connect(emulator, polling=FAST), [Item("fox", FOX)], download_to=other)
    assert not emulator.ledger


BATCH = """
import asyncio, sys
from kling_async import Batch, Item, KlingClient, MasterTextToVideo, Polling

async def main():
    url, key, journal, place = sys.argv[1:]
    async with (
        KlingClient(key, base_url=url, polling=Polling(first=0.05)) as kling,
        Batch(kling, journal=journal, download_to=place) as batch,
    ):
        async for outcome in batch.run([Item("fox", MasterTextToVideo("a fox"))]):
            print(outcome.archived[0] if outcome.archived else outcome.error)

asyncio.run(main())
"""


@pytest.mark.slow
async def test_killed(
    emulate: Emulate,
    path: Path,
    s3_server: str,  # noqa: F811 - the fixture
    s3_url: str,  # noqa: F811 - the fixture
    serve_app: ServeApp,
) -> None:
    """A batch is killed while it archives: the next run archives the video, and pays nothing."""
    video = asyncio.Event()

    async def stop_at_video(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("fox.mp4"):
            video.set()
            await asyncio.Event().wait()
        return await forward(request, s3_server)

    emulator = await emulate(speed=1000.0, video="small")

    async def start(place: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", BATCH, emulator.base_url, emulator.key, str(path), place),
            stdout=asyncio.subprocess.PIPE,
            env=unmeasured(),
        )

    process = await start(s3_url.replace(s3_server, await serve_app(stop_at_video)))
    async with asyncio.timeout(HANGS):
        await video.wait()
    process.kill()
    await process.wait()
    out, _ = await (await start(s3_url)).communicate()
    assert out.decode().strip() == f"{s3_url.partition('?')[0]}/fox.mp4"
    assert len(emulator.ledger) == 1
