from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from kling_async import (
    ConfigurationError,
    InputError,
    Item,
    JournalError,
    MasterTextToVideo,
    StandardImageToVideo,
)
from kling_async.fleet import Enqueued, Queue, Worker
from tests.engines.postgres import PASSWORD
from tests.fleet.conftest import items
from tests.images.pictures import picture

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from kling_async import Outcome
    from kling_async.testing import Emulator
    from tests.conftest import Emulate
    from tests.fleet.conftest import Dial, ReadEntries, ReadJobs


async def test_planned_and_put(url: str, entries: ReadEntries, jobs: ReadJobs) -> None:
    """Items are written in the journal and enqueued, each once."""
    async with Queue(url) as queue:
        assert await queue.put(items(3)) == Enqueued(added=3)
        assert await queue.put(items(5)) == Enqueued(added=2, waiting=3)
    assert list(await entries()) == [item.key for item in items(5)]
    assert len(await jobs()) == 5


async def test_more_than_one_commit(url: str, jobs: ReadJobs) -> None:
    """Very many items are enqueued in several commits, and counted together."""
    async with Queue(url) as queue:
        assert await queue.put(iter(items(1_200))) == Enqueued(added=1_200)
    assert len(await jobs()) == 1_200


async def test_inputs_as_they_come(url: str, entries: ReadEntries) -> None:
    """An async iterable of inputs is accepted; the key of an input is its checksum."""

    async def come() -> AsyncIterator[MasterTextToVideo]:
        for number in (1, 2, 1):
            yield MasterTextToVideo(f"{number}")

    async with Queue(url) as queue:
        assert await queue.put(come()) == Enqueued(added=2, waiting=1)
    assert [entry.input["prompt"] for entry in (await entries()).values()] == ["1", "2"]


async def test_what_has_ended_stays_out(
    emulate_failing: Emulator, dial: Dial, url: str, jobs: ReadJobs
) -> None:
    """A finished, failed or unsure item is not enqueued again."""
    async with Queue(url) as queue:
        await queue.put(items(3))
        await Worker(await dial(emulate_failing), url, until_empty=True).run()
        assert await queue.put(items(4)) == Enqueued(added=1, ended=3)
    assert len(await jobs()) == 1


@pytest.fixture
async def emulate_failing(emulate: Emulate) -> Emulator:
    """Run a service with which one task fails, and one answer is lost."""
    return await emulate("task:1=fail:NSFW_DETECTED", "submit:3=lost-answer", speed=300.0)


async def test_another_input_of_that_name(url: str, jobs: ReadJobs) -> None:
    """A key that the journal has with another input is refused, and not enqueued."""
    async with Queue(url) as queue:
        await queue.put(items(1))
        with pytest.raises(JournalError, match="another input"):
            await queue.put([Item("key 0", MasterTextToVideo("a cat"))])
        with pytest.raises(InputError, match="not an input"):
            await queue.put(["a fox"])  # type: ignore[list-item]
    assert len(await jobs()) == 1


async def test_the_name_of_a_batch(url: str, postgres_url: str) -> None:
    """The name of the batch is in the URL or an argument, and is the name of the queue."""
    async with Queue(url) as one, Queue(postgres_url, name="foxes") as other:
        assert (await one.put(items(1))).added == 1
        assert (await other.put(items(1))).waiting == 1
    async with Queue(postgres_url) as another:
        assert (await another.put(items(1))).added == 1
    with pytest.raises(ConfigurationError, match="two names"):
        Queue(url, name="wolves")


async def test_not_open(url: str) -> None:
    """A queue that is not open raises an error."""
    queue = Queue(url)
    with pytest.raises(ConfigurationError, match="not open"):
        await queue.put(items(1))
    async with queue:
        with pytest.raises(InputError, match="pass an iterable of inputs"):
            await queue.put(MasterTextToVideo("a fox"))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="not open"):
        await queue.put(items(1))
    assert PASSWORD not in repr(queue)
    assert "foxes" in repr(queue)


async def test_a_table_of_others(postgres_url: str) -> None:
    """A table of that name that is not pgqueuer's is an error of the queue only."""
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as db:
        await db.execute("CREATE TABLE pgqueuer (id int)")
    queue = Queue(postgres_url)
    for _ in range(2):
        async with queue:
            with pytest.raises(JournalError, match="queue"):
                await queue.put(items(1))


async def test_images_are_stored_before_they_are_enqueued(
    emulate: Emulate, dial: Dial, url: str, tmp_path: Path
) -> None:
    """A worker on another machine, which has no file of an image, finds it in the store."""
    emulator = await emulate(uploads=True, speed=1000.0)
    path = tmp_path / "cat.gif"
    put = [Item(name, StandardImageToVideo(name, path)) for name in ("pan", "up")]
    async with Queue(url) as queue:
        with pytest.raises(InputError, match="must be a file that can be read"):
            await queue.put(put)
        path.write_bytes(picture("GIF"))
        with pytest.raises(InputError, match=r"image_store=.* KLING_IMAGE_STORE"):
            await queue.put(put)
    async with Queue(url, image_store=emulator.image_store) as queue:
        with pytest.raises(InputError, match="must be a JPEG, PNG or WebP picture"):
            await queue.put(put)
    async with Queue(url, image_store=emulator.image_store, fix_images=True) as queue:
        assert (await queue.put(put)).added == 2
        path.unlink()
        kling = await dial(emulator, image_store=emulator.image_store, fix_images=True)
        outcomes: list[Outcome] = []
        await Worker(kling, url, until_empty=True).run(outcomes.append)
    assert [outcome.error for outcome in outcomes] == [None, None]
    (one,) = {str(entry.input["image_urls"]) for entry in emulator.ledger}
    assert one.endswith("-fix.jpg']")
