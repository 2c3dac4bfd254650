from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from kling_async import BalanceError, Batch, InputError, Item, JournalError, MasterTextToVideo
from kling_async.fleet.item_stream import Feed
from kling_async.journal.sqlite.journal import SqliteJournal
from tests.fleet.conftest import items, prompts, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from kling_async import Outcome
    from kling_async.testing import Emulator
    from tests.conftest import Emulate
    from tests.fleet.conftest import Dial


@pytest.fixture
async def feed(emulator: Emulator, dial: Dial, tmp_path: Path) -> AsyncIterator[Feed]:
    """Open a batch, and make a feed of it; it does not run."""
    journal = SqliteJournal(tmp_path / "journal")
    async with Batch(await dial(emulator), journal=journal) as batch:
        yield Feed(batch, journal)


async def test_each_is_told(emulator: Emulator, feed: Feed) -> None:
    """What is put in is brought to its end and told, to who has put it in and to who runs it."""
    told: list[Outcome] = []
    running = asyncio.create_task(feed.run(told.append))
    await feed.hungry.wait()
    futures = await feed.put(items(3))
    assert not feed.hungry.is_set()
    assert len(feed) == 3
    outcomes = await asyncio.gather(*futures)
    assert [outcome.key for outcome in outcomes] == ["key 0", "key 1", "key 2"]
    assert all(outcome.result for outcome in outcomes)
    assert sorted(told, key=lambda outcome: str(outcome.key)) == outcomes
    assert len(feed) == 0
    assert await feed.put([]) == []
    feed.end()
    await running
    assert len(emulator.ledger) == 3


async def test_the_same_again(emulator: Emulator, feed: Feed) -> None:
    """An item that is put in again is paid once: it is told with the first, or told again."""
    running = asyncio.create_task(feed.run())
    (one,), (other,) = await feed.put(items(1)), await feed.put(items(1))
    assert one is other
    one.cancel()
    (other,) = await feed.put(items(1))
    first = await other
    (again,) = await feed.put(items(1))
    assert (await again).result == first.result
    feed.end()
    await running
    assert prompts(emulator) == ["0"]


async def test_one_is_refused(feed: Feed) -> None:
    """Of many that are put in at once, only the one that the journal refuses is."""
    running = asyncio.create_task(feed.run())
    await feed.put(items(1))
    wrong = Item("key 0", MasterTextToVideo("a cat"))
    refused, other = await feed.put([wrong, *items(1, 1)])
    with pytest.raises(InputError, match="another input"):
        await refused
    assert (await other).key == "key 1"
    feed.end()
    await running


async def test_the_journal_fails(emulator: Emulator, dial: Dial, tmp_path: Path) -> None:
    """A journal that cannot be used is no fault of the items."""
    journal = SqliteJournal(tmp_path / "journal")
    feed = Feed(Batch(await dial(emulator), journal=journal), journal)
    with pytest.raises(JournalError, match="not open"):
        await feed.put(items(1))


async def test_ended_early(emulator: Emulator, feed: Feed) -> None:
    """After its end nothing is begun; what was begun is brought to its end."""
    futures = await feed.put(items(2))
    feed.end()
    assert len(feed) == 0
    futures += await feed.put(items(1, 2))
    await feed.run()
    assert not any(future.done() for future in futures)
    assert len(emulator.ledger) == 0
    feed.fail(JournalError("it is over"))
    with pytest.raises(JournalError, match="it is over"):
        await futures[2]
    (late,) = await feed.put(items(1))
    with pytest.raises(JournalError, match="it is over"):
        await late


async def test_no_money(emulate: Emulate, dial: Dial, tmp_path: Path) -> None:
    """Without money the run ends by itself, and what was not begun may be told why."""
    emulator = await emulate("submit:*=402", speed=300.0)
    journal = SqliteJournal(tmp_path / "journal")
    async with Batch(await dial(emulator), journal=journal) as batch:
        feed = Feed(batch, journal)
        one, other = await feed.put(items(2))
        other.cancel()
        with pytest.raises(BalanceError) as error:
            await feed.run()
        feed.fail(error.value)
        with pytest.raises(BalanceError):
            await one


async def test_who_has_gone_is_not_told(emulator: Emulator, feed: Feed) -> None:
    """An item of which nobody wants to know any more is brought to its end all the same."""
    told: list[Outcome] = []
    (future,) = await feed.put(items(1))
    running = asyncio.create_task(feed.run(told.append))
    await asyncio.sleep(0.05)
    future.cancel()
    await until(lambda: told)
    feed.end()
    await running
    assert len(emulator.ledger) == 1
