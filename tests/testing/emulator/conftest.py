from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
import pytest

from kling_async.testing import Emulator, Scenario
from kling_async.testing.clock import VirtualLoop

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable

TEXT = {"mode": "master-text-to-video", "prompt": "a fox"}


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test here on virtual time: nothing waits."""
    return {"virtual": VirtualLoop}


class Peer:
    """An emulator, and a session that sends requests to it."""

    def __init__(self, emulator: Emulator, session: aiohttp.ClientSession) -> None:
        self.emulator = emulator
        self.session = session
        self.headers = {"Authorization": f"Bearer {emulator.key}"}

    async def call(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, data: bytes = b""
    ) -> tuple[int, dict[str, Any], aiohttp.ClientResponse]:
        """Send a request and read a JSON answer."""
        async with self.session.request(
            method,
            f"{self.emulator.base_url}{path}",
            headers=self.headers if headers is None else headers,
            data=data or None,
        ) as response:
            return response.status, json.loads(await response.read()), response

    async def post(self, body: object) -> tuple[int, dict[str, Any], aiohttp.ClientResponse]:
        """Send a submit with this body."""
        return await self.call("POST", "/generateTask/kling-2-1", data=json.dumps(body).encode())

    async def submit(self, *, callback_url: str | None = None, **fields: object) -> str:
        """Start a task; without fields a text-to-video one."""
        body: dict[str, object] = {"input": fields or TEXT}
        if callback_url is not None:
            body |= {"request_type": "callback", "callback_url": callback_url}
        status, answer, _ = await self.post(body)
        assert status == 200, answer
        task_id: str = answer["data"]["taskId"]
        return task_id

    async def status(self, task_id: str) -> dict[str, Any]:
        """Give `data` of the task's status answer."""
        status, answer, _ = await self.call("GET", f"/statusTask/kling-2-1?taskId={task_id}")
        assert status == answer["code"] == 200
        data: dict[str, Any] = answer["data"]
        return data

    async def balance(self) -> tuple[int, dict[str, Any], aiohttp.ClientResponse]:
        """Ask for the balance."""
        return await self.call("GET", "/apikeys/current-balance")


class Start(Protocol):
    async def __call__(self, *rules: str, **options: Any) -> Peer: ...  # noqa: ANN401


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start an emulator with scenario rules and options."""
    async with AsyncExitStack() as stack:

        async def start(*rules: str, **options: Any) -> Peer:  # noqa: ANN401
            emulator = Emulator(
                scenario=Scenario.parse(rules), **{"duration": (60.0, 60.0), **options}
            )
            await stack.enter_async_context(emulator)
            session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
            return Peer(emulator, await stack.enter_async_context(session))

        yield start
