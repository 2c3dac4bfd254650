"""Waiters of a poll scheduler, for its tests."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

import pytest

from kling_async import MasterTextToVideo, Snapshot, TaskRef
from kling_async.policy.durations import Kind
from kling_async.results import TaskState

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from kling_async.tasks.poll_scheduler import PollScheduler, TrackedTask


_T = TypeVar("_T")

REF = TaskRef("kling-2-1", "task_1")

FOX = MasterTextToVideo("a fox in fresh snow")

FIVE = Kind("kling-2-1", "master-text-to-video", 5)

TEN = Kind("kling-2-1", "master-text-to-video", 10)

NEW = Kind("kling-9", "text-to-video", 5)

ATTACHED = Kind("kling-2-1")

RUNNING = Snapshot(REF, TaskState.PROCESSING)

SUCCESS = Snapshot(REF, TaskState.SUCCESS)

FAILED = Snapshot(REF, TaskState.FAILED)

# An attached task alone, at the age at which it is presumed to be: a fortieth of 60 s.
ALONE = 1.5


def now() -> float:
    """Give the loop's time."""
    return asyncio.get_running_loop().time()


def about(*seconds: float) -> object:
    """Compare moments, but for the ticks of the virtual clock."""
    return pytest.approx(list(seconds), abs=1e-3)


async def poll(
    scheduler: PollScheduler,
    tracked: TrackedTask,
    said: Snapshot | None = RUNNING,
    takes: float = 0.0,
) -> float:
    """Wait for a turn, ask, and hear this; give the moment of asking."""
    await scheduler.wait_until_due(tracked)
    at = now()
    try:
        if takes:
            await asyncio.sleep(takes)
    finally:
        scheduler.record(tracked, said)
    return at


async def gap(scheduler: PollScheduler, said: Snapshot = RUNNING, kind: Kind = ATTACHED) -> float:
    """Ask after an attached task twice; give the time between the two polls."""
    tracked = scheduler.track(kind, None)
    first = await poll(scheduler, tracked, said)
    return await poll(scheduler, tracked, FAILED) - first


async def live(
    scheduler: PollScheduler,
    kind: Kind,
    lasts: float,
    *,
    dated: bool = True,
    called_back: bool = False,
) -> list[float]:
    """Follow a task that lasts so long; give its age at each poll."""
    began = now()
    tracked = scheduler.track(kind, expects_callback=called_back)
    ages = [0.0]
    while ages[-1] < lasts:
        await scheduler.wait_until_due(tracked)
        ages.append(now() - began)
        zero = datetime.now(UTC)
        done = Snapshot(
            REF,
            TaskState.SUCCESS,
            created_at=zero if dated else None,
            completed_at=zero + timedelta(seconds=lasts),
        )
        scheduler.record(tracked, RUNNING if ages[-1] < lasts else done)
    return ages[1:]


async def together(*waits: Coroutine[object, object, _T]) -> list[_T]:
    """Run all of these at once, in this order."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(wait) for wait in waits]
    return [task.result() for task in tasks]


async def fullest(scheduler: PollScheduler, number: int) -> int:
    """Let so many ask at once; count how many ever did."""
    asking = most = 0

    async def ask() -> None:
        nonlocal asking, most
        tracked = scheduler.track(ATTACHED, None)
        await scheduler.wait_until_due(tracked)
        asking += 1
        most = max(most, asking)
        await asyncio.sleep(1)
        asking -= 1
        scheduler.record(tracked, FAILED)

    await together(*(ask() for _ in range(number)))
    return most
