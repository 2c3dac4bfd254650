from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from kling_async import BalanceError, Batch, InputError, Item, JournalError, MasterTextToVideo
from kling_async.fleet.item_stream import ItemStream
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
async def stream(emulator: Emulator, dial: Dial, tmp_path: Path) -> AsyncIterator[ItemStream]:
    """Open a batch, and return a stream of it that does not run yet."""
    journal = SqliteJournal(tmp_path / "journal")
    async with Batch(await dial(emulator), journal=journal) as batch:
        yield ItemStream(batch, journal)


async def test_outcomes(emulator: Emulator, stream: ItemStream) -> None:
    """The outcome of an item is the result of its future, and is passed to on_outcome."""
    outcomes: list[Outcome] = []
    running = asyncio.create_task(stream.run(outcomes.append))
    await stream.ready.wait()
    futures = await stream.put(items(3))
    assert not stream.ready.is_set()
    assert len(stream) == 3
    results = await asyncio.gather(*futures)
    assert [outcome.key for outcome in results] == ["key 0", "key 1", "key 2"]
    assert all(outcome.result for outcome in results)
    assert sorted(outcomes, key=lambda outcome: str(outcome.key)) == results
    assert len(stream) == 0
    assert await stream.put([]) == []
    stream.close()
    await running
    assert len(emulator.ledger) == 3


async def test_the_same_again(emulator: Emulator, stream: ItemStream) -> None:
    """An item that is put again is paid once: it has the same future, or the same result."""
    running = asyncio.create_task(stream.run())
    (one,), (other,) = await stream.put(items(1)), await stream.put(items(1))
    assert one is other
    one.cancel()
    (other,) = await stream.put(items(1))
    first = await other
    (again,) = await stream.put(items(1))
    assert (await again).result == first.result
    stream.close()
    await running
    assert prompts(emulator) == ["0"]


async def test_one_is_refused(stream: ItemStream) -> None:
    """Of many items that are put at once, only the one that the journal refuses fails."""
    running = asyncio.create_task(stream.run())
    await stream.put(items(1))
    wrong = Item("key 0", MasterTextToVideo("a cat"))
    refused, other = await stream.put([wrong, *items(1, 1)])
    with pytest.raises(InputError, match="another input"):
        await refused
    assert (await other).key == "key 1"
    stream.close()
    await running


async def test_the_journal_fails(emulator: Emulator, dial: Dial, tmp_path: Path) -> None:
    """If the journal cannot be used, put() raises, and no item fails."""
    journal = SqliteJournal(tmp_path / "journal")
    stream = ItemStream(Batch(await dial(emulator), journal=journal), journal)
    with pytest.raises(JournalError, match="not open"):
        await stream.put(items(1))


async def test_ended_early(emulator: Emulator, stream: ItemStream) -> None:
    """After its end a stream begins with nothing more."""
    futures = await stream.put(items(2))
    stream.close()
    assert len(stream) == 0
    futures += await stream.put(items(1, 2))
    await stream.run()
    assert not any(future.done() for future in futures)
    assert len(emulator.ledger) == 0
    stream.fail_all(JournalError("it is over"))
    with pytest.raises(JournalError, match="it is over"):
        await futures[2]
    (late,) = await stream.put(items(1))
    with pytest.raises(JournalError, match="it is over"):
        await late


@pytest.mark.slow
async def test_no_money(emulate: Emulate, dial: Dial, tmp_path: Path) -> None:
    """If the balance is too low the run ends, and the other items may fail with its error."""
    emulator = await emulate("submit:*=402", speed=300.0)
    journal = SqliteJournal(tmp_path / "journal")
    async with Batch(await dial(emulator), journal=journal) as batch:
        stream = ItemStream(batch, journal)
        one, other = await stream.put(items(2))
        other.cancel()
        with pytest.raises(BalanceError) as error:
            await stream.run()
        stream.fail_all(error.value)
        with pytest.raises(BalanceError):
            await one


async def test_a_cancelled_future(emulator: Emulator, stream: ItemStream) -> None:
    """An item whose future was cancelled is processed all the same."""
    outcomes: list[Outcome] = []
    (future,) = await stream.put(items(1))
    running = asyncio.create_task(stream.run(outcomes.append))
    await asyncio.sleep(0.05)
    future.cancel()
    await until(lambda: outcomes)
    stream.close()
    await running
    assert len(emulator.ledger) == 1
