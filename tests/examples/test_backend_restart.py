"""The example backend is killed, and started again on the same database."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from attrs import define

from kling_async.testing import Emulator
from tests.examples.conftest import Running, Start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import Emulate

pytestmark = pytest.mark.slow

FAST = {"duration": (1.5, 2.0)}  # seconds of a video; on real time
ENDS = ("done", "failed", "unsure")


@define
class Restarting:
    """A backend that is killed and started again, and the service that it uses."""

    service: Emulator
    start: Start
    session: aiohttp.ClientSession
    running: Running | None = None

    async def begin(self) -> None:
        """Start it, on the database of the process that was killed."""
        environ = {
            "APIXO_BASE_URL": self.service.origin,
            "APIXO_API_KEY": self.service.key,
            "KLING_FIRST_POLL": "1",
            **(self.running.environ if self.running else {}),
        }
        self.running = await asyncio.to_thread(self.start, environ)
        for _ in range(100):  # it accepts connections, and answers when its lifespan has begun
            if isinstance(await self.get("/videos"), list):
                return

    async def kill(self) -> None:
        """End it as a power failure would."""
        assert self.running is not None
        self.running.process.kill()
        await asyncio.to_thread(self.running.process.wait)

    async def get(self, path: str) -> Any:  # noqa: ANN401
        assert self.running is not None
        async with self.session.get(f"{self.running.url}{path}") as response:
            return await response.json()

    async def ask(self, prompt: str) -> Any:  # noqa: ANN401
        """Ask for a video; the key is its prompt."""
        assert self.running is not None
        input = {"mode": "master-text-to-video", "prompt": prompt}
        url, headers = f"{self.running.url}/videos", {"Idempotency-Key": prompt}
        async with self.session.post(url, json=input, headers=headers) as response:
            assert response.status == 202, await response.text()
            return await response.json()

    async def until(self, number: int, *states: str) -> list[dict[str, Any]]:
        """Wait until there are so many videos, and each has one of these states."""
        async with asyncio.timeout(60):
            while True:
                videos: list[dict[str, Any]] = await self.get("/videos")
                if len(videos) == number and all(video["state"] in states for video in videos):
                    return videos
                await asyncio.sleep(0.05)  # the backend has work to do


@pytest.fixture
async def backend(
    emulate: Emulate, start: Start, request: pytest.FixtureRequest
) -> AsyncIterator[Restarting]:
    """Start a backend, with a service whose videos take two seconds, and its rules."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        service = await emulate(*getattr(request, "param", ()), **FAST)
        backend = Restarting(service, start, session)
        await backend.begin()
        yield backend
        await backend.kill()


async def test_kill_during_a_generation(backend: Restarting) -> None:
    """The next process has the video and its file; the service was paid once."""
    asked = await backend.ask("a fox in fresh snow")
    await backend.until(1, "running")
    await backend.kill()
    await backend.begin()
    (video,) = await backend.until(1, *ENDS)
    assert (video["id"], video["state"]) == (asked["id"], "done")
    (paid,) = backend.service.ledger
    assert video["ref"] == f"kling-2-1/{paid.task_id}"
    assert backend.running is not None
    async with backend.session.get(backend.running.url + video["file"]) as response:
        assert b"ftyp" in (await response.read())[:16]


@pytest.mark.parametrize("backend", [("submit:2=slow:60",)], indirect=True)
async def test_kill_between_payment_and_answer(backend: Restarting) -> None:
    """What was being sent is unsure; neither a start nor a repeated request sends it again."""
    await backend.ask("the first")
    second = await backend.ask("the second")  # is answered after a minute
    await backend.until(2, "done", "sending")
    while len(backend.service.ledger) < 2:  # it has arrived
        await backend.get("/videos")
    await backend.kill()
    await backend.begin()
    _, unsure = await backend.until(2, *ENDS)
    assert (unsure["id"], unsure["state"]) == (second["id"], "unsure")
    assert unsure["error"]["may_have_charged"]
    assert (await backend.ask("the second"))["id"] == second["id"]
    third = await backend.ask("the third")
    videos = await backend.until(3, *ENDS)
    assert (videos[2]["id"], videos[2]["state"]) == (third["id"], "done")
    paid = Counter(task.input["prompt"] for task in backend.service.ledger)
    assert paid == {"the first": 1, "the second": 1, "the third": 1}


async def test_whenever_it_is_killed(backend: Restarting) -> None:
    """Killed five times at different moments, it has each video, or calls it unsure: paid once."""
    prompts = [f"take {number}" for number in range(20)]
    for number in range(5):
        with_answers = asyncio.gather(*map(backend.ask, prompts[: 4 * number + 4]))
        await asyncio.sleep(0.03 * number)
        await backend.kill()
        await asyncio.wait([with_answers])
        with_answers.exception()  # the connections that were cut
        await backend.begin()
    for prompt in prompts:
        await backend.ask(prompt)
    videos = await backend.until(len(prompts), *ENDS)
    assert [video["error"] for video in videos if video["state"] == "failed"] == []
    paid = Counter(task.input["prompt"] for task in backend.service.ledger)
    assert set(paid.values()) == {1}, paid
    done = {video["ref"] for video in videos if video["state"] == "done"}
    assert done <= {f"kling-2-1/{task.task_id}" for task in backend.service.ledger}
    assert len(done) + sum(video["state"] == "unsure" for video in videos) == len(prompts)
