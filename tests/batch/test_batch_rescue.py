from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from kling_async import (
    Batch,
    Item,
    KlingClient,
    MasterTextToVideo,
    RawInput,
    StandardImageToVideo,
)
from kling_async.errors import ConfigurationError, DownloadError, ResultExpiredError
from kling_async.journal.base import ItemState, Planned, Transition
from kling_async.journal.sqlite.journal import SqliteJournal
from kling_async.results import Result, TaskRef
from tests.images.pictures import picture

if TYPE_CHECKING:
    from pathlib import Path

    from kling_async import Outcome
    from tests.batch.conftest import ReadHistories, RunBatch
    from tests.conftest import Connect, Emulate

pytestmark = pytest.mark.virtual_time

S = ItemState


def items(*keys: str) -> list[Item]:
    """Return an item for each key."""
    return [Item(key, MasterTextToVideo(f"fox {key}")) for key in keys]


async def rescue(client: KlingClient, path: Path, folder: Path) -> list[Outcome]:
    """Open the batch, rescue its results, and return the outcomes as they came."""
    async with Batch(client, journal=path, download_to=folder) as batch:
        return [outcome async for outcome in batch.rescue()]


async def test_what_was_not_saved(
    tmp_path: Path,
    path: Path,
    run: RunBatch,
    emulate: Emulate,
    connect: Connect,
    histories: ReadHistories,
) -> None:
    """Finished items are saved; items in any other state stay as they are, and nothing is paid."""
    emulator = await emulate("task:3=stuck")
    client = await connect(emulator)
    await run(client, items("a", "b"))
    await run(client, items("stuck"), timeout=100)
    await run(client, items("planned"), max_tasks=3)
    paid, folder = len(emulator.ledger), tmp_path / "videos"
    outcomes = await rescue(client, path, folder)
    assert {outcome.key: [file.name for file in outcome.files] for outcome in outcomes} == {
        "a": ["a.mp4"],
        "b": ["b.mp4"],
    }
    states = {key: states[-1] for key, states in (await histories()).items()}
    assert states == {"a": S.SAVED, "b": S.SAVED, "stuck": S.SUBMITTED, "planned": S.PLANNED}
    assert await rescue(client, path, folder) == []
    assert len(emulator.ledger) == paid


async def test_an_input_with_a_local_image(
    tmp_path: Path, path: Path, run: RunBatch, emulate: Emulate, connect: Connect
) -> None:
    """The result of an input with a local image is saved like any other."""
    image = tmp_path / "fox.png"
    image.write_bytes(picture())
    emulator = await emulate(uploads=True)
    client = await connect(emulator, image_store=emulator.image_store)
    await run(client, [Item("fox", StandardImageToVideo("pan left", image))])
    (outcome,) = await rescue(client, path, tmp_path / "videos")
    assert [file.name for file in outcome.files] == ["fox.mp4"]


async def test_an_input_of_another_version(
    tmp_path: Path, path: Path, run: RunBatch, emulate: Emulate, connect: Connect
) -> None:
    """A result is saved though this version does not accept its input any more."""
    client = await connect(await emulate())
    await run(client, items("a", "b"))
    with closing(sqlite3.connect(path)) as journal:
        journal.execute("UPDATE items SET input = json_set(input, '$.prompt', '') WHERE key = 'a'")
        journal.commit()
    outcomes = await rescue(client, path, tmp_path / "videos")
    assert {outcome.key: outcome.files[0].name for outcome in outcomes} == {
        "a": "a.mp4",
        "b": "b.mp4",
    }
    (raw,) = (outcome.input for outcome in outcomes if outcome.key == "a")
    assert isinstance(raw, RawInput)
    assert raw.fields["prompt"] == ""


async def finish(path: Path, ages: dict[str, int], url: str) -> None:
    """Write a journal in which items have finished this number of days ago."""
    async with SqliteJournal(path) as journal:
        await journal.plan([Planned(item.key, item.input.to_dict()) for item in items(*ages)])
        for key, days in ages.items():
            at, ref = datetime.now(UTC) - timedelta(days=days), TaskRef("kling-2-1", f"task_{key}")
            result = Result(ref, (f"{url}/{key}.mp4",), completed_at=at)
            await journal.record(Transition(key, S.SUBMITTING, at))
            await journal.record(Transition(key, S.SUBMITTED, at, ref))
            await journal.record(Transition(key, S.FINISHED, at, result=result))


async def test_the_oldest_first(
    tmp_path: Path, path: Path, emulate: Emulate, connect: Connect
) -> None:
    """The oldest results, whose URLs expire next, are saved first."""
    emulator = await emulate("file:*=404", "status:*=404")
    client = await connect(emulator)
    await finish(path, {"new": 1, "old": 14, "older": 20}, f"{emulator.origin}/files")
    async with Batch(client, journal=path, download_to=tmp_path / "v", in_flight=1) as batch:
        assert [outcome.key async for outcome in batch.rescue()] == ["older", "old", "new"]


async def test_what_is_lost(
    tmp_path: Path, path: Path, emulate: Emulate, connect: Connect, histories: ReadHistories
) -> None:
    """A result whose URL has expired, and that the service has no more, is reported as lost."""
    emulator = await emulate("file:*=404", "status:*=404")
    client = await connect(emulator)
    await finish(path, {"lost": 20}, f"{emulator.origin}/files")
    (outcome,) = await rescue(client, path, tmp_path / "v")
    assert isinstance(outcome.error, ResultExpiredError)
    assert not outcome.error.retryable
    assert (await histories())["lost"][-1] is S.FINISHED  # a later call tries again


async def test_what_cannot_be_saved_now(
    tmp_path: Path, path: Path, emulate: Emulate, connect: Connect
) -> None:
    """A result that is only unavailable is not lost."""
    emulator = await emulate("file:*=503")
    client = await connect(emulator)
    await finish(path, {"later": 2}, f"{emulator.origin}/files")
    (outcome,) = await rescue(client, path, tmp_path / "v")
    assert isinstance(outcome.error, DownloadError)
    assert not isinstance(outcome.error, ResultExpiredError)


async def test_without_a_folder(path: Path, emulate: Emulate, connect: Connect) -> None:
    """Without a folder there is nothing to do, which is an error of the call."""
    async with Batch(await connect(await emulate()), journal=path) as batch:
        with pytest.raises(ConfigurationError, match="download_to"):
            batch.rescue()
