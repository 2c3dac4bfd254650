from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from kling_async import KlingClient, Limits, MasterTextToVideo, Outcome, Retry
from kling_async.errors import AnswerLostError, ConnectError, ServerError
from kling_async.policy.circuit_breaker import CircuitBreaker
from kling_async.tasks.outage import OutageGate
from kling_async.testing import ScriptedTransport, VirtualLoop
from kling_async.testing.transport import answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kling_async.results import TaskRef
    from kling_async.tasks.fan_out import WorkItem
    from kling_async.tasks.outage import Attempt
    from kling_async.testing.transport import Request, Response

pytestmark = pytest.mark.virtual_time


REFUSED = ConnectError("refused", retryable=True)
LOST = AnswerLostError("lost", may_have_charged=True)


def unavailable(retry_after: float) -> ServerError:
    """Create the error of a 503."""
    return ServerError("503", retryable=True, retry_after=retry_after, verdict="unavailable")


def succeeded(ref: TaskRef) -> Response:
    """Create the answer to a status call for a task that has a result."""
    urls = json.dumps({"resultUrls": ["https://example.com/a.mp4"]})
    return answer({"taskId": ref.task_id, "state": "success", "resultJson": urls})


class Service:
    """Is out of reach for a while, in which every sending fails after some seconds."""

    def __init__(self, begin: float, end: float, takes: float = 0.0) -> None:
        self.begin, self.end, self.takes = begin, end, takes
        self.sent: list[float] = []

    async def send(self) -> None:
        now = asyncio.get_running_loop().time()
        self.sent.append(now)
        await asyncio.sleep(self.takes)
        if self.begin <= now < self.end:
            raise REFUSED

    def within(self, begin: float, end: float) -> list[float]:
        return [moment for moment in self.sent if begin <= moment < end]


@contextmanager
def admitted(attempt: Attempt) -> Iterator[Attempt]:
    """Withdraw an attempt at the end of the block, as a submit does that has no outcome."""
    try:
        yield attempt
    finally:
        attempt.withdraw()


async def submit(gate: OutageGate, service: Service) -> int:
    """Send again and again until it succeeds; return how often it was sent."""
    times = 0
    while True:
        with admitted(await gate.wait()) as attempt:
            times += 1
            try:
                await service.send()
            except ConnectError as error:
                attempt.record(error)
            else:
                attempt.record(None)
                return times


def steady() -> OutageGate:
    """Make a gate without jitter."""
    return OutageGate(asyncio.get_running_loop(), chance=lambda: 0.0)


@pytest.mark.parametrize("takes", [0.0, 0.3, 20.0])
async def test_an_outage(takes: float, caplog: pytest.LogCaptureFixture) -> None:
    """In five minutes of outage a hundred submits send one probe an interval, then all at once."""
    gate, service = steady(), Service(0.0, 300.0, takes)
    times = await asyncio.gather(*(submit(gate, service) for _ in range(100)))
    now = asyncio.get_running_loop().time()
    probes = service.within(takes + 0.5, 300.0)
    assert len(probes) <= 300 / 30 + 6
    for before, after in pairwise(probes):
        assert after - before >= min(2.0, takes or 1.0)
    assert sum(times) == 100 + 4 + len(probes) + 100  # four failed again before it was known
    assert now < 300 + 30 + 3 * takes + 1
    assert [one.levelno for one in caplog.records] == [logging.WARNING] * 2
    assert len(service.within(now - takes - 0.5, now + 1)) >= 99


async def test_within_reach() -> None:
    """While the service answers, no submit waits."""
    gate, service = steady(), Service(0.0, 0.0)
    assert set(await asyncio.gather(*(submit(gate, service) for _ in range(100)))) == {1}
    assert asyncio.get_running_loop().time() < 1


async def test_first_come_first_served() -> None:
    """Probes, and then all others, are admitted in the order in which they came."""
    gate, order = steady(), []
    for _ in range(5):
        (await gate.wait()).record(REFUSED)

    async def wait(number: int) -> None:
        attempt = await gate.wait()
        order.append((number, round(asyncio.get_running_loop().time())))
        if number < 2:
            attempt.record(REFUSED)
        else:
            attempt.record(None)

    await asyncio.gather(*(wait(number) for number in range(5)))
    assert order == [(0, 1), (1, 3), (2, 7), (3, 7), (4, 7)]


@pytest.mark.parametrize(("when", "then"), [(0.9, 1.0), (1.2, 1.2)])
async def test_a_probe_that_is_cancelled(when: float, then: float) -> None:
    """Who is cancelled before it has sent its probe leaves its turn to the next, at once."""
    gate = steady()
    for _ in range(5):
        (await gate.wait()).record(REFUSED)

    async def hold() -> None:
        with admitted(await gate.wait()):
            await asyncio.sleep(0.5)

    first = asyncio.create_task(hold())
    second = asyncio.create_task(gate.wait())
    await asyncio.sleep(when)
    first.cancel()
    await second
    assert asyncio.get_running_loop().time() == pytest.approx(then, abs=0.01)
    assert first.cancelled()


async def test_cancelled_in_the_moment_of_admission() -> None:
    """Who is cancelled after its turn has come, and before it knows, leaves it to the next."""
    gate = steady()
    for _ in range(5):
        (await gate.wait()).record(REFUSED)
    probe = await gate.wait()
    waiting = [asyncio.create_task(gate.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # does not know of it yet when the turn comes
    probe.withdraw()
    waiting[1].cancel()  # has the turn already
    attempt = await waiting[2]
    assert waiting[0].cancelled()
    assert waiting[1].cancelled()
    assert asyncio.get_running_loop().time() == pytest.approx(1.0, abs=0.01)
    attempt.record(None)


async def test_the_last_one_is_cancelled() -> None:
    """When no submit waits any more, no timer is left."""
    gate = steady()
    for _ in range(5):
        (await gate.wait()).record(REFUSED)
    waiting = asyncio.create_task(gate.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    (await gate.wait()).record(REFUSED)
    assert asyncio.get_running_loop().time() == pytest.approx(1.0, abs=0.01)


async def test_the_first_word_counts() -> None:
    """What became of an attempt is said once; leaving its block afterwards changes nothing."""
    gate = steady()
    for _ in range(5):
        with admitted(await gate.wait()) as attempt:
            attempt.record(REFUSED)
            attempt.record(None)
            attempt.record(LOST)
    with admitted(await gate.wait()) as probe:
        probe.record(LOST)
        probe.record(unavailable(100.0))
    await gate.wait()
    assert asyncio.get_running_loop().time() == pytest.approx(3.0, abs=0.01)


async def test_the_service_asks_to_wait() -> None:
    """The next probe waits at least as long as the service has asked."""
    gate = OutageGate(asyncio.get_running_loop(), CircuitBreaker(threshold=1))
    (await gate.wait()).record(unavailable(50.0))
    await gate.wait()
    assert asyncio.get_running_loop().time() == pytest.approx(50.0, abs=0.01)


@pytest.mark.parametrize("asked", [100.0, 86_400.0, 1e9])
async def test_the_service_asks_to_wait_for_too_long(asked: float) -> None:
    """No Retry-After delays the next probe of a fan-out by more than `Retry.cap`."""
    refusals = iter([unavailable(asked)] * 8)

    def script(request: Request) -> Response:
        if request.ref is not None:
            return succeeded(request.ref)
        if (refusal := next(refusals, None)) is not None:
            raise refusal
        return answer({"taskId": "task_1"})

    retry = Retry(cap=40.0)
    kling = KlingClient("a-key", transport=ScriptedTransport(script), retry=retry)
    (outcome,) = [one async for one in kling.generate_many([MasterTextToVideo("a fox")])]
    assert outcome.result is not None
    assert asyncio.get_running_loop().time() == pytest.approx(8 * 40.0 + 60.0, abs=10.0)


async def test_a_probe_that_raises_a_foreign_error() -> None:
    """What a transport of the user's raises at a probe ends one fan-out, not the next one."""
    outcomes = iter([*[REFUSED] * 5, ZeroDivisionError()])

    def script(request: Request) -> Response:
        if request.ref is not None:
            return succeeded(request.ref)
        if (error := next(outcomes, None)) is not None:
            raise error
        return answer({"taskId": "task_1"})

    kling = KlingClient("a-key", transport=ScriptedTransport(script))
    with pytest.raises(ZeroDivisionError):
        await anext(kling.generate_many([MasterTextToVideo("a fox")]))
    (outcome,) = [one async for one in kling.generate_many([MasterTextToVideo("a fox")])]
    assert outcome.result is not None


def test_several_loops() -> None:
    """Another event loop begins within reach; an attempt of an earlier one harms nothing."""
    attempts = []

    async def use() -> float:
        gate = OutageGate(asyncio.get_running_loop(), CircuitBreaker(threshold=1))
        attempts.append(await gate.wait())
        attempts[-1].record(REFUSED)
        waiting = asyncio.create_task(gate.wait())
        attempts.append(await gate.wait())
        waiting.cancel()
        return asyncio.get_running_loop().time()

    for _ in range(2):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            assert runner.run(use()) < 2
    for attempt in attempts:
        attempt.withdraw()


async def test_the_feed_pauses() -> None:
    """During an outage a fan-out draws no more than may wait for the limits."""
    gate, service = steady(), Service(0.0, 300.0)
    drawn: Counter[str] = Counter()
    limits = Limits(requests_per_minute=600)  # six at a time
    kling = KlingClient("a-key", transport=ScriptedTransport(lambda _: answer(1)), limits=limits)

    def items() -> range:
        return range(3000)

    async def work(work_item: WorkItem[int]) -> Outcome:
        drawn["all"] += 1
        await submit(gate, service)
        work_item.submitted()
        return Outcome(work_item.index, MasterTextToVideo("a fox"))

    many = kling.run_many(work, items())
    first = asyncio.ensure_future(anext(many))
    await asyncio.sleep(299)
    assert drawn["all"] == limits.connections == 6
    rest = [await first] + [one async for one in many]
    assert len(rest) == 3000
