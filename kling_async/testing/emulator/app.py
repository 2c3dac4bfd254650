"""The routes, and the order in which a request is judged.

Key, then request window, then body, then running tasks, then balance. A fault of the scenario
comes before all of these, as a gateway's would. Result files and samples need no key and are not
counted, as on a content server.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp import web
from attrs import frozen

from kling_async.testing.emulator import faults
from kling_async.testing.emulator.background import Background
from kling_async.testing.emulator.files import Films, file_response
from kling_async.testing.emulator.images import ImageProblem, ImageReader
from kling_async.testing.emulator.records import Arrival
from kling_async.testing.emulator.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp.typedefs import Handler

    from kling_async.testing.emulator.callbacks import Callbacks
    from kling_async.testing.emulator.records import RequestLog
    from kling_async.testing.emulator.service import Service
    from kling_async.testing.emulator.tasks import EmulatedTask
    from kling_async.testing.scenario import Rule, Scenario

API: Final = "/api/v1"
_MAX_BODY: Final = 1024 * 1024
# Result URLs are valid for 15 days; what a dead one answers is unknown, 404 is a choice.
_FILE_LIFE: Final = 15 * 24 * 3600.0
# Where a request carries the fault that it meets.
_FAULT: Final = web.RequestKey("fault", str)
# The number under which the log knows it.
_NUMBER: Final = web.RequestKey("number", int)
_SAMPLE_TYPES: Final = {
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".jsonl": "application/jsonl",
}


@frozen
class Settings:
    """How the answers are given: see `Emulator`; `decode`: pictures can be decoded.

    `latency` gives the seconds that the next request or answer is under way.
    """

    latency: Callable[[], float]
    speed: float
    retry_after: bool
    rendered: bool
    decode: bool
    samples: Path | None


class Api:
    """What answers the requests, and the work that goes on behind it."""

    def __init__(
        self,
        service: Service,
        scenario: Scenario,
        callbacks: Callbacks,
        log: RequestLog,
        settings: Settings,
    ) -> None:
        self._service = service
        self._scenario = scenario
        self._callbacks = callbacks
        self._log = log
        self._settings = settings
        self._counts: Counter[str] = Counter()
        self._background = Background()
        self._images = ImageReader(lambda: self._session, decode=settings.decode)
        self._films = Films(self._images, rendered=settings.rendered)
        self._closing = asyncio.Event()
        self._wall = 0.0
        self._session: aiohttp.ClientSession

    def app(self) -> web.Application:
        """Build the application."""
        app = web.Application(middlewares=[self._gate], client_max_size=_MAX_BODY)
        app.cleanup_ctx.append(self._life)
        app.on_shutdown.append(self._close)
        app.router.add_post(f"{API}/generateTask/{{model}}", self._submit, name="submit")
        app.router.add_get(f"{API}/statusTask/{{model}}", self._status, name="status")
        app.router.add_get(f"{API}/apikeys/current-balance", self._balance, name="balance")
        app.router.add_get("/files/{task_id}.mp4", self._file, name="file")
        faults.add_login(app)
        if self._settings.samples is not None:
            app.router.add_get("/samples/{name}", self._sample, name="sample")
        return app

    async def _life(self, _app: web.Application) -> AsyncIterator[None]:
        self._wall = time.time() - asyncio.get_running_loop().time()
        session = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            # A small answer must not unfold into a large one.
            auto_decompress=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "kling-async-emulator"},
            connector=aiohttp.TCPConnector(limit=0),
        )
        async with session as self._session, self._callbacks.open():
            yield
            await self._background.close()
            await self._films.close()
            await self._images.close()

    async def _close(self, _app: web.Application) -> None:
        self._closing.set()
        # What is under way may hold up an answer.
        await self._background.close()

    @web.middleware
    async def _gate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Note the request, meet the scenario, check key and window, turn refusals into answers."""
        kind = request.match_info.route.name or "other"
        number = self._log.add(Arrival(_now(), request.method, request.rel_url.path_qs, kind))
        request[_NUMBER] = number
        fault = self._fault(kind)
        await self._travel(kind)
        response = await self._respond(request, handler, fault)
        await self._travel(kind)
        if request.transport is not None and not request.transport.is_closing():
            self._log.answered(number, response.status)
        return response

    async def _travel(self, kind: str) -> None:
        """Let the latency pass, for what a client asks for."""
        if kind != "sample" and (seconds := self._settings.latency()) > 0:
            await faults.wait(seconds, self._closing)

    def _fault(self, kind: str) -> Rule | None:
        if kind == "sample":
            # Mostly read by the emulator itself, when it checks images: nobody can count on them.
            return None
        self._counts[kind] += 1
        self._counts["any"] += 1
        return self._scenario.find({key: self._counts[key] for key in (kind, "any")})

    async def _respond(
        self, request: web.Request, handler: Handler, rule: Rule | None
    ) -> web.StreamResponse:
        if rule is not None:
            response = await faults.instead(rule, request, self._closing)
            if response is not None:
                return response
            request[_FAULT] = rule.what
        answer = await self._judge(request, handler)
        if rule is not None and isinstance(answer, web.Response):
            return await faults.afterwards(rule, request, answer, self._closing)
        return answer

    async def _judge(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.path.startswith(f"{API}/"):
                self._service.check_key(request.headers.get("Authorization"))
                now = _now()
                self._service.check_rate(now)
                self._log.counted(request[_NUMBER], now)
            return await handler(request)
        except Refusal as refusal:
            return self._refuse(refusal)
        except web.HTTPException as error:
            # No such path, no such method, body too large: the framework's own.
            answer = self._refuse(Refusal(error.status, error.reason))
            if "Allow" in error.headers:
                answer.headers["Allow"] = error.headers["Allow"]
            return answer

    def _refuse(self, refusal: Refusal) -> web.Response:
        headers = {}
        if self._settings.retry_after and refusal.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(refusal.retry_after)))
        return web.json_response(refusal.envelope(), status=refusal.status, headers=headers)

    async def _submit(self, request: web.Request) -> web.Response:
        self._service.check_model(request.match_info["model"])
        raw = await request.read()
        task = self._service.submit(raw, _now(), lambda kind, n: self._scenario.find({kind: n}))
        if task.waiting or task.order.callback_url is not None:
            called_back = asyncio.Event()
            self._background.start(self._live(task, _origin(request), called_back))
            if task.callback.what == "early":
                await called_back.wait()
        else:
            self._service.end_is_known(task)
        return _success({"taskId": task.task_id})

    async def _status(self, request: web.Request) -> web.Response:
        self._service.check_model(request.match_info["model"])
        task_id = request.query.get("taskId")
        if not task_id:
            raise Refusal(400, "Invalid request", error="Missing required field: taskId")
        task = self._service.find(task_id, _now())
        return _success(task.data(_now(), self._stamp, _origin(request)))

    async def _balance(self, _request: web.Request) -> web.Response:
        return _success(self._service.balance)

    async def _file(self, request: web.Request) -> web.Response:
        now = _now()
        task = self._service.task(request.match_info["task_id"])
        if not task.has_file(now) or now - task.ends_at > _FILE_LIFE:
            raise Refusal(404, "Not found", error="No such file")
        content = await self._films.get(task.order)
        return file_response(request, content, "video/mp4", request.get(_FAULT, ""))

    async def _sample(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        content = await asyncio.to_thread(_read_sample, self._settings.samples, name)
        kind = _SAMPLE_TYPES.get(Path(name).suffix.lower(), "application/octet-stream")
        return file_response(request, content, kind)

    async def _live(self, task: EmulatedTask, origin: str, called_back: asyncio.Event) -> None:
        """Read the task's images and call back at its end; set an event whatever comes of it."""
        try:
            await self._read_images(task)
            self._service.end_is_known(task)
            if task.order.callback_url is None or math.isinf(task.ends_at):
                return
            await asyncio.sleep(task.ends_at - _now())
            data = task.data(max(_now(), task.ends_at), self._stamp, origin)
            await self._callbacks.deliver(task, data, called_back)
        finally:
            called_back.set()

    async def _read_images(self, task: EmulatedTask) -> None:
        try:
            for url in task.order.image_urls:
                await self._images.check(url)
            task.ready(_now())
        except ImageProblem as problem:
            # The service needs a second or so to find out, however near the image is.
            at = max(_now(), task.created + 1.0 / self._settings.speed)
            task.fail(at, problem.code, problem.message)

    def _stamp(self, at: float) -> int:
        return int((self._wall + at) * 1000)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _origin(request: web.Request) -> str:
    return f"{request.scheme}://{request.host}"


def _success(data: object) -> web.Response:
    return web.json_response({"code": 200, "message": "success", "data": data})


def _read_sample(folder: Path | None, name: str) -> bytes:
    # A name is looked up among those that are there, so it cannot lead out of the folder.
    for path in folder.iterdir() if folder is not None else ():
        if path.name == name and path.suffix.lower() in _SAMPLE_TYPES:
            return path.read_bytes()
    raise Refusal(404, "Not found", error="No such sample")
