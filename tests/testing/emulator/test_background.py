from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from tests.conftest import ServeApp
    from tests.testing.emulator.conftest import Start


async def test_close_ends_the_work(start: Start, serve_app: ServeApp) -> None:
    """An emulator that closes cancels the reading of images and waits until it has ended."""
    connected = asyncio.Event()

    async def never(_request: web.Request) -> web.Response:
        connected.set()
        await asyncio.sleep(9)
        return web.Response()

    peer = await start()
    url = f"{await serve_app(never)}/cat.jpg"
    await peer.submit(prompt="a cat", image_urls=[url])
    await connected.wait()
    before = asyncio.get_running_loop().time()
    await peer.emulator.__aexit__(None, None, None)
    assert asyncio.get_running_loop().time() - before < 1


async def test_finished_work_is_forgotten(start: Start) -> None:
    """A task that has ended leaves no asyncio task behind."""
    peer = await start()
    tasks = len(asyncio.all_tasks())
    await peer.submit(callback_url="http://127.0.0.1:1/")
    await asyncio.sleep(1000)
    assert len(asyncio.all_tasks()) == tasks
    assert len(peer.emulator.deliveries) == 4


async def test_timestamps_are_in_milliseconds(start: Start) -> None:
    """The emulator's time advances with the loop's, and is shown in Unix milliseconds."""
    peer = await start()
    task_id = await peer.submit()
    await asyncio.sleep(100)
    data = await peer.status(task_id)
    assert data["createTime"] > 1_700_000_000_000
    assert data["completeTime"] - data["createTime"] == 60_000
