from __future__ import annotations

import asyncio
import json
from bisect import bisect_right
from collections import Counter
from random import Random
from statistics import mean
from typing import TYPE_CHECKING

import pytest

from kling_async import KlingClient, Limits
from kling_async.testing import ScriptedTransport, VirtualLoop
from kling_async.testing.transport import answer
from tests.tasks.polling import FOX, now

if TYPE_CHECKING:
    from collections.abc import Callable

    from kling_async.testing.transport import Request, Response


pytestmark = pytest.mark.virtual_time


# --------------------------------------------------------------------------------- the whole system


class Service:
    """Carries out what a client sends; a function says how long the Nth task takes."""

    def __init__(self, duration: Callable[[int], float]) -> None:
        self.duration = duration
        self.transport = ScriptedTransport(self.answer)
        self.requests: list[float] = []
        self.submits: list[float] = []  # when each was accepted
        self.ends: dict[int, float] = {}
        self.late: dict[int, float] = {}
        self.scheduler: Counter[int] = Counter()

    async def answer(self, request: Request) -> Response:
        await asyncio.sleep(0.02)
        self.requests.append(now())
        if request.ref is None:
            number = len(self.submits)
            self.submits.append(now())
            self.ends[number] = now() + self.duration(number)
            return answer({"taskId": f"task_{number}"})
        number = int(request.ref.task_id.removeprefix("task_"))
        self.scheduler[number] += 1
        data = {
            "taskId": request.ref.task_id,
            "state": "processing",
            "createTime": int(self.submits[number] * 1000),
        }
        if now() >= self.ends[number]:
            self.late[number] = now() - self.ends[number]
            data |= {
                "state": "success",
                "resultJson": json.dumps({"resultUrls": ["https://example.com/a.mp4"]}),
                "completeTime": int(self.ends[number] * 1000),
            }
        return answer(data)

    def run(self, tasks: int, limits: Limits) -> float:
        """Generate so many at once; give the seconds until the last was known to have ended."""

        async def main() -> float:
            async with (
                KlingClient("a-key", transport=self.transport, limits=limits) as kling,
                asyncio.TaskGroup() as group,
            ):
                for _ in range(tasks):
                    group.create_task(kling.generate(FOX))
            return now()

        # Without the loop's debug mode, which takes several times as long.
        with asyncio.Runner(debug=False, loop_factory=VirtualLoop) as runner:
            return runner.run(main())

    def lateness(self, first: int = 0) -> float:
        """Give the mean time from an end to its discovery, of the tasks from the first on."""
        return mean(late for number, late in self.late.items() if number >= first)

    @property
    def fullest_minute(self) -> int:
        """How many requests came in the fullest 60 s."""
        moments = self.requests
        return max(bisect_right(moments, at + 60) - i for i, at in enumerate(moments))


def evenly(low: float, high: float) -> Callable[[int], float]:
    """Draw durations evenly between two."""
    dice = Random(1)  # noqa: S311 - durations, not keys
    return lambda number: dice.uniform(low, high)


@pytest.mark.repeating
@pytest.mark.slow
def test_a_hundred_slots() -> None:
    """With room in the limit, ends are found half a second late, at 17 polls a task at most."""
    service = Service(evenly(60, 90))
    assert service.run(500, Limits(10_000, 100)) < 5 * 75 + 90
    assert service.lateness(100) < 0.6
    assert service.lateness() < 0.6
    assert max(service.late.values()) < 10
    assert mean(service.scheduler.values()) < 17
    assert max(service.scheduler.values()) < 40
    assert service.fullest_minute < 10_000


@pytest.mark.repeating
def test_a_full_limit() -> None:
    """Where polls fill the limit, it is never passed, and ends are found a second or two late."""
    service = Service(evenly(60, 90))
    assert service.run(500, Limits(1000, 100)) < 5 * 75 + 90
    assert 900 < service.fullest_minute <= 1000
    assert service.lateness() < 2
    assert max(service.late.values()) < 15
    assert mean(service.scheduler.values()) < 12


@pytest.mark.repeating
def test_a_tiny_limit() -> None:
    """At 10 requests a minute and 3 tasks, all finish, and no submit waits long."""
    service = Service(evenly(60, 90))
    assert service.run(24, Limits(10, 3)) < 24 / 3 * 75 * 1.3 + 90
    assert service.fullest_minute <= 10
    assert service.lateness() < 10
    found = sorted(service.ends[number] + late for number, late in service.late.items())
    waited = [sent - freed for sent, freed in zip(service.submits[3:], found, strict=False)]
    assert max(waited) < 20  # three requests
    assert mean(waited) < 10


@pytest.mark.repeating
@pytest.mark.parametrize("factor", [2.0, pytest.param(10.0, marks=pytest.mark.slow)])
def test_a_service_in_trouble(factor: float) -> None:
    """A service that becomes much slower, and recovers, is followed both ways."""
    usual = evenly(60, 90)
    service = Service(lambda number: usual(number) * (factor if number < 80 else 1))
    service.run(400, Limits(10_000, 40))
    assert service.lateness(280) < 1
    assert max(service.late.values()) < 65
    assert max(service.scheduler.values()) < 300


@pytest.mark.repeating
def test_stuck_tasks_among_others() -> None:
    """A tenth that hangs for twenty minutes does not keep the others from being found."""
    usual = evenly(60, 90)
    service = Service(lambda number: usual(number) if number % 10 else 1200)
    service.run(200, Limits(1000, 100))
    others = [late for number, late in service.late.items() if number % 10]
    assert mean(others) < 2
    assert max(service.scheduler.values()) < 150
    assert service.fullest_minute <= 1000
