"""A scripted service that calls back, for the tests of callbacks."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kling_async import KlingClient, Limits, MasterTextToVideo
from kling_async.limits.local import LocalLimiter
from kling_async.testing import ScriptedTransport
from kling_async.testing.transport import answer
from kling_async.webhooks.inbox import Inbox

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from kling_async.events import (
        Event,
    )
    from kling_async.testing.transport import Request, Response


FOX = MasterTextToVideo("a fox in fresh snow")

MODEL = FOX.model

SECRET = "the secret of this test"

URLS = ["https://example.com/a.mp4"]


def now() -> float:
    """Give the loop's time."""
    return asyncio.get_running_loop().time()


def data(task_id: str, state: str = "success", urls: list[str] | None = None) -> dict[str, object]:
    """Say how a task stands, as status answers and callbacks do."""
    said: dict[str, object] = {"taskId": task_id, "state": state}
    if state == "success":
        said["resultJson"] = json.dumps({"resultUrls": URLS if urls is None else urls})
    if state == "failed":
        said |= {"failCode": "NSFW", "failMsg": "no"}
    return said


class Service:
    """Carries out what a client sends, and calls back as it is instructed."""

    def __init__(self, inbox: Inbox | None = None) -> None:
        self.inbox = inbox or Inbox("https://example.com/kling", secret=SECRET)
        self.transport = ScriptedTransport(self.reply)
        self.bodies: list[dict[str, object]] = []  # of submits
        self.states: dict[str, str] = {}
        self.asked: Counter[str] = Counter()
        self.moments: list[float] = []  # of status calls
        self.takes = 0.0  # an answer to a status call
        self.submit_takes = 0.0
        self.refuses: list[Exception] = []  # the next submits
        self.events: list[Event] = []
        self.limiter = LocalLimiter(Limits(concurrent_tasks=50))

    def client(self) -> KlingClient:
        return KlingClient(
            "sk-a-key",
            transport=self.transport,
            inbox=self.inbox,
            hooks=[self.events.append],
            limiter=self.limiter,
        )

    async def reply(self, request: Request) -> Response:
        if request.ref is None:
            assert request.body is not None
            self.bodies.append(json.loads(request.body))
            task_id = f"task_{len(self.bodies)}"
            self.states.setdefault(task_id, "processing")
            await asyncio.sleep(self.submit_takes)
            if self.refuses:
                raise self.refuses.pop(0)
            return answer({"taskId": task_id})
        task_id = request.ref.task_id
        self.asked[task_id] += 1
        self.moments.append(now())
        if task_id not in self.states:
            return answer(None, status=404, message="no such task")
        said = data(task_id, self.states[task_id])
        await asyncio.sleep(self.takes)
        return answer(said)

    def url(self, number: int = 1) -> str:
        """Give the URL that the Nth submit asked to be called at."""
        return str(self.bodies[number - 1].get("callback_url"))

    def call(
        self,
        number: int = 1,
        state: str = "success",
        *,
        task: str = "",
        urls: list[str] | None = None,
    ) -> int:
        """Post to the Nth submit's URL that a task, else the Nth, stands like this."""
        said = {
            "code": 200,
            "message": "success",
            "data": data(task or f"task_{number}", state, urls),
        }
        path = urlsplit(self.url(number)).path
        return self.inbox.handle("POST", path, "", json.dumps(said).encode())

    def end(self, number: int = 1, state: str = "success") -> int:
        """End a task, and call back."""
        self.states[f"task_{number}"] = state
        return self.call(number, state)

    def events_of(self, *kinds: type[Event]) -> list[Event]:
        """Give the events of these kinds."""
        return [event for event in self.events if isinstance(event, kinds)]


async def waiting(task: Coroutine[object, object, object]) -> asyncio.Task[object]:
    """Begin to wait; come back between two polls, if they come every second."""
    begun = asyncio.create_task(task)
    await asyncio.sleep(0.7)
    return begun
