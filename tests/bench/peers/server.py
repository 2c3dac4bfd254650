"""A server that speaks the clients' five protocols, in a process of its own, and keeps count.

Run as ``python -m tests.bench.peers.server``; it prints its port, serves until its input ends and
prints what it has counted. Paths and bodies are what the clients' sources ask for, no more.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable
from itertools import count
from typing import NamedTuple

from aiohttp import web

from tests.bench.peers.messages import WARM, Counts

VIDEO = "https://cdn.example.com/video.mp4"

Body = dict[str, object]


class Remote(NamedTuple):
    """One task. It has no state but its times."""

    id: str
    created: float
    ends: float

    @property
    def ended(self) -> bool:
        return time.time() >= self.ends


class Ledger:
    """All tasks, and the counts."""

    def __init__(self, shortest: float, longest: float) -> None:
        self._shortest = shortest
        self._span = longest - shortest
        self._numbers = count(1)
        self._found: dict[str, float] = {}
        self.tasks = {WARM: Remote(WARM, 0.0, 0.0)}
        self.keyed = 0
        self.polls = 0

    def start(self) -> Remote:
        number = next(self._numbers)
        # Multiples of the golden ratio spread durations evenly, whatever the count.
        duration = self._shortest + self._span * (number * 0.618034 % 1)
        now = time.time()
        task = Remote(f"task-{number}", now, now + duration)
        self.tasks[task.id] = task
        return task

    def notify(self, task: Remote) -> None:
        if task.ended and task.id != WARM:
            self._found.setdefault(task.id, time.time() - task.ends)

    def counts(self) -> Counts:
        started = [task for task in self.tasks.values() if task.id != WARM]
        ended = sum(task.ended for task in started)
        late = sum(self._found.values()) / max(1, len(self._found))
        return Counts(len(started), self.keyed, self.polls, ended, len(self._found), late)


def runway(task: Remote, origin: str) -> Body:
    """Answer as the service of ``runwayml``."""
    body: Body = {"id": task.id, "createdAt": "2026-01-01T00:00:00Z"}
    if task.ended:
        return body | {"status": "SUCCEEDED", "cost": {"credits": 25}, "output": [VIDEO]}
    return body | {"status": "RUNNING", "estimatedCost": {"credits": 25}, "progress": 0.5}


def openai(task: Remote, origin: str) -> Body:
    """Answer as the service of ``openai``."""
    return {
        "id": task.id,
        "object": "video",
        "created_at": int(task.created),
        "model": "sora-2",
        "progress": 100 if task.ended else 50,
        "seconds": "4",
        "size": "1280x720",
        "status": "completed" if task.ended else "in_progress",
    }


def replicate(task: Remote, origin: str) -> Body:
    """Answer as the service of ``replicate``."""
    return {
        "id": task.id,
        "model": "kwaivgi/kling-v2.1-master",
        "version": "hidden",
        "status": "succeeded" if task.ended else "starting",
        "input": {"prompt": "a fox in fresh snow"},
        "output": VIDEO if task.ended else None,
        "created_at": "2026-01-01T00:00:00Z",
        "urls": {"get": f"{origin}/v1/predictions/{task.id}"},
    }


def fal(task: Remote, origin: str) -> Body:
    """Answer as the queue of ``fal-client``."""
    request = f"{origin}/fal-ai/kling-video/requests/{task.id}"
    return {
        "request_id": task.id,
        "status": "COMPLETED" if task.ended else "IN_PROGRESS",
        "logs": None,
        "metrics": {},
        "response_url": request,
        "status_url": f"{request}/status",
        "cancel_url": f"{request}/cancel",
    }


def kling(task: Remote, origin: str) -> Body:
    """Answer as the contract says."""
    data: Body = {"taskId": task.id, "createTime": int(task.created * 1000), "state": "processing"}
    if task.ended:
        ended = {"completeTime": int(task.ends * 1000), "costTime": 75_000}
        data |= ended | {"state": "success", "resultJson": json.dumps({"resultUrls": [VIDEO]})}
    return {"code": 200, "message": "success", "data": data}


# Where each starts a task and asks after it; the answer to both is the same body.
DIALECTS: tuple[tuple[str, str, Callable[[Remote, str], Body]], ...] = (
    ("/v1/text_to_video", "/v1/tasks/{id}", runway),
    ("/v1/videos", "/v1/videos/{id}", openai),
    ("/v1/models/kwaivgi/kling-v2.1-master/predictions", "/v1/predictions/{id}", replicate),
    (
        "/fal-ai/kling-video/v2.1/master/text-to-video",
        "/fal-ai/kling-video/requests/{id}/status",
        fal,
    ),
    ("/api/v1/generateTask/kling-2-1", "/api/v1/statusTask/kling-2-1", kling),
)


def application(ledger: Ledger, *, lose: bool) -> web.Application:
    """Make the server; with ``lose`` it starts tasks and hangs up instead of answering."""

    def routes(submit_path: str, status_path: str, body: Callable[[Remote, str], Body]) -> None:
        def answer(request: web.Request, task: Remote) -> web.Response:
            ledger.notify(task)
            return web.json_response(body(task, str(request.url.origin())))

        async def submit(request: web.Request) -> web.Response:
            try:
                await request.read()
            except ConnectionResetError:  # the client has ended in the middle of it
                return web.Response()
            task = ledger.start()
            ledger.keyed += "Idempotency-Key" in request.headers
            if lose and request.transport is not None:
                request.transport.close()
            return answer(request, task)

        async def status(request: web.Request) -> web.Response:
            task = ledger.tasks[request.match_info.get("id") or request.query["taskId"]]
            ledger.polls += task.id != WARM
            return answer(request, task)

        app.router.add_post(submit_path, submit)
        app.router.add_get(status_path, status)

    async def result(request: web.Request) -> web.Response:
        return web.json_response({"video": {"url": VIDEO}})

    app = web.Application()
    for dialect in DIALECTS:
        routes(*dialect)
    app.router.add_get("/fal-ai/kling-video/requests/{id}", result)
    return app


async def _serve(ledger: Ledger, *, lose: bool) -> None:
    runner = web.AppRunner(application(ledger, lose=lose), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps(ledger.counts()))
    await runner.cleanup()


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shortest", type=float, default=60.0)
    parser.add_argument("--longest", type=float, default=90.0)
    parser.add_argument("--lose", action="store_true")
    asked = parser.parse_args()
    asyncio.run(_serve(Ledger(asked.shortest, asked.longest), lose=asked.lose))


if __name__ == "__main__":
    main()
