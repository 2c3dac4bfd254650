from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from kling_async.testing.emulator.callbacks import AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.conftest import ServeApp
    from tests.testing.emulator.conftest import Start


class Receiver:
    """Answers callbacks with the given statuses, then with 200."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.bodies: list[bytes] = []
        self.times: list[float] = []

    @property
    def got(self) -> list[tuple[float, Any]]:
        """When each callback came, and what it said."""
        return [(at, json.loads(body)) for at, body in zip(self.times, self.bodies, strict=True)]

    @property
    def tasks(self) -> list[str]:
        """Whose callbacks came, in their order."""
        return [body["data"]["taskId"] for _, body in self.got]

    async def answer(self, request: web.Request) -> web.Response:
        assert (request.method, request.content_type) == ("POST", "application/json")
        self.times.append(asyncio.get_running_loop().time())
        self.bodies.append(await request.read())
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 0:
            await asyncio.sleep(31)
        headers = {"Location": "/elsewhere"} if status in {301, 307} else {}
        return web.Response(status=status or 200, headers=headers)


def since_the_first(receiver: Receiver) -> list[float]:
    """Give the seconds from the first callback to each."""
    return [at - receiver.times[0] for at in receiver.times]


async def test_one_post_at_the_end(start: Start, serve_app: ServeApp) -> None:
    """A callback is the status answer of the ended task, posted once at its end."""
    receiver = Receiver()
    peer = await start()
    url = f"{await serve_app(receiver.answer)}/token"
    task_id = await peer.submit(callback_url=url)
    await asyncio.sleep(1000)
    ((at, body),) = receiver.got
    assert at == pytest.approx(60, abs=1)
    assert body == {"code": 200, "message": "success", "data": await peer.status(task_id)}
    (delivery,) = peer.emulator.deliveries
    assert (delivery.task_id, delivery.url, delivery.attempt, delivery.status) == (
        task_id,
        url,
        1,
        200,
    )
    assert peer.emulator.ledger[0].callback_url == url


async def test_delivered_by_a_function(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """A function can deliver callbacks: what it returns is the status; an error is no answer."""
    received: list[str] = []

    def in_thread(url: str, body: bytes) -> int:
        received.append(f"{url} {json.loads(body)['data']['state']}")
        return 500

    async def on_loop(url: str, body: bytes) -> int:
        await asyncio.sleep(1)
        return in_thread(url, body) - 300

    def failing(url: str, body: bytes) -> int:
        raise ValueError(len(url) + len(body))

    peer = await start()
    await peer.submit(callback_url="https://testserver/a-token")
    deliver: list[Callable[[str, bytes], int | Awaitable[int]]] = [in_thread, failing, on_loop]
    for function, seconds in zip(deliver, (70, 30, 120), strict=True):
        peer.emulator.deliver_callback = function
        assert peer.emulator.deliver_callback is function
        await asyncio.sleep(seconds)
    assert [delivery.status for delivery in peer.emulator.deliveries] == [500, None, 200]
    assert received == ["https://testserver/a-token success"] * 2
    assert "deliver_callback of the emulator failed" in caplog.text
    assert "a-token" not in caplog.text


async def test_failed_tasks_call_back_too(start: Start, serve_app: ServeApp) -> None:
    """A task that failed is reported as failed."""
    receiver = Receiver()
    peer = await start("task:1=fail:NSFW")
    await peer.submit(callback_url=await serve_app(receiver.answer))
    await asyncio.sleep(100)
    assert receiver.got[0][1]["data"]["failCode"] == "NSFW"


async def test_retries_after_30_s_2_min_10_min(start: Start, serve_app: ServeApp) -> None:
    """Anything but exactly 200 is tried again after 30 s, 2 min and 10 min, then given up."""
    receiver = Receiver(201, 500, 302, 404, 204)
    peer = await start()
    await peer.submit(callback_url=await serve_app(receiver.answer))
    await asyncio.sleep(10_000)
    assert since_the_first(receiver) == pytest.approx([0, 30, 150, 750], abs=0.1)
    assert [d.status for d in peer.emulator.deliveries] == [201, 500, 302, 404]
    assert [d.attempt for d in peer.emulator.deliveries] == [1, 2, 3, 4]


async def test_speed_shortens_the_retries(start: Start, serve_app: ServeApp) -> None:
    """The waits between attempts follow the emulator's speed."""
    receiver = Receiver(500)
    peer = await start(speed=10.0)
    await peer.submit(callback_url=await serve_app(receiver.answer))
    await asyncio.sleep(100)
    assert since_the_first(receiver) == pytest.approx([0, 3], abs=0.1)


async def test_redirects_are_not_followed(start: Start, serve_app: ServeApp) -> None:
    """A redirect is not 200, and is not followed."""
    receiver = Receiver(307, 301)
    peer = await start()
    await peer.submit(callback_url=await serve_app(receiver.answer))
    await asyncio.sleep(10_000)
    assert [d.status for d in peer.emulator.deliveries] == [307, 301, 200]
    assert len(receiver.got) == 3


@pytest.mark.parametrize("speed", [1.0, 10.0])
async def test_an_answer_must_come_within_30_s(
    speed: float, start: Start, serve_app: ServeApp
) -> None:
    """A receiver that takes longer than 30 s has not answered, whatever the speed is."""
    receiver = Receiver(0)
    peer = await start(speed=speed)
    await peer.submit(callback_url=await serve_app(receiver.answer))
    await asyncio.sleep(10_000)
    assert [d.status for d in peer.emulator.deliveries] == [None, 200]
    first, second = peer.emulator.deliveries
    assert second.at - first.at == pytest.approx(30 + 30 / speed, abs=0.1)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "https://127.0.0.1:99999/x"])
async def test_no_server(url: str, start: Start) -> None:
    """A callback that cannot be delivered is abandoned after four attempts."""
    peer = await start()
    await peer.submit(callback_url=url)
    await asyncio.sleep(10_000)
    assert [d.status for d in peer.emulator.deliveries] == [None] * 4


async def test_stuck_tasks_never_call_back(start: Start, serve_app: ServeApp) -> None:
    """No end, no callback."""
    receiver = Receiver()
    peer = await start("task:1=stuck")
    await peer.submit(callback_url=await serve_app(receiver.answer))
    await asyncio.sleep(100_000)
    assert receiver.got == []


async def test_leaving_ends_the_deliveries(start: Start, serve_app: ServeApp) -> None:
    """An emulator that stops does not call back any more, and leaves nothing running."""
    receiver = Receiver()
    peer = await start()
    await peer.submit(callback_url=await serve_app(receiver.answer))
    await peer.emulator.__aexit__(None, None, None)
    await asyncio.sleep(1000)
    assert receiver.got == []


async def test_leaving_ends_an_attempt(start: Start, serve_app: ServeApp) -> None:
    """An attempt that waits for its answer does not hold up the end, nor does its retry come."""
    receiver = Receiver(0, 500)
    peer = await start()
    await peer.submit(callback_url=await serve_app(receiver.answer))
    await asyncio.sleep(70)
    before = asyncio.get_running_loop().time()
    await peer.emulator.__aexit__(None, None, None)
    assert asyncio.get_running_loop().time() - before < 1
    await asyncio.sleep(1000)
    assert len(receiver.bodies) == 1


@pytest.mark.slow
async def test_a_crowd_has_bounded_connections(start: Start, serve_app: ServeApp) -> None:
    """Of a thousand callbacks at one moment a hundred are sent; to wait is no failed attempt."""
    here, most = 0, 0

    async def answer(_request: web.Request) -> web.Response:
        nonlocal here, most
        here += 1
        most = max(most, here)
        await asyncio.sleep(29)
        here -= 1
        return web.Response()

    peer = await start(balance=10_000.0)
    url = await serve_app(answer)
    async with asyncio.TaskGroup() as group:
        for _ in range(1000):
            group.create_task(peer.submit(callback_url=url))
    await asyncio.sleep(75)
    assert here == AT_ONCE
    before = asyncio.get_running_loop().time()
    assert (await peer.balance())[0] == 200  # and the API answers at once
    assert asyncio.get_running_loop().time() - before < 1
    await asyncio.sleep(10_000)
    assert most == AT_ONCE
    assert [(d.attempt, d.status) for d in peer.emulator.deliveries] == [(1, 200)] * 1000


async def test_lost(start: Start, serve_app: ServeApp) -> None:
    """A lost callback is never sent, not even again; the task can be asked for."""
    receiver = Receiver()
    peer = await start("callback:2=lost")
    url = await serve_app(receiver.answer)
    tasks = [await peer.submit(callback_url=url) for _ in range(3)]
    await asyncio.sleep(10_000)
    assert sorted(receiver.tasks) == sorted([tasks[0], tasks[2]])
    assert {d.task_id for d in peer.emulator.deliveries} == {tasks[0], tasks[2]}
    assert (await peer.status(tasks[1]))["state"] == "success"


@pytest.mark.parametrize(
    ("rule", "speed", "later"),
    [("double", 1, 0), ("double:5", 1, 5), ("double:100", 1, 100), ("double:5", 10, 0.5)],
)
async def test_double(
    rule: str, speed: float, later: float, start: Start, serve_app: ServeApp
) -> None:
    """A doubled callback is sent twice, the same, at one time or some seconds later."""
    receiver = Receiver()
    peer = await start(f"callback:1={rule}", speed=speed)
    await peer.submit(callback_url=await serve_app(receiver.answer))
    await asyncio.sleep(10_000)
    assert since_the_first(receiver) == pytest.approx([0, later], abs=0.1)
    assert receiver.bodies[0] == receiver.bodies[1]
    assert [d.attempt for d in peer.emulator.deliveries] == [1, 1]


async def test_each_double_is_retried(start: Start, serve_app: ServeApp) -> None:
    """Each of two copies is sent again by itself until it is taken."""
    receiver = Receiver(200, 500, 500)
    peer = await start("callback:1=double:5")
    await peer.submit(callback_url=await serve_app(receiver.answer))
    await asyncio.sleep(10_000)
    assert since_the_first(receiver) == pytest.approx([0, 5, 35, 155], abs=0.1)


@pytest.mark.parametrize(
    ("rule", "speed", "at"), [("delay", 1, 80), ("delay:5", 1, 65), ("delay:5", 10, 6.5)]
)
async def test_delay(rule: str, speed: float, at: float, start: Start, serve_app: ServeApp) -> None:
    """A delayed callback comes so much later, at the emulator's speed, and is the same else."""
    receiver = Receiver(500)
    peer = await start(f"callback:1={rule}", speed=speed)
    await peer.submit(callback_url=await serve_app(receiver.answer))
    await asyncio.sleep(10_000)
    created = peer.emulator.ledger[0].at
    since = [when - created for when in receiver.times]
    assert since == pytest.approx([at, at + 30 / speed], abs=0.1)


async def test_overtaken(start: Start, serve_app: ServeApp) -> None:
    """A callback that is overtaken comes right after the next one that falls due."""
    receiver = Receiver()
    peer = await start("callback:1=overtaken", "callback:2=lost")
    url = await serve_app(receiver.answer)
    tasks = []
    for _ in range(4):
        tasks.append(await peer.submit(callback_url=url))
        await asyncio.sleep(10)
    await asyncio.sleep(1000)
    assert receiver.tasks == [tasks[2], tasks[0], tasks[3]]
    assert since_the_first(receiver) == pytest.approx([0, 0, 10], abs=0.1)


async def test_overtaken_by_one_that_is_refused(start: Start, serve_app: ServeApp) -> None:
    """To be overtaken it is enough that the next one was sent once."""
    receiver = Receiver(500)
    peer = await start("callback:1=overtaken")
    url = await serve_app(receiver.answer)
    tasks = [await peer.submit(callback_url=url)]
    await asyncio.sleep(1)
    tasks.append(await peer.submit(callback_url=url))
    await asyncio.sleep(1000)
    assert receiver.tasks == [tasks[1], tasks[0], tasks[1]]


async def test_overtaken_by_none(start: Start, serve_app: ServeApp) -> None:
    """Where no other falls due, an overtaken callback comes 60 s late."""
    receiver = Receiver()
    peer = await start("callback:1=overtaken")
    await peer.submit(callback_url=await serve_app(receiver.answer))
    await asyncio.sleep(1000)
    assert receiver.times[0] - peer.emulator.ledger[0].at == pytest.approx(120, abs=0.1)


async def test_early(start: Start, serve_app: ServeApp) -> None:
    """An early callback has been answered before its submit is; the task has ended by then."""
    states = []

    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        states.append(body["data"]["state"])
        submitting = [seen for seen in peer.emulator.requests if seen.kind == "submit"]
        assert [seen.status for seen in submitting] == [None]
        await asyncio.sleep(3)
        states.append((await peer.status(body["data"]["taskId"]))["state"])
        return web.Response()

    peer = await start("callback:1=early")
    task_id = await peer.submit(callback_url=await serve_app(answer))
    assert states == ["success", "success"]
    assert [d.task_id for d in peer.emulator.deliveries] == [task_id]
    assert asyncio.get_running_loop().time() == pytest.approx(3, abs=0.5)


async def test_early_and_refused(start: Start, serve_app: ServeApp) -> None:
    """The submit waits for the first attempt only; the others come as usual."""
    receiver = Receiver(404)
    peer = await start("callback:1=early")
    task_id = await peer.submit(callback_url=await serve_app(receiver.answer))
    assert receiver.tasks == [task_id]
    await asyncio.sleep(100)
    assert since_the_first(receiver) == pytest.approx([0, 30], abs=0.1)


async def test_early_but_stuck(start: Start, serve_app: ServeApp) -> None:
    """A task that never ends has no callback, and its submit is answered all the same."""
    receiver = Receiver()
    peer = await start("callback:1=early", "task:1=stuck")
    await peer.submit(callback_url=await serve_app(receiver.answer))
    assert receiver.bodies == []


async def test_early_does_not_hold_up_the_end(start: Start, serve_app: ServeApp) -> None:
    """A submit that waits for its early callback does not keep the emulator from ending."""
    receiver = Receiver(0)
    peer = await start("callback:1=early")
    url = await serve_app(receiver.answer)
    submit = asyncio.create_task(peer.submit(callback_url=url))
    await asyncio.sleep(1)
    before = asyncio.get_running_loop().time()
    await peer.emulator.__aexit__(None, None, None)
    assert asyncio.get_running_loop().time() - before < 1
    await asyncio.gather(submit, return_exceptions=True)


@pytest.mark.parametrize("what", ["garbage", "truncated"])
async def test_no_json(what: str, start: Start, serve_app: ServeApp) -> None:
    """A callback may be no JSON; when it is sent again, it is the same."""
    receiver = Receiver(400)
    peer = await start(f"callback:1={what}")
    await peer.submit(callback_url=await serve_app(receiver.answer))
    await asyncio.sleep(100)
    assert since_the_first(receiver) == pytest.approx([0, 30], abs=0.1)
    assert receiver.bodies[0] == receiver.bodies[1]
    with pytest.raises(ValueError, match=r"codec|Unterminated|delimiter|Expecting"):
        json.loads(receiver.bodies[0])


async def test_wrong_words(start: Start, serve_app: ServeApp) -> None:
    """A callback may name another task, speak of no end, or have its result as an object."""
    receiver = Receiver()
    peer = await start(
        "callback:1=wrong-task",
        "callback:2=unfinished",
        "callback:3-=object-result",
        "task:4=fail:NSFW",
    )
    url = await serve_app(receiver.answer)
    tasks = []
    for _ in range(4):
        tasks.append(await peer.submit(callback_url=url))
        await asyncio.sleep(1)
    await asyncio.sleep(1000)
    truth = [await peer.status(task_id) for task_id in tasks]
    wrong, unfinished, result, failure = (body["data"] for _, body in receiver.got)
    assert wrong["taskId"] not in tasks
    assert wrong == {**truth[0], "taskId": wrong["taskId"]}
    assert unfinished == {
        "taskId": tasks[1],
        "state": "processing",
        "createTime": truth[1]["createTime"],
    }
    assert result == {**truth[2], "resultJson": json.loads(truth[2]["resultJson"])}
    assert failure == truth[3]
