from __future__ import annotations

import asyncio
import json
from collections import Counter
from random import Random
from statistics import median
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from kling_async import KlingClient, Limits, MasterTextToVideo, Polling, TaskRef
from kling_async.errors import TaskFailedError
from kling_async.events import CalledBack, Event, Polled
from kling_async.testing import ScriptedTransport, VirtualLoop
from kling_async.testing.transport import answer
from kling_async.webhooks.inbox import Inbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kling_async.testing.transport import Request, Response
    from tests.conftest import Emulate, ServeApp

FOX = MasterTextToVideo("a fox in fresh snow")
SECRET = "the secret of this test"
URL = "https://example.com/a.mp4"

# Of tasks that take 60 to 90 s, the callbacks are overdue then.
OVERDUE = 90 + 9.0


def now() -> float:
    """Give the loop's time."""
    return asyncio.get_running_loop().time()


def on_time(_number: int) -> list[float]:
    """Call back a tenth of a second after each end."""
    return [0.1]


def never(_number: int) -> list[float]:
    """Do not call back."""
    return []


def evenly(low: float, high: float) -> Callable[[int], float]:
    """Draw durations evenly between two."""
    dice = Random(1)  # noqa: S311 - durations, not keys
    return lambda number: dice.uniform(low, high)


class Service:
    """Carries out submits; functions say how long the Nth task takes, and when it calls back."""

    def __init__(
        self, lasts: Callable[[int], float], calls: Callable[[int], list[float]] = on_time
    ) -> None:
        self.lasts = lasts
        self.calls = calls
        self.fails: set[int] = set()
        self.dated = True  # whether answers have the times of tasks
        self.inbox = Inbox("https://example.com/kling", secret=SECRET)
        self.ends: list[float] = []
        self.began: list[float] = []
        self.late: dict[int, float] = {}  # when the end was noticed, after it
        self.polls: Counter[int] = Counter()
        self.requests: list[float] = []
        self.events: list[Event] = []

    def client(self, limits: Limits | None = None, polling: Polling | None = None) -> KlingClient:
        return KlingClient(
            "sk-a-key",
            transport=ScriptedTransport(self.reply),
            inbox=self.inbox,
            limits=limits,
            polling=polling,
            hooks=[self.events.append],
        )

    async def reply(self, request: Request) -> Response:
        await asyncio.sleep(0.02)
        self.requests.append(now())
        if request.ref is not None:
            number = int(request.ref.task_id)
            self.polls[number] += 1
            return answer(self.data(number))
        assert request.body is not None
        number = len(self.ends)
        self.began.append(now())
        self.ends.append(now() + self.lasts(number))
        path = urlsplit(json.loads(request.body)["callback_url"]).path
        loop = asyncio.get_running_loop()
        for after in self.calls(number):
            loop.call_at(self.ends[-1] + after, self.call, number, path)
        return answer({"taskId": str(number)})

    def call(self, number: int, path: str) -> None:
        envelope = {"code": 200, "message": "success", "data": self.data(number)}
        assert self.inbox.handle("POST", path, "", json.dumps(envelope).encode()) == 200

    def data(self, number: int) -> dict[str, object]:
        data: dict[str, object] = {"taskId": str(number), "state": "processing"}
        if self.dated:
            data["createTime"] = int(self.began[number] * 1000)
        if now() >= self.ends[number]:
            data["state"] = "failed" if number in self.fails else "success"
            data["resultJson"] = json.dumps({"resultUrls": [URL]})
            if self.dated:
                data["completeTime"] = int(self.ends[number] * 1000)
        return data

    async def generate(self, kling: KlingClient) -> None:
        task = await kling.submit(FOX)
        number = int(task.ref.task_id)
        try:
            await task
        except TaskFailedError:
            assert number in self.fails
        assert number not in self.late
        self.late[number] = now() - self.ends[number]

    def run(
        self,
        number: int,
        at_once: int = 1000,
        polling: Polling | None = None,
        limits: Limits | None = None,
    ) -> float:
        """Generate so many, so many of them at a time; give the seconds that it took."""

        async def main() -> float:
            async with self.client(limits, polling) as kling:
                await self.some(kling, number, at_once)
                assert not kling.running
            return now()

        # Without the loop's debug mode, which takes several times as long.
        with asyncio.Runner(debug=False, loop_factory=VirtualLoop) as runner:
            took = runner.run(main())
        assert len(self.late) == number
        return took

    async def some(self, kling: KlingClient, number: int, at_once: int = 1000) -> None:
        """Generate some more."""
        slots = asyncio.Semaphore(at_once)

        async def one() -> None:
            async with slots:
                await self.generate(kling)

        async with asyncio.TaskGroup() as group:
            for _ in range(number):
                group.create_task(one())

    def count(self, kind: type[Event]) -> int:
        """Count the events of a kind."""
        return sum(isinstance(event, kind) for event in self.events)


# ----------------------------------------------------------------------------------- callbacks come


def test_nothing_but_confirmations() -> None:
    """As long as callbacks come, each task is polled once, as soon as it is called back."""
    service = Service(evenly(60, 90))
    service.run(200, at_once=50)
    assert set(service.polls.values()) == {1}
    assert max(service.late.values()) < 0.2
    assert service.count(CalledBack) == service.count(Polled) == 200


def test_losses_and_doubles() -> None:
    """Of a burst of which a fifth is lost and a fifth doubled, all end once and in time."""
    service = Service(evenly(60, 90))
    service.calls = lambda number: {0: [], 1: [0.1, 0.1], 2: [0.1, 30.0]}.get(number % 5, [0.1])
    service.run(500)
    assert sum(service.polls.values()) <= 500 * 1.1
    lost = [late for number, late in service.late.items() if number % 5 == 0]
    others = [late for number, late in service.late.items() if number % 5]
    assert max(lost) < OVERDUE - 60 + 0.5
    assert median(others) < 0.2
    assert max(others) < 0.5
    # Nor was that a reason to ask as if none came.
    calls, service.calls = sum(service.polls.values()), on_time
    assert calls == 500


@pytest.mark.parametrize("dated", [True, False])
def test_losses_do_not_tighten(dated: bool) -> None:  # noqa: FBT001
    """A fifth that is lost in a steady stream has no other task asked after more often."""
    service = Service(evenly(60, 90))
    service.calls = lambda number: [0.1] if number % 5 else []
    service.dated = dated
    service.run(300, at_once=30)
    assert max(service.polls.values()) <= 2
    assert sum(service.polls.values()) < 310


def test_losses_among_failures() -> None:
    """Failed tasks whose callbacks are lost in a burst have no other asked after more often."""
    service = Service(evenly(60, 90), lambda number: [0.1] if number % 5 else [])
    service.fails = {number for number in range(100) if number % 5 == 0}

    async def main() -> None:
        async with service.client() as kling:
            await service.some(kling, 100)
            await service.some(kling, 10)

    with asyncio.Runner(debug=False, loop_factory=VirtualLoop) as runner:
        runner.run(main())
    assert max(service.polls[number] for number in range(101, 110) if number % 5) == 1


@pytest.mark.parametrize("lasts", [10.0, 60.0, 75.0, 98.0])
def test_one_that_is_lost(lasts: float) -> None:
    """A lost callback is found out when it is overdue."""
    service = Service(lambda _: lasts, lambda number: [] if number == 1 else [0.1])
    service.run(3)
    assert service.late[1] == pytest.approx(OVERDUE - lasts, abs=0.1)
    assert service.polls == {0: 1, 1: 1, 2: 1}


@pytest.mark.parametrize("lasts", [99.5, 120.0, 158.0, 300.0, 1000.0])
@pytest.mark.parametrize("net", [60.0, 20.0, 200.0])
def test_a_slow_one_that_is_lost(lasts: float, net: float) -> None:
    """One that takes longer than most, and is lost, is found a safety net after its end at most."""
    service = Service(
        lambda number: lasts if number else 70, lambda number: [] if number else [0.1]
    )
    service.run(2, polling=Polling(safety_net=net))
    assert 0 <= service.late[1] <= net + 0.5
    assert service.polls[1] == (lasts - OVERDUE) // net + 2


def test_an_explicit_first_poll() -> None:
    """An explicit first wait is kept, and the safety net begins after that all the same."""
    service = Service(lambda _: 75.0)
    service.run(1, polling=Polling(first=5.0))
    assert service.requests == pytest.approx([0, 5, 75.1], abs=0.1)
    service = Service(lambda _: 150.0, never)
    service.run(1, polling=Polling(first=5.0, safety_net=30.0))
    assert service.requests == pytest.approx([0, 5, 99, 129, 159], abs=0.5)


def test_what_callbacks_teach() -> None:
    """How long tasks take is learned by callbacks, too, and moves the safety net along."""
    service = Service(evenly(20, 30))
    service.run(50, at_once=10)
    assert max(service.late.values()) < 0.2
    service = Service(evenly(20, 30), lambda number: [0.1] if number != 60 else [])
    service.run(65, at_once=1)
    assert service.late[60] < 35 + 1 - 20


def test_callbacks_that_are_late() -> None:
    """Callbacks that are half a minute late do not wake tasks that the safety net has woken."""
    service = Service(evenly(60, 90), lambda _: [30.0])
    service.run(100, at_once=50)
    assert max(service.late.values()) < 40
    assert max(service.polls.values()) <= 25


def test_a_tiny_limit() -> None:
    """At 10 requests a minute and 3 tasks all finish by their callbacks, within the limit."""
    service = Service(evenly(60, 90))
    limits = Limits(10, 3)
    assert service.run(12, limits=limits) < 12 / 3 * 75 * 1.3 + 30
    assert set(service.polls.values()) == {1}
    assert all(
        sum(at <= other < at + 60 for other in service.requests) <= 10 for at in service.requests
    )


# --------------------------------------------------------------------------------- they do not come


def test_never_a_callback() -> None:
    """Without any callback the first three are found by the safety net, later ones by polls."""
    service = Service(lambda _: 75.0, never)
    took = service.run(10, at_once=1)
    late = [service.late[number] for number in range(10)]
    assert late[:3] == pytest.approx([OVERDUE - 75] * 3, abs=10)
    assert min(late[:3]) > 5
    assert max(late[3:]) < 1.5
    assert took < 10 * 76 + 3 * 25
    assert max(service.polls.values()) < 35


def test_never_a_callback_in_waves() -> None:
    """Of many at a time the first wave is found by the safety net, the next ones by polls."""
    service = Service(evenly(60, 90), never)
    service.run(120, at_once=40)
    assert max(service.late.values()) < OVERDUE - 60 + 0.5
    assert max(service.late[number] for number in range(80, 120)) < 2
    assert {service.polls[number] for number in range(40)} == {1}


def test_never_a_callback_at_a_tiny_limit() -> None:
    """At 10 requests a minute and 3 tasks all finish without callbacks, too."""
    service = Service(evenly(60, 90), never)
    assert service.run(12, limits=Limits(10, 3)) < 12 / 3 * 75 * 1.6 + 90


def test_an_outage() -> None:
    """While callbacks stop coming, polls take over after three ends; the first one ends that."""
    broken = range(10, 25)
    service = Service(lambda _: 75.0, lambda number: [] if number in broken else [0.1])
    service.run(40, at_once=1)
    assert {service.polls[number] for number in range(10)} == {1}
    assert {service.polls[number] for number in broken[:3]} == {1}
    assert max(service.late[number] for number in broken[:3]) < 25
    assert all(service.polls[number] > 1 for number in broken[3:])
    assert max(service.late[number] for number in broken[3:]) < 1.5
    # The one that is waited for when they come again was still to be polled.
    assert {service.polls[number] for number in range(27, 40)} == {1}
    assert max(service.late[number] for number in range(27, 40)) < 0.2


def test_a_callback_of_a_task_that_was_polled() -> None:
    """A callback restores the trust also when polls have found the end of its task before."""
    service = Service(lambda _: 75.0, lambda number: [] if number < 6 else [3.0])
    service.run(12, at_once=1)
    assert service.polls[5] > 1
    assert service.polls[8] == service.polls[11] == 1


# -------------------------------------------------------------------------------- with real sockets


def receiver(inbox: list[Inbox]) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Make a handler that gives what comes to the inbox."""

    async def handle(request: web.Request) -> web.Response:
        body = await request.read()
        status = inbox[0].handle(request.method, request.path, request.query_string, body)
        return web.Response(status=status)

    return handle


@pytest.mark.virtual_time
async def test_an_emulator_that_calls_back(emulate: Emulate, serve_app: ServeApp) -> None:
    """Callbacks of the emulator wake the tasks of a client, whatever becomes of some of them."""
    rules = [
        *("callback:3=lost", "callback:4=double", "callback:5=double:5", "callback:6=delay:20"),
        *("callback:7=overtaken", "callback:8=early", "callback:9=garbage"),
        *("callback:10=truncated", "callback:11=wrong-task", "callback:12=unfinished"),
        *("callback:13=object-result", "submit:14=lost-answer", "task:2=fail:NSFW"),
    ]
    emulator = await emulate(*rules, duration=(60.0, 90.0))
    held: list[Inbox] = []
    inbox = Inbox(f"{await serve_app(receiver(held))}/kling", secret=SECRET)
    held.append(inbox)
    events: list[Event] = []
    async with KlingClient(
        emulator.key, base_url=emulator.base_url, inbox=inbox, hooks=[events.append]
    ) as kling:
        outcomes = [one async for one in kling.generate_many([FOX] * 20, ordered=True)]
        assert sum(one.error is not None for one in outcomes) == 2  # one failed, one was lost
        assert now() < OVERDUE + 5
        asked = Counter(event.snapshot.ref for event in events if isinstance(event, Polled))
        assert sum(asked.values()) <= 20 * 1.1
        # The task of the lost answer is found by its callback, and its end is noticed.
        assert len(asked) == 20
        assert kling.running == ()
        assert inbox.counts.delivered >= 13
        assert inbox.counts.still_running == 1
        assert inbox.counts.invalid_token == 0
        await asyncio.sleep(1000)  # what was not answered with 200 comes again, without harm
        assert inbox.counts.malformed == 2 * 4
        assert sum(isinstance(event, Polled) for event in events) == sum(asked.values())


@pytest.mark.virtual_time
async def test_a_fifth_lost_and_a_fifth_doubled(emulate: Emulate, serve_app: ServeApp) -> None:
    """With real callbacks, too, all tasks end once and in time if a fifth is lost or doubled."""
    emulator = await emulate("callback:*5=lost", "callback:*4=double", duration=(60.0, 90.0))
    held: list[Inbox] = []
    held.append(Inbox(await serve_app(receiver(held)), secret=SECRET))
    async with KlingClient(emulator.key, base_url=emulator.base_url, inbox=held[0]) as kling:
        outcomes = [one async for one in kling.generate_many([FOX] * 100)]
    refs = {one.result.ref for one in outcomes if one.result}
    assert refs == {TaskRef(FOX.model, entry.task_id) for entry in emulator.ledger}
    assert len(outcomes) == len(refs) == 100
    polls = sum(arrival.kind == "status" for arrival in emulator.requests)
    assert polls <= 110
    assert now() < OVERDUE + 5
    assert held[0].counts.delivered == 80
    assert held[0].counts.repeated == 20
