"""The real client, on virtual time, at a model of the service that counts every request.

The model knows the service's limits and times, and refuses nothing: it notes by how much a limit
was broken. All its chance is seeded, so that a case gives the same figures on every machine;
only the time that it takes to compute depends on that.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from heapq import heappop, heappush, heapreplace
from itertools import chain, repeat
from multiprocessing import get_context
from random import Random

from attrs import evolve, field, frozen

from kling_async import KlingClient, Limits, MasterTextToVideo
from kling_async.protocol.requests import Request, Response
from kling_async.testing import VirtualLoop

FOX = MasterTextToVideo("a fox in fresh snow")

# Seconds: the contract's word on videos of 5 s, and what a request takes there and back.
DURATION = (60.0, 90.0)
LATENCY = (0.05, 0.3)

STUCK = 1800.0
ENOUGH = 10**14  # requests a minute: no limit


def growing() -> Iterator[float]:
    """Wait half as long again each time."""
    wait = 5.0
    while True:
        yield wait
        wait = min(30.0, wait * 1.5)


# Waits between polls that do not learn, for comparison.
SCHEDULES: dict[str, Callable[[], Iterable[float]]] = {
    "60 s, then every 5 s": lambda: chain((60.0,), repeat(5.0)),
    "5 s, then x1.5, at most 30 s": growing,
    "every 3 s": lambda: repeat(3.0),
}


@frozen
class Case:
    """One simulation.

    Attributes:
        tasks: How many there are.
        limits: What the client keeps, and what the service is judged by.
        schedule: A name among those above; without one, the client's own polls.
        unlimited: The client keeps no limit of requests.
        latency: Seconds that a request takes there and back, at the least and at the most.
        reported: The service reports when tasks began and ended.
        slow_after: Tasks that begin after this moment take twice as long.
        stuck: The share of tasks that take half an hour.
        timeout: Seconds that the caller waits for a task.
        staggered: Each of the first tasks, as many as there are slots, takes up to a whole
            duration longer, so that the tasks after them do not begin and end together.
    """

    tasks: int
    limits: Limits = field(factory=Limits)
    schedule: str | None = None
    unlimited: bool = False
    latency: tuple[float, float] = LATENCY
    reported: bool = True
    slow_after: float = float("inf")
    stuck: float = 0.0
    timeout: float = 3600.0
    staggered: bool = False

    def duration(self, now: float, dice: Random, number: int) -> float:
        """Give a task the time that it takes."""
        if self.staggered and number < self.limits.concurrent_tasks:
            return dice.uniform(*DURATION) + dice.uniform(0.0, sum(DURATION) / 2)
        if dice.random() < self.stuck:
            return STUCK
        return dice.uniform(*DURATION) * (2.0 if now >= self.slow_after else 1.0)


@frozen
class Figures:
    """What came of one simulation.

    Attributes:
        case: Which.
        late: Seconds from each task's end until the client knew, in the order of submission.
        makespan: Seconds from the first submit to the last outcome.
        perfect: The same for a client that knows each end at once and needs no requests.
        requests: How many reached the service.
        fullest: The most that reached it in any 60 seconds.
        over: How many reached it when there was no room for them: requests and tasks.
        most: The most tasks that ran at one time.
        cpu: Seconds of CPU time, of the model as well.
    """

    case: Case
    late: list[float]
    makespan: float
    perfect: float
    requests: int
    fullest: int
    over: int
    most: int
    cpu: float

    @property
    def steady(self) -> list[float]:
        """How late the client was while all slots were in use and no longer in step."""
        slots = self.case.limits.concurrent_tasks
        # Tasks that begin staggered teach durations of their own for a while.
        return self.late[(3 if self.case.staggered else 2) * slots : -slots]


class Service:
    """A transport whose other end is the model."""

    def __init__(
        self,
        duration: Callable[[float, Random, int], float],
        limits: Limits,
        *,
        latency: tuple[float, float] = LATENCY,
        reported: bool = True,
    ) -> None:
        self._duration = duration
        self._limits = limits
        self._latency = latency
        self._reported = reported
        self._dice, self._roads = Random(1), Random(2)  # noqa: S311 - seeded on purpose
        self._running: dict[str, tuple[int, float, float]] = {}
        self._ends: list[float] = []
        self._minute: deque[float] = deque()
        self.requests = self.submits = self.fullest = self.over = self.most = 0
        self.durations: list[float] = []
        self.late: dict[int, float] = {}

    async def send(self, request: Request, timeout: float) -> Response:
        """Travel there, be answered, travel back."""
        del timeout
        await self._travel()
        now = asyncio.get_running_loop().time()
        self._count(now)
        if request.ref is None:
            return await self._back(f'{{"taskId":"{self._submit(now)}"}}')
        task_id = request.ref.task_id
        number, began, ends = self._running[task_id]
        created = f',"createTime":{began * 1000:.0f}' if self._reported else ""
        if now < ends:
            return await self._back(f'{{"taskId":"{task_id}","state":"processing"{created}}}')
        completed = f',"completeTime":{ends * 1000:.0f}' if self._reported else ""
        response = await self._back(
            f'{{"taskId":"{task_id}","state":"success"{created}{completed},'
            '"resultJson":"{\\"resultUrls\\":[\\"https://cdn.example.com/fox.mp4\\"]}"}'
        )
        if self._running.pop(task_id, None):
            self.late[number] = asyncio.get_running_loop().time() - ends
        return response

    def forget(self) -> None:
        """Drop what grows with the number of tasks."""
        self.durations.clear()
        self.late.clear()

    async def close(self) -> None:
        """Do nothing: nothing was opened."""

    async def _travel(self) -> None:
        low, high = self._latency
        if high:
            await asyncio.sleep(self._roads.uniform(low, high) / 2)

    async def _back(self, data: str) -> Response:
        await self._travel()
        return Response(200, f'{{"code":200,"message":"success","data":{data}}}'.encode())

    def _count(self, now: float) -> None:
        minute = self._minute
        while minute and minute[0] <= now - 60:
            minute.popleft()
        minute.append(now)
        self.requests += 1
        self.fullest = max(self.fullest, len(minute))
        self.over += len(minute) > self._limits.requests_per_minute

    def _submit(self, now: float) -> str:
        ends = self._ends
        while ends and ends[0] <= now:
            heappop(ends)
        duration = self._duration(now, self._dice, self.submits)
        heappush(ends, now + duration)
        self.most = max(self.most, len(ends))
        self.over += len(ends) > self._limits.concurrent_tasks
        self.durations.append(duration)
        task_id = f"task_{self.submits}"
        self._running[task_id] = self.submits, now, now + duration
        self.submits += 1
        return task_id


def perfect(durations: Iterable[float], slots: int, timeout: float) -> float:
    """Return the makespan if every slot took its next task in the moment it becomes free."""
    free_at = [0.0] * slots
    last = 0.0
    for duration in durations:
        begun = free_at[0]
        heapreplace(free_at, begun + duration)
        last = max(last, begun + min(duration, timeout))
    return last


async def by_client(client: KlingClient, case: Case) -> None:
    """Do it as this project does."""
    inputs = repeat(FOX, case.tasks)
    async for _ in client.generate_many(inputs, timeout=case.timeout):
        pass


async def by_schedule(
    client: KlingClient, case: Case, waits: Callable[[], Iterable[float]]
) -> None:
    """Do it with a fixed schedule: a loop for each slot."""
    inputs = iter(repeat(FOX, case.tasks))

    async def loop() -> None:
        for one in inputs:
            task = await client.submit(one)
            for wait in waits():
                await asyncio.sleep(wait)
                if (await task.status()).state.ended:
                    break

    async with asyncio.TaskGroup() as slots:
        for _ in range(case.limits.concurrent_tasks):
            slots.create_task(loop())


async def _run(case: Case) -> Figures:
    kept = evolve(case.limits, requests_per_minute=ENOUGH) if case.unlimited else case.limits
    service = Service(case.duration, case.limits, latency=case.latency, reported=case.reported)
    begun_cpu, loop = time.process_time(), asyncio.get_running_loop()
    begun = loop.time()
    async with KlingClient("a-key", transport=service, limits=kept) as client:
        if case.schedule is None:
            await by_client(client, case)
        else:
            await by_schedule(client, case, SCHEDULES[case.schedule])
    return Figures(
        case,
        late=[service.late[number] for number in sorted(service.late)],
        makespan=loop.time() - begun,
        perfect=perfect(service.durations, case.limits.concurrent_tasks, case.timeout),
        requests=service.requests,
        fullest=service.fullest,
        over=service.over,
        most=service.most,
        cpu=time.process_time() - begun_cpu,
    )


def simulate(case: Case) -> Figures:
    """Simulate one case."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(_run(case))


def simulate_all(cases: Iterable[Case]) -> Iterator[Figures]:
    """Simulate cases in two processes; give the figures in the order of the cases."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        yield from processes.map(simulate, cases)
