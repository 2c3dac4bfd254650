from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from random import Random
from statistics import mean

import pytest

from kling_async import Limits, Polling, Snapshot
from kling_async.policy.durations import Kind
from kling_async.results import TaskState
from kling_async.tasks.poll_scheduler import PollScheduler
from kling_async.testing import VirtualLoop
from tests.tasks.polling import (
    ALONE,
    ATTACHED,
    FAILED,
    FIVE,
    NEW,
    REF,
    RUNNING,
    TEN,
    about,
    gap,
    live,
    now,
    poll,
    together,
)

pytestmark = pytest.mark.virtual_time


# ----------------------------------------------------------------------------------- attached tasks


def created(ago: float) -> Snapshot:
    """Say that a running task was created so many seconds ago."""
    return Snapshot(
        REF, TaskState.PROCESSING, created_at=datetime.now(UTC) - timedelta(seconds=ago)
    )


@pytest.mark.parametrize(
    ("ago", "kind", "wait"),
    [
        (None, ATTACHED, 1.5),  # presumed to be as old as the first are when they end
        (60, ATTACHED, 1.5),
        (40, ATTACHED, 2.0),
        (170, ATTACHED, 1 + 50 * 0.1),
        (99999, ATTACHED, 15.0),
        (None, NEW, 1.0),
        (100, NEW, 5.0),
    ],
)
async def test_attached_tasks(ago: float | None, kind: Kind, wait: float) -> None:
    """A task of unknown age is asked after at once, then at the pace of the reported age."""
    scheduler = PollScheduler(Polling(first=500.0), Limits())
    assert [await poll(scheduler, scheduler.track(kind, None))] == about(0)
    said = RUNNING if ago is None else created(ago)
    # The age is reported in real time, so a slow machine makes it a little older.
    assert await gap(scheduler, said, kind) == pytest.approx(wait, abs=0.3)


async def test_clocks_that_disagree() -> None:
    """A task from the future grows older from the presumed age."""
    scheduler = PollScheduler(Polling(), Limits())
    tracked = scheduler.track(ATTACHED, None)
    said = created(-99999)
    assert [await poll(scheduler, tracked, said), await poll(scheduler, tracked, said)] == about(
        0, ALONE
    )
    await asyncio.sleep(109)
    assert [await poll(scheduler, tracked, said), await poll(scheduler, tracked, said)] == about(
        110.5, 110.5 + 6.05
    )


async def test_what_attached_tasks_teach() -> None:
    """Of a task of unknown age only the service's own times count."""
    scheduler = PollScheduler(Polling(), Limits())

    async def end(took: float | None) -> None:
        zero = datetime.now(UTC)
        later = zero + timedelta(seconds=took) if took else None
        said = Snapshot(REF, TaskState.SUCCESS, created_at=zero, completed_at=later)
        await poll(scheduler, scheduler.track(ATTACHED, None), said)

    for _ in range(40):
        await end(None)
    assert await gap(scheduler, created(100)) == pytest.approx(1.0)
    for _ in range(40):
        await end(500.0)
    assert await gap(scheduler, created(100)) == pytest.approx(5.0, abs=0.1)


# ----------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("dated", [True, False])
@pytest.mark.parametrize("factor", [0.5, 2.0])
async def test_another_service(factor: float, dated: bool) -> None:  # noqa: FBT001
    """A service twice as slow, or as fast, is asked at its own times forty tasks later."""
    scheduler = PollScheduler(Polling(), Limits())
    dice = Random(1)  # noqa: S311 - durations, not keys
    for _ in range(40):
        await live(scheduler, FIVE, factor * dice.uniform(60, 90), dated=dated)
    ages = [
        await live(scheduler, FIVE, factor * dice.uniform(60, 90), dated=dated) for _ in range(40)
    ]
    assert 0.8 * 60 * factor < mean(one[0] for one in ages) < 70 * factor
    assert mean(map(len, ages)) < 30 * factor
    if dated:
        assert min(one[0] for one in ages) > 60 * factor - 2


async def test_a_kind_never_seen() -> None:
    """One result of an unknown kind is enough to ask when the next is about to end."""
    scheduler = PollScheduler(Polling(), Limits())
    ages = await live(scheduler, NEW, 100.0)
    assert ages[:2] == about(15, 16)
    assert 100 <= ages[-1] <= 105
    assert await live(scheduler, NEW, 75.0) == about(75)
    assert (await live(scheduler, Kind("kling-8"), 20.0))[:1] == about(15)


async def test_a_service_without_times() -> None:
    """Without the service's times, a task ended half-way between the last two polls."""
    scheduler = PollScheduler(Polling(), Limits())
    running, ended = (await live(scheduler, NEW, 100.0, dated=False))[-2:]
    assert running < 100 <= ended
    # One result: the marks lie a quarter around it.
    assert (await live(scheduler, NEW, 90.0))[:1] == about((running + ended) / 2 * 0.75)


def test_those_of_an_earlier_loop() -> None:
    """Tasks that were submitted on an earlier loop, and are not waited for, hold up no learning."""
    scheduler = PollScheduler(Polling(), Limits())

    async def submit() -> None:
        scheduler.track(FIVE)

    async def resume() -> None:
        for _ in range(20):
            await live(scheduler, FIVE, 30.0)
        assert (await live(scheduler, FIVE, 30.0))[0] < 31

    for main in (submit(), resume()):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(main)


async def test_a_crowd_is_judged_as_a_whole() -> None:
    """Of many that began together the quick ones do not speak for all, nor do the slow ones."""
    scheduler = PollScheduler(Polling(), Limits())
    began = now()
    lasts = [60 + n * 7919 % 200 * 0.15 for n in range(200)]
    await together(*(live(scheduler, FIVE, one) for one in lasts))
    # Now all have ended, the slowest last; a task that takes 62 s is not late for that reason.
    assert now() - began < 95
    assert (await live(scheduler, FIVE, 62.0))[-1] < 64
    assert (await live(scheduler, FIVE, 88.0))[-1] < 90


async def test_tasks_that_are_never_polled() -> None:
    """Others learn without those that are never asked after; what these took counts at last."""
    scheduler = PollScheduler(Polling(), Limits())
    left = scheduler.track(FIVE)
    for _ in range(20):
        await live(scheduler, FIVE, 30.0)
    assert (await live(scheduler, FIVE, 30.0))[0] < 31
    zero = datetime.now(UTC)
    said = Snapshot(
        REF, TaskState.SUCCESS, created_at=zero, completed_at=zero + timedelta(seconds=10)
    )
    await poll(scheduler, left, said)
    assert (await live(scheduler, FIVE, 30.0))[0] < 10


async def test_a_service_that_recovers() -> None:
    """After an hour of trouble the first poll comes after two minutes all the same."""
    scheduler = PollScheduler(Polling(), Limits())
    await together(*(live(scheduler, FIVE, 1200.0) for _ in range(50)))
    assert (await live(scheduler, FIVE, 75.0)) == about(120)


@pytest.mark.parametrize("dated", [True, False])
async def test_failures_teach_nothing(dated: bool) -> None:  # noqa: FBT001
    """How long it took a task to fail says nothing about those that succeed."""
    scheduler = PollScheduler(Polling(first=10.0), Limits())
    zero = datetime.now(UTC)
    later = zero + timedelta(seconds=5)
    said = Snapshot(REF, TaskState.FAILED, created_at=zero, completed_at=later)
    for _ in range(40):
        await poll(scheduler, scheduler.track(FIVE), said if dated else FAILED)
    # Nearly 90 s old, it is still within its time, but in no tail.
    tracked = scheduler.track(FIVE)
    await asyncio.sleep(85)
    assert [await poll(scheduler, tracked), await poll(scheduler, tracked)] == about(485, 486)


async def test_kinds_are_apart() -> None:
    """What is learned of one kind is nothing to another."""
    scheduler = PollScheduler(Polling(), Limits())
    for _ in range(40):
        await live(scheduler, FIVE, 30.0)
    assert (await live(scheduler, FIVE, 30.0))[0] < 31
    assert (await live(scheduler, TEN, 100.0))[:1] == about(90)
    official = Kind(FIVE.model, FIVE.mode, FIVE.duration, "official")
    assert (await live(scheduler, official, 80.0))[:1] == about(60)


async def test_stuck_tasks() -> None:
    """A task that does not end is asked after four times a minute, and teaches nothing."""
    scheduler = PollScheduler(Polling(), Limits())
    ages = await live(scheduler, FIVE, 1800.0)
    assert len(ages) < 30 + 30 + 1800 / 15
    assert [b - a for a, b in zip(ages[-9:-1], ages[-8:], strict=True)] == about(*[15] * 8)
    for _ in range(50):
        await poll(scheduler, scheduler.track(FIVE, 60.0), FAILED)
    assert (await live(scheduler, FIVE, 70.0))[:1] == about(60)
