from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import pytest

from kling_async import (
    Batch,
    Item,
    Kling26TextToVideo,
    Kling30TurboTextToVideo,
    KlingClient,
    Limits,
    MasterTextToVideo,
    RawInput,
    TaskRef,
)
from kling_async.errors import (
    AnswerLostError,
    ConfigurationError,
    InputError,
    JournalError,
    TaskTimeoutError,
)
from kling_async.events import Event, TasksAbandoned
from kling_async.journal.base import Claim, Entry, ItemState, Ownership, Transition
from kling_async.journal.sqlite.journal import SqliteJournal
from kling_async.results import FailReason
from kling_async.testing import ScriptedTransport
from kling_async.testing.transport import answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from kling_async.inputs.base import Input
    from kling_async.testing import Emulator
    from tests.batch.conftest import ReadHistories, RunBatch
    from tests.conftest import Connect, Emulate

pytestmark = pytest.mark.virtual_time

Leftovers: TypeAlias = "Callable[[], set[str]]"

S = ItemState
DONE = [S.PLANNED, S.SUBMITTING, S.SUBMITTED, S.FINISHED]
FIVE = Limits(concurrent_tasks=5)


def items(number: int | None = None) -> Iterator[Item]:
    """Yield this number of items, or items without end."""
    for index in itertools.count() if number is None else range(number):
        yield Item(f"key {index}", MasterTextToVideo(f"{index}"))


def paid(emulator: Emulator) -> Counter[str]:
    """Count how often each item was paid for."""
    return Counter(f"key {one.input['prompt']}" for one in emulator.ledger)


def once(number: int) -> Counter[str]:
    """Count so many items that were paid for once."""
    return Counter(item.key for item in items(number))


# ------------------------------------------------------------------------------------- to the end


async def test_a_batch(
    emulate: Emulate, connect: Connect, path: Path, histories: ReadHistories
) -> None:
    """Every outcome has its key, task and result, and every step is in the journal."""
    emulator = await emulate()
    kling = await connect(emulator)
    async with Batch(kling, journal=path) as batch:
        outcomes = [outcome async for outcome in batch.run(items(8))]
        assert batch.counts[S.FINISHED] == 8
        assert sum(batch.counts.values()) == 8
        summary = await batch.summary()
        assert summary.counts[S.FINISHED] == summary.attempts == 8
        assert batch.stopped is None
    for outcome in outcomes:
        assert outcome.key == f"key {outcome.index}"
        assert outcome.input == MasterTextToVideo(f"{outcome.index}")
        assert outcome.error is None
        assert outcome.result is not None
        assert outcome.result.ref == outcome.task_ref
        assert outcome.files == ()
    assert paid(emulator) == once(8)
    assert set(map(tuple, (await histories()).values())) == {tuple(DONE)}


async def test_in_order(emulate: Emulate, connect: Connect, path: Path) -> None:
    """With ordered=True the outcomes are in the order of the items, which may come slowly."""
    kling = await connect(await emulate(duration=lambda sent: 100.0 - int(str(sent["prompt"]))))

    async def slowly() -> AsyncIterator[Item]:
        for item in items(10):
            await asyncio.sleep(1)
            yield item

    async with Batch(kling, journal=path) as batch:
        indices = [outcome.index async for outcome in batch.run(slowly(), ordered=True)]
    assert indices == list(range(10))


async def test_in_flight(emulate: Emulate, connect: Connect, run: RunBatch) -> None:
    """No more tasks run at one time than the batch is to have in flight."""
    emulator = await emulate(concurrent_tasks=3)
    await run(await connect(emulator), items(9), in_flight=3)
    assert {arrival.status for arrival in emulator.requests} == {200}
    assert paid(emulator) == once(9)


async def test_an_input_is_its_own_key(emulate: Emulate, connect: Connect, run: RunBatch) -> None:
    """An input without a key is one item however often it is given, today and tomorrow."""
    emulator = await emulate()
    kling = await connect(emulator)
    foxes = [MasterTextToVideo(name) for name in ("a", "b", "a", "a")]
    (first, second) = await run(kling, foxes)
    assert first.key != second.key
    assert {one.key for one in await run(kling, foxes[::-1])} == {first.key, second.key}
    assert len(emulator.ledger) == 2


async def test_a_key_of_another_input(emulate: Emulate, connect: Connect, run: RunBatch) -> None:
    """A key that the journal has with another input is an error, and the journal is unchanged."""
    emulator = await emulate()
    kling = await connect(emulator)
    await run(kling, items(2))
    with pytest.raises(JournalError, match="another input"):
        await run(kling, [Item("key 1", MasterTextToVideo("something else"))])
    assert len(await run(kling, items(2))) == 2
    assert paid(emulator) == once(2)


async def test_neither_input_nor_item(emulate: Emulate, connect: Connect, run: RunBatch) -> None:
    """An element that is neither an input nor an item ends the run with an error that shows it."""
    kling = await connect(await emulate())
    with pytest.raises(InputError, match=r"not an input.*'a fox'"):
        await run(kling, ["a fox"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "options",
    [
        {"downloads": 0},
        {"max_tasks": 0},
        {"max_tasks": 1.5},
        {"resubmit_failed": -1},
        {"resubmit_reasons": [FailReason.CONTENT]},
        {"timeout": 0},
        {"timeout": float("inf")},
    ],
    ids=str,
)
def test_invalid_options(options: dict[str, Any], path: Path) -> None:
    """An invalid option is refused before the journal is created."""
    kling = KlingClient("sk", transport=ScriptedTransport(lambda _: answer(1)))
    with pytest.raises(ConfigurationError):
        Batch(kling, journal=path, **options)
    assert not path.exists()


async def test_nothing_in_flight(emulate: Emulate, connect: Connect, run: RunBatch) -> None:
    """An invalid in_flight is refused before anything is sent."""
    emulator = await emulate()
    with pytest.raises(ConfigurationError, match="in_flight"):
        await run(await connect(emulator), items(1), in_flight=0)
    assert not emulator.requests


async def test_one_batch_at_a_time(emulate: Emulate, connect: Connect, path: Path) -> None:
    """A second batch on a journal in use is refused, and the first continues."""
    kling = await connect(await emulate())
    async with Batch(kling, journal=path) as batch:
        with pytest.raises(JournalError, match="in use"):
            await Batch(kling, journal=path).__aenter__()
        assert len([one async for one in batch.run(items(2))]) == 2


async def test_two_runs_of_one_batch(emulate: Emulate, connect: Connect, path: Path) -> None:
    """A batch may be run again while it is open; the counts are those of the last run."""
    emulator = await emulate()
    kling = await connect(emulator)
    async with Batch(kling, journal=path) as batch:
        for number in (2, 3):
            assert len([one async for one in batch.run(items(number))]) == number
            assert batch.counts[S.FINISHED] == sum(batch.counts.values()) == number
    assert paid(emulator) == once(3)


# ------------------------------------------------------------------------------------- run again


async def test_finished_items_are_not_repeated(
    emulate: Emulate, connect: Connect, run: RunBatch
) -> None:
    """A batch that has ended yields the same results again, and sends nothing."""
    emulator = await emulate()
    first = await run(await connect(emulator), items(5))
    before = len(emulator.requests)
    for given in (items(5), None):
        again = await run(await connect(emulator), given)
        assert again == sorted(first, key=lambda one: one.index)
    assert len(emulator.requests) == before


async def interrupted(kling: KlingClient, run: RunBatch, after: float, number: int) -> None:
    """Run a batch and cancel it after so many seconds."""
    running = asyncio.create_task(run(kling, items(number)))
    await asyncio.sleep(after)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()


@pytest.mark.parametrize("given", [8, 3, 0, None])
async def test_running_tasks_are_waited_for(
    given: int | None, emulate: Emulate, connect: Connect, run: RunBatch
) -> None:
    """Tasks of the run before are waited for, whether their items are given again or not."""
    emulator = await emulate()
    await interrupted(await connect(emulator), run, 30, 8)
    assert paid(emulator) == once(8)
    again = await run(await connect(emulator), None if given is None else items(given))
    assert {one.key for one in again if one.result} == set(once(8))
    assert paid(emulator) == once(8)


async def test_inputs_of_every_model(emulate: Emulate, connect: Connect, run: RunBatch) -> None:
    """Inputs of all models, raw inputs among them, are journaled, resumed and paid for once."""
    emulator = await emulate(models=["kling-9"])
    videos: list[Input] = [
        Kling26TextToVideo("a fox", sound=True),
        Kling30TurboTextToVideo("a fox", cfg_scale="high"),
        RawInput("kling-9", {"mode": "omni", "duration": 7, "deep": [1.0, None]}, provider="lab"),
        RawInput("kling-2-1", {"mode": "master-text-to-video", "prompt": "a fox"}),
    ]
    given = [Item(f"{index}", video) for index, video in enumerate(videos)]
    running = asyncio.create_task(run(await connect(emulator), given))
    await asyncio.sleep(30)
    running.cancel()
    await asyncio.wait([running])
    again = await run(await connect(emulator), None)
    assert {outcome.key: outcome.input for outcome in again} == {
        item.key: item.input for item in given
    }
    assert all(outcome.result for outcome in again)
    assert [task.model for task in emulator.ledger] == [video.model for video in videos]
    assert set(await run(await connect(emulator), given)) == set(again)


async def test_running_tasks_hold_their_slots(
    emulate: Emulate, connect: Connect, run: RunBatch
) -> None:
    """What runs from before counts against the limit from the start: nothing is refused."""
    emulator = await emulate(concurrent_tasks=5, duration=(100.0, 100.0))
    await interrupted(await connect(emulator, limits=FIVE), run, 30, 5)
    kling = await connect(emulator, limits=FIVE)
    new = [Item(f"new {n}", MasterTextToVideo(f"new {n}")) for n in range(7)]
    assert len(await run(kling, new)) == 12
    assert {arrival.status for arrival in emulator.requests} == {200}
    assert kling.running == ()


async def test_planned_items_are_submitted(
    emulate: Emulate, connect: Connect, run: RunBatch, histories: ReadHistories
) -> None:
    """Items that were planned and not sent are sent by the next run, given again or all."""
    emulator = await emulate(concurrent_tasks=5)
    await interrupted(await connect(emulator, limits=FIVE), run, 30, 20)
    assert Counter(states[-1] for states in (await histories()).values()) == {
        S.SUBMITTED: 5,
        S.PLANNED: 15,
    }
    assert len(await run(await connect(emulator, limits=FIVE), None)) == 20
    assert paid(emulator) == once(20)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_cancelled_at_random_moments(
    seed: int, emulate: Emulate, connect: Connect, run: RunBatch, histories: ReadHistories
) -> None:
    """However often a batch is cancelled and run again, nothing is paid twice, or unsure."""
    dice = random.Random(seed)  # noqa: S311 - moments, not secrets
    emulator = await emulate("submit:*3=slow:4", "submit:*7=503", concurrent_tasks=5)
    for _ in range(8):
        await interrupted(await connect(emulator, limits=FIVE), run, dice.uniform(0, 40), 20)
        assert S.SUBMITTING not in [states[-1] for states in (await histories()).values()]
    outcomes = await run(await connect(emulator, limits=FIVE), items(20))
    assert [one.error for one in outcomes] == [None] * 20
    assert paid(emulator) == once(20)
    assert not [states for states in (await histories()).values() if S.UNSURE in states]
    assert {arrival.status for arrival in emulator.requests} <= {200, 503}


async def test_a_timeout_stays_submitted(
    emulate: Emulate, connect: Connect, run: RunBatch, histories: ReadHistories
) -> None:
    """A task that takes longer than the timeout is an error, and the next run finds it."""
    emulator = await emulate(duration=(500.0, 500.0))
    (outcome,) = await run(await connect(emulator), items(1), timeout=100)
    assert isinstance(outcome.error, TaskTimeoutError)
    assert outcome.task_ref == outcome.error.ref
    assert (await histories())["key 0"] == DONE[:3]
    (outcome,) = await run(await connect(emulator), items(1))
    assert outcome.error is None
    assert paid(emulator) == once(1)


# ---------------------------------------------------------------------------------------- unsure


async def test_unsure_items(
    emulate: Emulate, connect: Connect, run: RunBatch, histories: ReadHistories
) -> None:
    """An item whose answer was lost is unsure in every run, and resubmitted only on request."""
    emulator = await emulate("submit:2=lost-answer")
    for _ in range(2):
        outcomes = await run(await connect(emulator), items(3), in_flight=1)
        (unsure,) = [one for one in outcomes if one.error]
        assert isinstance(unsure.error, AnswerLostError)
        assert unsure.error.may_have_charged
        assert unsure.key == "key 1"
        assert unsure.task_ref is None
        assert paid(emulator) == once(3)
    outcomes = await run(await connect(emulator), items(3), resubmit_unsure=True)
    assert [one.error for one in outcomes] == [None] * 3
    assert paid(emulator) == once(3) + Counter({"key 1": 1})
    assert (await histories())["key 1"] == [S.PLANNED, S.SUBMITTING, S.UNSURE, *DONE]


async def test_unsure_again(emulate: Emulate, connect: Connect, run: RunBatch) -> None:
    """An item that becomes unsure again is not resubmitted again in that run."""
    emulator = await emulate("submit:1-9=lost-answer")
    for number in (1, 2, 3):
        (outcome,) = await run(await connect(emulator), items(1), resubmit_unsure=True)
        assert isinstance(outcome.error, AnswerLostError)
        assert len(emulator.ledger) == number


# ----------------------------------------------------------------------------------- ended early


async def test_the_loop_is_left(
    emulate: Emulate,
    connect: Connect,
    path: Path,
    run: RunBatch,
    leftovers: Leftovers,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who leaves the loop finds the batch ended and the journal closed, with all refs reported."""
    caplog.set_level(logging.INFO, "kling_async")
    emulator = await emulate("submit:*3=slow:5")
    events: list[Event] = []
    kling = await connect(emulator, limits=FIVE, hooks=[events.append])
    async with Batch(kling, journal=path) as batch:
        async for _ in batch.run(items()):
            break
    async with SqliteJournal(path) as journal:
        summary = await journal.summary()
        entries = [entry async for entry in journal.entries(S.SUBMITTED)]
    await asyncio.sleep(1)
    assert not leftovers()
    assert not [one for one in caplog.records if one.levelno > logging.INFO]
    (record,) = [one for one in caplog.records if one.module == "abandoned"]
    assert record.levelno == logging.INFO
    (left,) = [event for event in events if isinstance(event, TasksAbandoned)]
    assert record.getMessage() == (f"tasks still running, which the journal has: {len(left.refs)}")
    assert {entry.ref for entry in entries} <= set(left.refs)
    assert summary.attempts == len(emulator.ledger)
    assert not summary.counts[S.SUBMITTING]
    before = len(emulator.requests)
    await asyncio.sleep(1000)
    assert len(emulator.requests) == before
    again = await run(await connect(emulator, limits=FIVE), items(10))
    assert {one.key for one in again} >= set(once(10))
    assert set(paid(emulator).values()) == {1}


async def test_the_run_is_kept(
    emulate: Emulate, connect: Connect, path: Path, leftovers: Leftovers
) -> None:
    """The end of the batch ends a run that the caller still holds; closing that is no error."""
    kling = await connect(await emulate(), limits=FIVE)
    async with Batch(kling, journal=path) as batch:
        running = batch.run(items())
        await anext(running)
    assert not leftovers()
    await running.aclose()


async def test_another_task_runs_the_loop(emulate: Emulate, connect: Connect, path: Path) -> None:
    """The end of the batch waits for an asyncio.Task that is still in the loop of a run."""
    kling = await connect(await emulate())

    async def consume() -> int:
        return len([one async for one in batch.run(items(4))])

    async with Batch(kling, journal=path) as batch:
        consuming = asyncio.create_task(consume())
        await asyncio.sleep(30)
    assert await consuming == 4


async def test_an_error_of_the_callers(
    emulate: Emulate, connect: Connect, path: Path, leftovers: Leftovers
) -> None:
    """An error in the body of the loop passes through a batch that ends in order."""
    kling = await connect(await emulate(), limits=FIVE)

    async def main() -> None:
        async with Batch(kling, journal=path) as batch:
            async for _ in batch.run(items()):
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await main()
    await asyncio.sleep(1)
    assert not leftovers()


async def test_an_error_in_the_items(emulate: Emulate, connect: Connect, run: RunBatch) -> None:
    """An error of the iterable is raised; what was planned with it before is in the journal."""
    emulator = await emulate()

    async def breaking() -> AsyncIterator[Input | Item]:
        for item in items(3):
            yield item
        await asyncio.sleep(30)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        await run(await connect(emulator), breaking())  # type: ignore[arg-type]
    assert "3 tasks still run" in caught.value.__notes__[0]
    assert len(await run(await connect(emulator), [])) == 3
    assert paid(emulator) == once(3)


class Noting(SqliteJournal):
    """A journal that takes a while to write, and notes which claims are held."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.held: set[str] = set()

    async def claim(self, *entries: Entry) -> list[Claim]:
        claims = await super().claim(*entries)
        self.held.update(claim.entry.key for claim in claims if claim.ownership is Ownership.MINE)
        return claims

    async def release(self, *keys: str, ended: bool = False) -> None:
        await asyncio.sleep(0.1)
        self.held.difference_update(keys)
        await super().release(*keys, ended=ended)

    async def record(self, *moves: Transition) -> None:
        await asyncio.sleep(0.1)
        await super().record(*moves)


@pytest.mark.parametrize("after", [2.0, 4.05, 62.0])
@pytest.mark.parametrize("way", ["loop", "body", "scope", "close"])
async def test_cancelled_at_every_await(
    way: str,
    after: float,
    emulate: Emulate,
    connect: Connect,
    path: Path,
    run: RunBatch,
    leftovers: Leftovers,
) -> None:
    """However it is cancelled, the journal is closed with all that was paid, and without claims."""
    emulator = await emulate("submit:*3=slow:5")
    kling = await connect(emulator, limits=FIVE)
    journal, closed = Noting(path), asyncio.Event()

    async def given() -> AsyncIterator[Item]:
        try:
            for item in items():
                yield item
        finally:
            closed.set()

    async def main() -> None:
        async with Batch(kling, journal=journal) as batch:
            async for _ in batch.run(given()):
                if way == "body":
                    await asyncio.sleep(1000)

    if way == "scope":
        with anyio.move_on_after(after):
            await main()
    else:
        running = asyncio.create_task(main())
        await asyncio.sleep(after)
        while not running.done():
            running.cancel()
            await asyncio.sleep(0 if way != "close" else 0.05)
    await asyncio.sleep(30)
    assert closed.is_set()
    assert not journal.held
    assert not leftovers()
    async with SqliteJournal(path) as again:
        summary = await again.summary()
    assert summary.attempts == len(emulator.ledger)
    assert not summary.counts[S.SUBMITTING]
    assert not summary.counts[S.UNSURE]
    before = len(emulator.requests)
    await asyncio.sleep(1000)
    assert len(emulator.requests) == before
    await run(await connect(emulator, limits=FIVE), items(10))
    assert set(paid(emulator).values()) == {1}


async def test_the_loop_of_another_task_is_cancelled(
    emulate: Emulate, connect: Connect, path: Path, leftovers: Leftovers
) -> None:
    """The end of the batch waits for the clean-up of a loop whose task does not wait for it."""
    emulator = await emulate("submit:*=slow:5")
    kling = await connect(emulator, limits=FIVE)
    journal = Noting(path)

    async def consume() -> None:
        async for _ in batch.run(items()):
            raise AssertionError

    async with Batch(kling, journal=journal) as batch:
        consuming = asyncio.create_task(consume())
        await asyncio.sleep(2)

        async def cancel() -> None:
            await asyncio.sleep(1)
            while not consuming.done():
                consuming.cancel()
                await asyncio.sleep(0)

        cancelling = asyncio.create_task(cancel())
    await cancelling
    assert not leftovers()
    assert not journal.held
    async with SqliteJournal(path) as again:
        assert (await again.summary()).counts[S.SUBMITTED] == len(emulator.ledger) == 5


async def test_a_run_is_never_begun(emulate: Emulate, connect: Connect, path: Path) -> None:
    """A run that is not iterated over sends nothing, and the batch ends."""
    emulator = await emulate()
    async with Batch(await connect(emulator), journal=path) as batch:
        batch.run(items())
    assert not emulator.requests


@pytest.mark.parametrize("given", [MasterTextToVideo("a fox"), "a fox", {}, Item, 3])
async def test_not_an_iterable_of_items(given: Any, path: Path) -> None:  # noqa: ANN401
    """A single input, a text, a mapping, a class, or no iterable is refused at the call."""
    async with Batch(KlingClient("a-key"), journal=path) as batch:
        with pytest.raises(InputError, match="pass an iterable of inputs"):
            batch.run(given)
        with pytest.raises(ConfigurationError, match="ordered"):
            batch.run([], ordered="yes")  # type: ignore[arg-type]


# -------------------------------------------------------------------------- a journal that fails


class Full(SqliteJournal):
    """A journal whose disk is full after so many records."""

    def __init__(self, path: Path, room: int) -> None:
        super().__init__(path)
        self.room = room

    async def record(self, *moves: Transition) -> None:
        self.room -= 1
        if self.room < 0:
            raise JournalError("the disk is full")
        await super().record(*moves)


@pytest.mark.parametrize("room", [0, 1, 4, 5, 8, 11])
async def test_a_journal_that_fails(
    room: int,
    emulate: Emulate,
    connect: Connect,
    path: Path,
    run: RunBatch,
    leftovers: Leftovers,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """When the journal fails the batch ends at once, names what runs, and loses no money."""
    caplog.set_level(logging.INFO, "kling_async")
    emulator = await emulate()
    events: list[Event] = []
    kling = await connect(emulator, hooks=[events.append])
    with pytest.raises(JournalError, match="full") as caught:
        await run(kling, items(4), Full(path, room))
    assert not leftovers()
    started = {TaskRef(one.model, one.task_id) for one in emulator.ledger}
    named = {ref for event in events if isinstance(event, TasksAbandoned) for ref in event.refs}
    assert named >= set(kling.running)
    assert named <= started
    if named:
        notes = "".join(caught.value.__notes__)
        assert all(notes.count(str(ref)) == 1 for ref in named)
    async with SqliteJournal(path) as journal:
        stored = {str(entry.ref) async for entry in journal.entries()}
    logged: dict[int, set[str]] = {logging.INFO: set(), logging.WARNING: set()}
    for record in caplog.records:
        logged[record.levelno].update(getattr(record, "kling_refs", ()))
    assert logged[logging.INFO] <= stored
    assert not logged[logging.WARNING] & stored
    assert logged[logging.INFO] | logged[logging.WARNING] == set(map(str, named))
    before = len(emulator.requests)
    await asyncio.sleep(1000)
    assert len(emulator.requests) == before

    outcomes = await run(await connect(emulator), items(4))
    assert len(outcomes) == 4
    unsure = {one.key for one in outcomes if isinstance(one.error, AnswerLostError)}
    assert paid(emulator).keys() >= set(once(4)) - unsure
    assert set(paid(emulator).values()) == {1}


class Slow(SqliteJournal):
    """A journal that takes its time."""

    async def record(self, *moves: Transition) -> None:
        await asyncio.sleep(10)
        await super().record(*moves)


async def test_cancelled_while_it_is_written(
    emulate: Emulate, connect: Connect, path: Path, run: RunBatch, histories: ReadHistories
) -> None:
    """An item whose sending is being written when the batch is cancelled is planned again."""
    emulator = await emulate()
    running = asyncio.create_task(run(await connect(emulator), items(3), Slow(path)))
    await asyncio.sleep(5)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert not emulator.requests
    expected = [S.PLANNED, S.SUBMITTING, S.PLANNED]
    assert list((await histories()).values()) == [expected] * 3


async def test_cancelled_while_the_acceptance_is_written(
    emulate: Emulate, connect: Connect, path: Path, run: RunBatch, histories: ReadHistories
) -> None:
    """References that have come are written, though the batch is cancelled meanwhile."""
    emulator = await emulate()
    running = asyncio.create_task(run(await connect(emulator), items(3), Slow(path)))
    await asyncio.sleep(15)
    assert paid(emulator) == once(3)
    running.cancel()
    await asyncio.wait([running])
    assert list((await histories()).values()) == [DONE[:3]] * 3
