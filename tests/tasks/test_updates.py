from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from kling_async import (
    ConfigurationError,
    MasterTextToVideo,
    TaskFailedError,
    TaskState,
    TaskUpdate,
)

if TYPE_CHECKING:
    from tests.conftest import Connect, Emulate

pytestmark = pytest.mark.virtual_time

FOX = MasterTextToVideo("a fox")


async def test_updates_of_a_generation(emulate: Emulate, connect: Connect) -> None:
    """There is an update when the task is accepted, and for each new state until the last."""
    kling = await connect(await emulate())
    updates: list[TaskUpdate] = []
    result = await kling.generate(FOX, on_update=updates.append)
    states = [update.state for update in updates]
    assert states[0] is TaskState.PENDING
    assert states[-1] is TaskState.SUCCESS
    assert len(set(states)) == len(states)
    first, last = updates[0], updates[-1]
    assert (first.ref, first.expected, first.snapshot) == (result.ref, 75.0, None)
    assert first.elapsed == pytest.approx(0.0, abs=1.0)
    assert last.snapshot is not None
    assert last.snapshot.result_urls == result.result_urls
    assert last.elapsed is not None
    assert last.elapsed >= 60


async def test_updates_of_a_failure(emulate: Emulate, connect: Connect) -> None:
    """The last update of a task that fails says so, before the error is raised."""
    kling = await connect(await emulate("task:1=fail:NSFW_DETECTED"))
    updates: list[TaskUpdate] = []
    with pytest.raises(TaskFailedError):
        await kling.generate(FOX, on_update=updates.append)
    assert updates[-1].snapshot is not None
    assert updates[-1].snapshot.fail_code == "NSFW_DETECTED"


async def test_updates_of_an_attached_task(emulate: Emulate, connect: Connect) -> None:
    """Of a task that may not run, nothing is said before the first answer."""
    emulator = await emulate()
    ref = (await (await connect(emulator)).submit(FOX)).ref
    await asyncio.sleep(30)
    updates: list[TaskUpdate] = []
    await (await connect(emulator)).attach(ref).wait(on_update=updates.append)
    assert updates[0].state is TaskState.PROCESSING
    assert updates[0].elapsed is None
    assert updates[0].snapshot is not None


async def test_updates_of_an_ended_task(emulate: Emulate, connect: Connect) -> None:
    """A task that has ended has one update."""
    kling = await connect(await emulate())
    task = await kling.submit(FOX)
    await task
    updates: list[TaskUpdate] = []
    await task.wait(on_update=updates.append)
    assert [update.state for update in updates] == [TaskState.SUCCESS]


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_errors_of_the_function(
    error: type[BaseException],
    emulate: Emulate,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What the function raises is logged, and ends nothing."""

    def fail(_: TaskUpdate) -> None:
        raise error

    kling = await connect(await emulate())
    with caplog.at_level(logging.ERROR, "kling_async"):
        result = await kling.generate(FOX, on_update=fail)
    assert f"on_update failed on pending of {result.ref}" in caplog.text


async def _await_nothing(_: TaskUpdate) -> None: ...


@pytest.mark.parametrize("on_update", [_await_nothing, "print"])
async def test_what_is_no_function(on_update: object, emulate: Emulate, connect: Connect) -> None:
    """What cannot be called, or would have to be awaited, is refused before anything is sent."""
    kling = await connect(await emulate())
    with pytest.raises(ConfigurationError, match="on_update must be a function"):
        await kling.generate(FOX, on_update=on_update)  # type: ignore[arg-type]
    assert kling.running == ()
