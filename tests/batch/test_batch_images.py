from __future__ import annotations

import sqlite3
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from kling_async import (
    Batch,
    InputError,
    Item,
    JournalError,
    Outcome,
    StandardImageToVideo,
    StorageError,
    TaskTimeoutError,
)
from kling_async.batch.decisions import content_key
from kling_async.journal.base import ItemState
from tests.images.pictures import MemoryStore, picture
from tests.images.test_preparer import SlowStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Connect, Emulate

pytestmark = pytest.mark.virtual_time

CAT, DOG = picture(), picture(color="brown")
SHA = sha256(CAT).hexdigest()


async def run(batch: Batch, items: list[StandardImageToVideo | Item] | None) -> list[Outcome]:
    """Run a batch; return its outcomes."""
    return [outcome async for outcome in batch.run(items, ordered=True)]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, bytes], Path]:
    """Write a picture to a folder."""

    def write(name: str, content: bytes = CAT) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    return write


async def test_the_journal(
    emulate: Emulate, connect: Connect, tmp_path: Path, write: Callable[..., Path]
) -> None:
    """The journal has the checksum of an image and its place, but no URL and no signature."""
    emulator = await emulate(uploads=True)
    kling = await connect(emulator, image_store=MemoryStore(f"{emulator.origin}/x"))
    path = write("cat.jpg")
    journal = tmp_path / "run.sqlite"
    async with Batch(kling, journal=journal) as batch:
        (outcome,) = await run(batch, [StandardImageToVideo("pan", path)])
    assert outcome.input.local_images["image_url"].sha256 == SHA
    assert outcome.task_ref is not None
    database = sqlite3.connect(journal)
    text = "\n".join(database.iterdump())
    database.close()
    assert f"kling-image:{SHA}.jpg?path={path}" in text
    assert "sig=secret" not in text


async def test_resumed_elsewhere(
    emulate: Emulate, connect: Connect, tmp_path: Path, write: Callable[..., Path]
) -> None:
    """A batch continues without the files, if they are stored; equal images are equal inputs."""
    emulator = await emulate(uploads=True)
    path, journal = write("a/cat.jpg"), tmp_path / "run.sqlite"
    items: list[StandardImageToVideo | Item] = [
        Item("named", StandardImageToVideo("pan", path)),
        StandardImageToVideo("pan", path),
    ]
    store = emulator.image_store
    async with Batch(
        await connect(emulator, image_store=store), journal=journal, max_tasks=1
    ) as batch:
        first = await run(batch, items)
    path.unlink()
    kling = await connect(emulator, image_store=store)
    async with Batch(kling, journal=journal) as batch:
        second = await run(batch, None)
    moved = write("b/cat.jpg")
    items = [Item("named", StandardImageToVideo("pan", moved)), StandardImageToVideo("pan", CAT)]
    async with Batch(kling, journal=journal) as batch:
        third = await run(batch, items)
    assert [outcome.error for outcome in (*first, *second, *third)] == [None] * 5
    assert [o.result for o in third] == [o.result for o in second]
    assert len(emulator.ledger) == 2


async def test_another_picture(
    emulate: Emulate, connect: Connect, tmp_path: Path, write: Callable[..., Path]
) -> None:
    """A file with another content is another input: its key in the journal has another one."""
    emulator = await emulate(uploads=True)
    kling = await connect(emulator, image_store=emulator.image_store)
    path = write("cat.jpg")
    items: list[StandardImageToVideo | Item] = [Item("named", StandardImageToVideo("pan", path))]
    async with Batch(kling, journal=tmp_path / "run.sqlite") as batch:
        await run(batch, items)
        write("cat.jpg", DOG)
        with pytest.raises(JournalError, match="in the journal with another input"):
            await run(batch, items)
        with pytest.raises(InputError, match="not an input"):
            await run(batch, [StandardImageToVideo("pan", DOG), "a fox"])  # type: ignore[list-item]
    assert len(emulator.ledger) == 1


async def test_an_unreadable_picture(
    emulate: Emulate, connect: Connect, tmp_path: Path, write: Callable[..., Path]
) -> None:
    """A picture that cannot be read is the error of its item, also of one that has ended.

    The other items are not concerned, and neither is the task of that item, which is waited for.
    """
    emulator = await emulate(uploads=True)
    kling = await connect(emulator, image_store=emulator.image_store)
    gone, kept = write("gone.jpg"), write("kept.jpg", DOG)
    items: list[StandardImageToVideo | Item] = [
        Item("named", StandardImageToVideo("pan", gone)),
        StandardImageToVideo("pan", gone),
        Item("kept", StandardImageToVideo("pan", kept)),
    ]
    journal = tmp_path / "run.sqlite"
    async with Batch(kling, journal=journal, timeout=0.001) as batch:
        for outcome in await run(batch, items):
            assert isinstance(outcome.error, TaskTimeoutError)
    gone.unlink()
    async with Batch(kling, journal=journal) as batch:
        first = await run(batch, items)
        assert batch.counts == {ItemState.FINISHED: 3, ItemState.SUBMITTED: 0}
        second = await run(batch, items)
    assert {outcome.key: outcome.result is None for outcome in first[3:]} == {
        "named": False,
        content_key(first[4].input.to_dict()): False,
    }
    for outcomes in (first[:3], second):
        named, unnamed, other = outcomes
        for index, outcome in enumerate((named, unnamed)):
            assert isinstance(outcome.error, InputError)
            assert "must be a file that can be read" in str(outcome.error)
            assert (outcome.index, outcome.result, outcome.task_ref) == (index, None, None)
        assert (named.key, unnamed.key, unnamed.input) == ("named", None, items[1])
        assert other.error is None
    assert len(emulator.ledger) == 3


async def test_a_failed_upload(emulate: Emulate, connect: Connect, tmp_path: Path) -> None:
    """An item whose upload fails stays planned, and the next run pays for it once."""
    emulator = await emulate()
    items: list[StandardImageToVideo | Item] = [
        StandardImageToVideo("pan", CAT),
        StandardImageToVideo("pan", b"a poem"),
    ]
    journal = tmp_path / "run.sqlite"
    store = SlowStore(5, StorageError("full", retryable=True))
    async with Batch(await connect(emulator, image_store=store), journal=journal) as batch:
        full, wrong = await run(batch, items)
        assert (full.error.args, type(wrong.error)) == (("full",), StorageError)  # type: ignore[union-attr]
        assert batch.counts[ItemState.PLANNED] == 2
    assert not emulator.ledger
    store.error = None
    async with Batch(await connect(emulator, image_store=store), journal=journal) as batch:
        done, wrong = await run(batch, items)
        assert batch.counts[ItemState.FAILED] == 2  # the emulator cannot fetch the other one
    assert done.task_ref is not None
    assert "must be a JPEG, PNG or WebP picture" in str(wrong.error)
    assert len(emulator.ledger) == 1
