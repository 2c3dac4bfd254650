"""Tests of applications on the loop of the test, where time is virtual."""

import aiohttp.web
import httpx
import pytest
from aiohttp.test_utils import TestClient, TestServer
from app import app

from kling_async import Inbox, KlingClient, parse_input
from kling_async.testing import Emulator
from kling_async.webhooks import aiohttp as kling_aiohttp
from kling_async.webhooks import fastapi

FOX = {"mode": "master-text-to-video", "prompt": "a fox in fresh snow"}


@pytest.mark.virtual_time
async def test_fastapi_by_httpx(kling_client: KlingClient) -> None:
    async def client() -> KlingClient:
        return kling_client

    app.dependency_overrides[fastapi.client] = client
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        ref = (await http.post("/videos", json=FOX)).json()
        assert (await http.get(f"/videos/{ref}")).status_code == 504  # 20 s are too short
    app.dependency_overrides.clear()


async def make_video(request: aiohttp.web.Request) -> aiohttp.web.Response:
    kling = kling_aiohttp.client(request)
    result = await kling.generate(parse_input(await request.json()))
    return aiohttp.web.json_response(result.to_dict())


@pytest.mark.virtual_time
async def test_aiohttp_with_a_callback(kling_emulator: Emulator) -> None:
    inbox = Inbox("https://testserver/kling", secret="sixteen characters or more")
    kling = KlingClient(kling_emulator.key, base_url=kling_emulator.base_url, inbox=inbox)
    app = aiohttp.web.Application(middlewares=[kling_aiohttp.answer_errors])
    app.cleanup_ctx.append(kling_aiohttp.lifespan(kling))
    app.add_routes(kling_aiohttp.routes(inbox, prefix="/kling"))
    app.router.add_post("/videos", make_video)
    async with TestClient(TestServer(app)) as http:

        async def deliver(url: str, body: bytes) -> int:
            async with http.post(url.removeprefix("https://testserver"), data=body) as answer:
                return answer.status

        kling_emulator.deliver_callback = deliver
        async with http.post("/videos", json=FOX) as answer:
            assert answer.status == 200
    assert inbox.counts.delivered == 1
