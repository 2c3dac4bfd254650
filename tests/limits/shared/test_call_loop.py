from __future__ import annotations

import asyncio
import sys
from math import inf

import pytest

from kling_async.limits.shared._call_loop import CallLoop

pytestmark = pytest.mark.virtual_time


class Owner:
    """Wants calls at given times, each of which takes some time."""

    def __init__(self, *times: float, takes: float = 0.0) -> None:
        self.times = list(times)
        self.takes = takes
        self.made: list[float] = []
        self.running = 0
        self.calls = CallLoop(asyncio.get_running_loop(), self.next_call, self.call)

    def next_call(self) -> float | None:
        return self.times[0] if self.times else None

    async def call(self) -> None:
        assert not self.running
        self.running += 1
        self.made.append(self.times.pop(0))
        try:
            if self.takes:
                await asyncio.sleep(self.takes)
        finally:
            self.running -= 1


async def test_calls_are_made_when_they_are_due() -> None:
    """One after the other, even if several are due, and without a task in between."""
    owner = Owner(-inf, 0.0, 5.0, 6.0, takes=2.0)
    owner.calls.update()
    owner.calls.update()  # does nothing while a call is in flight
    await asyncio.sleep(4.5)
    assert owner.made == [-inf, 0.0]
    assert len(asyncio.all_tasks()) == 1
    await asyncio.sleep(1)
    assert owner.calls.called_at == pytest.approx(5.0, abs=0.01)
    await asyncio.sleep(20)
    assert owner.made == [-inf, 0.0, 5.0, 6.0]
    owner.calls.update()
    assert len(asyncio.all_tasks()) == 1


async def test_the_first_change_counts() -> None:
    """`changed_at` is the time of the first change since the last call."""
    owner = Owner(3.0)
    owner.calls.report_change()
    changed_at = owner.calls.changed_at
    await asyncio.sleep(1)
    owner.calls.report_change()
    assert owner.calls.changed_at == changed_at
    await asyncio.sleep(5)
    assert owner.calls.changed_at == -inf


async def test_closing_cancels_the_call() -> None:
    """The call in flight is cancelled, and no other one is made."""
    owner = Owner(-inf, -inf, takes=100.0)
    owner.calls.update()
    await asyncio.sleep(1)
    await owner.calls.close()
    assert owner.running == 0
    owner.calls.update()
    await owner.calls.close()
    await asyncio.sleep(1)
    assert owner.made == [-inf]


async def test_stopping_cancels_the_timer() -> None:
    """A call that is due later is not made after `stop`."""
    owner = Owner(5.0)
    owner.calls.update()
    owner.calls.stop()
    await asyncio.sleep(10)
    assert owner.made == []


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there are no eager tasks")
@pytest.mark.parametrize("takes", [0.0, 1.0])
async def test_eager_tasks(takes: float) -> None:
    """Calls that are made before their task exists are made once, and can be cancelled."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
    owner = Owner(-inf, -inf, takes=takes)
    owner.calls.update()
    assert len(owner.made) == (1 if takes else 2)
    await owner.calls.close()
    assert owner.running == 0
    loop.set_task_factory(None)
