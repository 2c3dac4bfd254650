from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

if TYPE_CHECKING:
    from tests.conftest import ServeApp
    from tests.testing.emulator.conftest import Start


class Receiver:
    """Answers callbacks with the given statuses, then with 200."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.got: list[tuple[float, Any]] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.got.append((asyncio.get_running_loop().time(), await request.json()))
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 0:
            await asyncio.sleep(31)
        headers = {"Location": "/elsewhere"} if status in {301, 307} else {}
        return web.Response(status=status or 200, headers=headers)


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
    times = [at for at, _ in receiver.got]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == pytest.approx([30, 120, 600], abs=1)
    assert [d.status for d in peer.emulator.deliveries] == [201, 500, 302, 404]
    assert [d.attempt for d in peer.emulator.deliveries] == [1, 2, 3, 4]


async def test_speed_shortens_the_retries(start: Start, serve_app: ServeApp) -> None:
    """The waits between attempts follow the emulator's speed."""
    receiver = Receiver(500)
    peer = await start(speed=10.0)
    await peer.submit(callback_url=await serve_app(receiver.answer))
    await asyncio.sleep(100)
    times = [at for at, _ in receiver.got]
    assert times == pytest.approx([6, 9], abs=0.5)


async def test_redirects_are_not_followed(start: Start, serve_app: ServeApp) -> None:
    """A redirect is not 200, and is not followed."""
    receiver = Receiver(307, 301)
    peer = await start()
    await peer.submit(callback_url=await serve_app(receiver.answer))
    await asyncio.sleep(10_000)
    assert [d.status for d in peer.emulator.deliveries] == [307, 301, 200]
    assert len(receiver.got) == 3


async def test_an_answer_must_come_within_30_s(start: Start, serve_app: ServeApp) -> None:
    """A receiver that takes longer than 30 s has not answered."""
    receiver = Receiver(0)
    peer = await start()
    await peer.submit(callback_url=await serve_app(receiver.answer))
    await asyncio.sleep(10_000)
    assert [d.status for d in peer.emulator.deliveries] == [None, 200]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "https://127.0.0.1:99999/x"])
async def test_nobody_listens(url: str, start: Start) -> None:
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
