"""Several workers that share one batch."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

import psycopg
import pytest

from kling_async import Batch, Item, MasterTextToVideo, Retry, TaskRef
from kling_async.errors import AnswerLostError, DownloadError, JournalError, TaskFailedError
from kling_async.journal.base import ItemState, Planned, Transition
from kling_async.journal.postgres.journal import PostgresJournal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from pathlib import Path

    from kling_async import KlingClient, Outcome
    from kling_async.journal.postgres._workers import WorkerInfo
    from kling_async.testing import Emulator
    from tests.conftest import Connect, Emulate

pytestmark = pytest.mark.virtual_time

S = ItemState
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def items(*numbers: int) -> Iterator[Item]:
    """Yield the items with these numbers."""
    for number in numbers:
        yield Item(f"key {number}", MasterTextToVideo(f"{number}"))


def keys(outcomes: Iterable[Outcome]) -> list[str]:
    """Return the numbers of the items."""
    return [str(outcome.key).removeprefix("key ") for outcome in outcomes]


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


class OpenStream:
    """A stream of items that is open until it is closed."""

    def __init__(self, *given: int) -> None:
        self._queue: asyncio.Queue[Item | None] = asyncio.Queue()
        self.add(*given)

    def add(self, *numbers: int) -> None:
        for item in items(*numbers):
            self._queue.put_nowait(item)

    def close(self) -> None:
        self._queue.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[Item]:
        while (item := await self._queue.get()) is not None:
            yield item


class Ghost:
    """A worker that owns items and does nothing with them, until its lease ends."""

    def __init__(self, url: str) -> None:
        self.journal = PostgresJournal(url, lease=1e6)  # it renews its lease once
        self._url = url

    async def __aenter__(self) -> Self:
        await self.journal.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.journal.close()

    async def claim(self, *numbers: int, ref: str | None = None) -> None:
        """Claim items: planned, or submitted as the same task."""
        given = [Planned(item.key, item.input.to_dict()) for item in items(*numbers)]
        await self.journal.claim(*await self.journal.plan(given))
        if ref is not None:
            at, task = datetime.now(UTC), TaskRef("kling-2-1", ref)
            moves = [Transition(item.key, S.SUBMITTING, NOW) for item in given]
            moves += [Transition(item.key, S.SUBMITTED, at, ref=task) for item in given]
            await self.journal.record(*moves)

    def die(self) -> None:
        """End its lease: it was the first worker."""
        with psycopg.connect(self._url.partition("?")[0], autocommit=True) as db:
            db.execute(
                "UPDATE kling_async_workers SET until = clock_timestamp() - interval '1 second'"
                " WHERE id = (SELECT min(w.id) FROM kling_async_workers AS w"
                " JOIN kling_async_batches AS b ON b.id = w.batch WHERE b.name = %s)",
                (self._url.rpartition("=")[2],),
            )


async def run(kling: KlingClient, url: str, *numbers: int, **options: object) -> list[Outcome]:
    """Run a batch to its end and return the outcomes."""
    async with Batch(kling, journal=url, **options) as batch:  # type: ignore[arg-type]
        return [outcome async for outcome in batch.run(items(*numbers))]


def posts(emulator: Emulator) -> int:
    """Count the submits that arrived."""
    return sum(arrival.kind == "submit" for arrival in emulator.requests)


async def test_three_workers_share_a_batch(
    emulate: Emulate, connect: Connect, batch_url: str
) -> None:
    """Each item is processed by one worker, and every worker yields all outcomes."""
    emulator = await emulate("task:5=fail:NSFW_DETECTED")

    async def one(*, ordered: bool) -> list[Outcome]:
        async with Batch(await connect(emulator), journal=batch_url, in_flight=7) as batch:
            return await drain(batch, *range(50), ordered=ordered)

    runs = await asyncio.gather(one(ordered=False), one(ordered=True), one(ordered=True))
    for outcomes in runs:
        assert sorted(outcome.index for outcome in outcomes) == list(range(50))
        assert all(outcome.key == f"key {outcome.index}" for outcome in outcomes)
        assert all(
            outcome.input == MasterTextToVideo(f"{o.index}")
            for o in outcomes[:1]
            for outcome in [o]
        )
        (failed,) = [outcome for outcome in outcomes if outcome.error is not None]
        assert isinstance(failed.error, TaskFailedError)
        assert failed.error.fail_code == "NSFW_DETECTED"
        assert {(outcome.task_ref is None) for outcome in outcomes} == {False}
        assert sum(outcome.result is not None for outcome in outcomes) == 49
    assert keys(runs[1]) == keys(runs[2]) == [str(number) for number in range(50)]
    own = Counter(
        key for outcomes in runs for key in keys(o for o in outcomes if not o.done_by_other)
    )
    assert own == dict.fromkeys(map(str, range(50)), 1)
    assert Counter(one.input["prompt"] for one in emulator.ledger) == own
    assert all(sum(not outcome.done_by_other for outcome in outcomes) > 5 for outcomes in runs)


@pytest.mark.parametrize("ordered", [True, False])
async def test_waiting_takes_no_place(
    emulate: Emulate, connect: Connect, batch_url: str, *, ordered: bool
) -> None:
    """Items that other workers own take no places of in_flight."""
    emulator = await emulate()
    async with Ghost(batch_url) as ghost:
        await ghost.claim(*range(20))
        async with (
            Batch(await connect(emulator), journal=batch_url, in_flight=2) as batch,
            asyncio.TaskGroup() as group,
        ):
            running = group.create_task(drain(batch, *range(26), ordered=ordered))
            await asyncio.sleep(30)
            assert [one.input["prompt"] for one in emulator.ledger] == ["20", "21"]
            assert +Counter(batch.counts) == {S.SUBMITTED: 2, S.PLANNED: 20}
            await asyncio.sleep(40)
            # In order, no more are drawn than can be kept until their turn.
            assert (len(emulator.ledger) < 4) is ordered
            await ghost.journal.release(*(f"key {number}" for number in range(20)))
            outcomes = await running
    assert len(emulator.ledger) == 26
    assert not any(outcome.done_by_other for outcome in outcomes)
    assert (keys(outcomes) == [str(number) for number in range(26)]) is ordered
    if not ordered:  # what was taken over is in flight, too: the last ones come after it
        assert emulator.ledger[-1].at - emulator.ledger[-3].at > 55


async def drain(batch: Batch, *numbers: int, ordered: bool = False) -> list[Outcome]:
    """Run to the end."""
    return [outcome async for outcome in batch.run(items(*numbers), ordered=ordered)]


@pytest.mark.parametrize("how", ["aclose", "cancel", "end"])
async def test_handed_over(emulate: Emulate, connect: Connect, batch_url: str, how: str) -> None:
    """Items that run when a worker ends are taken over at once by one that waits for them."""
    emulator = await emulate()
    one = Batch(await connect(emulator), journal=batch_url)
    async with (
        Batch(await connect(emulator), journal=batch_url) as two,
        asyncio.TaskGroup() as group,
    ):
        async with one:
            stream = OpenStream(0)
            outcomes = one.run(stream, streaming=True)
            await anext(outcomes)
            stream.add(1, 2)
            await asyncio.sleep(30)
            waiting = group.create_task(drain(two, 1, 2, 3))
            await asyncio.sleep(0.5)
            begun = now()
            if how == "aclose":
                await outcomes.aclose()
            elif how == "cancel":
                following = asyncio.create_task(anext(outcomes))
                await asyncio.sleep(1)
                following.cancel()
                await asyncio.wait((following,))
            if how != "end":
                await asyncio.sleep(3)
                assert sorted(worker.items for worker in await workers(one)) == [0, 3]
        found = await waiting
    assert sorted(keys(found)) == ["1", "2", "3"]
    assert not any(outcome.done_by_other for outcome in found)
    assert len(emulator.ledger) == 4
    assert now() - begun < 70


async def workers(batch: Batch) -> list[WorkerInfo]:
    """Return the workers of a batch."""
    return await batch._journal.workers()  # type: ignore[union-attr]  # noqa: SLF001


async def test_the_end_waits_for_the_loop(
    emulate: Emulate, connect: Connect, batch_url: str
) -> None:
    """A batch that ends while another asyncio.Task is in its loop waits for that one."""
    emulator = await emulate()
    async with Ghost(batch_url) as ghost, asyncio.TaskGroup() as group:
        await ghost.claim(1)

        async def release() -> None:
            await asyncio.sleep(10)
            await ghost.journal.release("key 1")

        async with asyncio.timeout(200):
            async with Batch(await connect(emulator), journal=batch_url) as batch:
                running = group.create_task(drain(batch, 1))
                await asyncio.sleep(1)
                group.create_task(release())
        assert keys(running.result()) == ["1"]


@pytest.mark.parametrize("planned", [True, False])
async def test_a_worker_dies(
    emulate: Emulate, connect: Connect, batch_url: str, *, planned: bool
) -> None:
    """What a dead worker had planned is done, and what it had submitted is waited for."""
    emulator = await emulate()
    kling = await connect(emulator)
    task = await kling.submit(MasterTextToVideo("1"))
    async with Ghost(batch_url) as ghost, asyncio.TaskGroup() as group:
        await ghost.claim(1, ref=None if planned else task.ref.task_id)
        running = group.create_task(run(kling, batch_url, 1))
        await asyncio.sleep(300)
        assert not running.done()
        ghost.die()
        (outcome,) = await running
    assert outcome.result is not None
    assert not outcome.done_by_other
    assert (outcome.task_ref == task.ref) is not planned
    assert len(emulator.ledger) == 1 + planned


async def test_what_a_dead_worker_was_sending(
    emulate: Emulate, connect: Connect, batch_url: str
) -> None:
    """It is unsure, even if a worker may submit unsure items again, and one of them reports it."""
    emulator = await emulate()
    async with Ghost(batch_url) as ghost, asyncio.TaskGroup() as group:
        await ghost.claim(1)
        await ghost.journal.record(Transition("key 1", S.SUBMITTING, NOW))
        both = [
            group.create_task(run(await connect(emulator), batch_url, 1, resubmit_unsure=resubmit))
            for resubmit in (True, False)
        ]
        await asyncio.sleep(10)
        ghost.die()
    outcomes = [outcome for running in both for outcome in running.result()]
    assert sorted(outcome.done_by_other for outcome in outcomes) == [False, True]
    for outcome in outcomes:
        assert isinstance(outcome.error, AnswerLostError)
        assert outcome.error.may_have_charged
    assert not emulator.ledger
    (again,) = await run(await connect(emulator), batch_url, 1, resubmit_unsure=True)
    assert again.error is None
    assert len(emulator.ledger) == 1


async def test_unsure_before_it_was_claimed(
    emulate: Emulate, connect: Connect, batch_url: str
) -> None:
    """An item that became unsure during a run is reported by one worker and not submitted."""
    emulator = await emulate()
    kling = await connect(emulator)
    async with (
        Batch(kling, journal=batch_url) as one,
        Batch(kling, journal=batch_url, resubmit_unsure=True) as two,
    ):
        async with Ghost(batch_url) as ghost:
            await ghost.claim(1)
            await ghost.journal.record(Transition("key 1", S.SUBMITTING, NOW))
        (first,) = await drain(one, 1)
        (second,) = await drain(two, 1)
    assert isinstance(first.error, AnswerLostError)
    assert (first.done_by_other, second.done_by_other) == (False, True)
    assert not emulator.ledger


async def test_a_worker_that_has_lost_everything(
    emulate: Emulate, connect: Connect, batch_url: str
) -> None:
    """A worker that has lost its lease submits nothing more, and its run ends with an error."""
    emulator = await emulate()
    async with Ghost(batch_url) as ghost:
        stream = OpenStream()
        async with Batch(await connect(emulator), journal=batch_url) as batch:
            outcome = asyncio.create_task(anext(batch.run(stream, streaming=True)))
            await asyncio.sleep(1)
            with psycopg.connect(batch_url.partition("?")[0], autocommit=True) as db:
                db.execute(
                    "DELETE FROM kling_async_workers WHERE id ="
                    " (SELECT max(id) FROM kling_async_workers)"
                )
            stream.add(1)
            with pytest.raises(JournalError, match="run again"):
                await outcome
        assert len(await ghost.journal.workers()) == 1
    assert posts(emulator) == 0


async def test_the_journal_is_lost_while_waiting(
    emulate: Emulate, connect: Connect, batch_url: str
) -> None:
    """A wait for items of other workers ends when the journal cannot be used any more."""
    emulator = await emulate()
    async with Ghost(batch_url) as ghost:
        await ghost.claim(1, 2)
        running = asyncio.create_task(run(await connect(emulator), batch_url, 1, 2))
        await asyncio.sleep(10)
        with psycopg.connect(batch_url.partition("?")[0], autocommit=True) as db:
            db.execute("ALTER TABLE kling_async_items RENAME COLUMN held TO kept")
        with pytest.raises(JournalError, match="held"):
            await running
        with psycopg.connect(batch_url.partition("?")[0], autocommit=True) as db:
            db.execute("ALTER TABLE kling_async_items RENAME COLUMN kept TO held")


async def test_streaming(emulate: Emulate, connect: Connect, batch_url: str) -> None:
    """Outcomes are yielded while a stream is idle; an item that is given again is yielded again."""
    emulator = await emulate()
    stream = OpenStream(1)
    async with Batch(await connect(emulator), journal=batch_url) as batch:
        async with aclosing(batch.run(stream, streaming=True)) as outcomes:
            assert keys([await anext(outcomes)]) == ["1"]
            stream.add(2, 2, 1)
            assert keys([await anext(outcomes), await anext(outcomes)]) == ["1", "2"]
            again = asyncio.create_task(anext(outcomes))
            await asyncio.sleep(500)
            assert not again.done()  # the second 2 was given while the first was under way
            stream.add(2)
            assert keys([await again]) == ["2"]
            stream.close()
            assert [outcome async for outcome in outcomes] == []
        assert [worker.items for worker in await workers(batch)] == [0]
    assert len(emulator.ledger) == 2


async def test_what_others_wait_for(emulate: Emulate, connect: Connect, batch_url: str) -> None:
    """Running tasks that are not given are left to the workers that own them, however many."""
    emulator = await emulate()
    async with Ghost(batch_url) as ghost:
        await ghost.claim(*range(300), ref="task_1")
        assert keys(await run(await connect(emulator), batch_url, 300)) == ["300"]
    assert [arrival.kind for arrival in emulator.requests].count("submit") == 1


async def test_streaming_and_running_tasks(
    emulate: Emulate, connect: Connect, batch_url: str
) -> None:
    """A stream waits only for tasks whose items are given; a run waits for all that run."""
    emulator = await emulate()
    kling = await connect(emulator)
    task = await kling.submit(MasterTextToVideo("1"))
    async with Ghost(batch_url) as ghost:
        await ghost.claim(1, ref=task.ref.task_id)
        assert keys(await run(await connect(emulator), batch_url, 2)) == ["2"]
    stream = OpenStream(3)
    stream.close()
    async with Batch(kling, journal=batch_url) as batch:
        assert keys([outcome async for outcome in batch.run(stream, streaming=True)]) == ["3"]
    assert keys(await run(await connect(emulator), batch_url)) == ["1"]
    assert len(emulator.ledger) == 3


async def test_streaming_is_stopped(emulate: Emulate, connect: Connect, batch_url: str) -> None:
    """A limit ends the run over a stream; another worker may process the rest."""
    emulator = await emulate()
    stream = OpenStream(1, 2, 3)
    async with (
        Batch(await connect(emulator), journal=batch_url, max_tasks=1, in_flight=1) as one,
        Batch(await connect(emulator), journal=batch_url) as two,
    ):
        assert keys([outcome async for outcome in one.run(stream, streaming=True)]) == ["1"]
        assert one.stopped is not None
        found = await drain(two, 1, 2)
    assert {
        key: outcome.done_by_other for key, outcome in zip(keys(found), found, strict=True)
    } == {
        "1": True,
        "2": False,
    }


async def test_files_elsewhere(
    emulate: Emulate, connect: Connect, batch_url: str, tmp_path: Path
) -> None:
    """Outcomes have the paths of files on other machines, which are not fetched again."""
    emulator = await emulate()
    here, there = tmp_path / "here", tmp_path / "there"
    one, two = await asyncio.gather(
        run(await connect(emulator), batch_url, 1, 2, download_to=here, in_flight=1),
        run(await connect(emulator), batch_url, 1, 2, download_to=there, in_flight=1),
    )
    assert sorted(outcome.done_by_other for outcome in (*one, *two)) == [False, False, True, True]
    for outcomes, folder in ((one, here), (two, there)):
        for outcome in outcomes:
            (file,) = outcome.files
            assert file.parent == folder
            assert file.exists() is not outcome.done_by_other
    (again, _) = await run(await connect(emulator), batch_url, 1, 2, download_to=tmp_path / "x")
    assert not again.done_by_other
    assert not again.files[0].exists()
    assert again.error is None


async def test_another_saves_what_one_could_not(
    emulate: Emulate, connect: Connect, batch_url: str, tmp_path: Path
) -> None:
    """What one worker could not save has not ended: another that was there already saves it."""
    emulator = await emulate("file:1=410")
    there = Batch(await connect(emulator), journal=batch_url, download_to=tmp_path)
    async with there as batch:
        once = await connect(emulator, retry=Retry(attempts=1))
        (failed,) = await run(once, batch_url, 1, download_to=tmp_path / "here")
        (saved,) = await drain(batch, 1)
    assert isinstance(failed.error, DownloadError)
    assert saved.error is None
    assert [file.exists() for file in saved.files] == [True]
    assert not saved.done_by_other
    assert len(emulator.ledger) == 1


async def test_what_has_ended_is_not_claimed(
    emulate: Emulate, connect: Connect, batch_url: str
) -> None:
    """An item that has ended is yielded again without being claimed."""
    emulator = await emulate()
    assert len(await run(await connect(emulator), batch_url, 1)) == 1
    async with Ghost(batch_url) as ghost:
        (outcome,) = await run(await connect(emulator), batch_url, 1)
        assert not outcome.done_by_other
        with psycopg.connect(batch_url.partition("?")[0]) as db:
            query = "SELECT worker, (SELECT max(id) FROM kling_async_workers)"
            query += " FROM kling_async_items ORDER BY id DESC LIMIT 1"
            ((did_it, came_later),) = db.execute(query).fetchall()
        assert did_it < came_later
        await ghost.claim(1)
