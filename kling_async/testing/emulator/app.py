"""The routes, and the order in which a request is checked.

Key, then request window, then body, then running tasks, then balance. A fault of the scenario
comes before all of these, as a gateway's would. Result files and samples need no key and are not
counted, as on a content server. Nor do those of the page, which are not logged either.
"""

from __future__ import annotations

import asyncio
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp import web

from kling_async.testing.emulator import faults
from kling_async.testing.emulator.background import Background, Settings
from kling_async.testing.emulator.callbacks import Outbox
from kling_async.testing.emulator.checks import Refusal
from kling_async.testing.emulator.files import file_response
from kling_async.testing.emulator.page import ROUTES
from kling_async.testing.emulator.records import Arrival
from kling_async.testing.media.film import SMALL_VIDEO

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp.typedefs import Handler

    from kling_async.testing.emulator.active_faults import ActiveFaults
    from kling_async.testing.emulator.page import Page
    from kling_async.testing.emulator.records import RequestLog
    from kling_async.testing.emulator.service import Service
    from kling_async.testing.scenario import ScenarioRule

_log = logging.getLogger("kling_async.emulator")

API: Final = "/api/v1"
_MAX_BODY: Final = 1024 * 1024
# Result URLs are valid for 15 days; what an expired one answers is unknown, 404 is a choice.
_FILE_LIFE: Final = 15 * 24 * 3600.0
_BACKGROUND: Final = web.AppKey("background", Background)
# The name of the fault that a request meets.
_FAULT: Final = web.RequestKey("fault", str)
# The number of the request in the log.
_NUMBER: Final = web.RequestKey("number", int)
# Requests for images, which are not the service's.
_IMAGES: Final = ("sample", "image", "upload")
_SAMPLE_TYPES: Final = {
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".jsonl": "application/jsonl",
    ".mp4": "video/mp4",
}


class Api:
    """The handlers of the requests."""

    def __init__(
        self,
        service: Service,
        active_faults: ActiveFaults,
        log: RequestLog,
        settings: Settings,
        page: Page,
    ) -> None:
        self._service = service
        self._active_faults = active_faults
        self._log = log
        self._settings = settings
        self._page = page
        self._background: Background | None = None
        self.outbox: Outbox = Outbox()

    def app(self) -> web.Application:
        """Build the application."""
        app = web.Application(middlewares=[self._gate], client_max_size=_MAX_BODY)
        app.cleanup_ctx.append(self._run_background)
        app.on_shutdown.append(self._cancel_background)
        app.router.add_post(f"{API}/generateTask/{{model}}", self._submit, name="submit")
        app.router.add_get(f"{API}/statusTask/{{model}}", self._status, name="status")
        app.router.add_get(f"{API}/apikeys/current-balance", self._balance, name="balance")
        app.router.add_get("/files/{task_id}.mp4", self._file, name="file")
        faults.add_login(app)
        self._page.add_routes(app)
        if self._settings.uploads is not None:
            self._settings.uploads.add_routes(app)
        if self._settings.samples is not None:
            app.router.add_get("/samples/{name}", self._sample, name="sample")
        return app

    def finish_tasks(self) -> None:
        """End the running tasks now, if a server runs."""
        if self._background is not None:
            self._background.finish_tasks()

    async def _run_background(self, app: web.Application) -> AsyncIterator[None]:
        session = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            # A small answer must not unfold into a large one.
            auto_decompress=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "kling-async-emulator"},
            # A connection for each request: no callback is lost to one that is just being closed.
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
        )
        async with session:
            background = Background(session, self._service, self.outbox, self._settings)
            app[_BACKGROUND] = self._background = background
            yield
            self._background = None
            await app[_BACKGROUND].close()

    async def _cancel_background(self, app: web.Application) -> None:
        # An answer may be waiting for it.
        await app[_BACKGROUND].cancel()

    @web.middleware
    async def _gate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Log the request, apply the scenario, check key and window, answer refusals."""
        kind = request.match_info.route.name or "other"
        if kind in ROUTES:
            return await self._handle(request, handler)
        number = self._log.add(Arrival(_now(), request.method, request.rel_url.path_qs, kind))
        request[_NUMBER] = number
        rule = self._matching_rule(kind)
        await self._delay(request, kind)
        response = await self._respond(request, handler, rule)
        await self._delay(request, kind)
        if request.transport is not None and not request.transport.is_closing():
            self._log.update(number, status=response.status)
            _log.debug("%s %s: %d", request.method, request.rel_url.path_qs, response.status)
        return response

    async def _delay(self, request: web.Request, kind: str) -> None:
        """Wait for as long as a request or an answer is under way; samples are at once."""
        if kind not in _IMAGES and (seconds := self._settings.latency()) > 0:
            await faults.wait(seconds, request.app[_BACKGROUND].closing)

    def _matching_rule(self, kind: str) -> ScenarioRule | None:
        if kind in _IMAGES:
            # The emulator itself reads most of them, when it checks images: do not count them.
            return None
        return self._active_faults.count(kind, "any")

    async def _respond(
        self, request: web.Request, handler: Handler, rule: ScenarioRule | None
    ) -> web.StreamResponse:
        if rule is None:
            return await self._handle(request, handler)
        closing = request.app[_BACKGROUND].closing
        if (response := await faults.instead(rule, request, closing)) is not None:
            return response
        request[_FAULT] = rule.what
        answer = await self._handle(request, handler)
        return (
            await faults.afterwards(rule, request, answer, closing)
            if isinstance(answer, web.Response)
            else answer
        )

    async def _handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.path.startswith(f"{API}/"):
                self._service.check_key(request.headers.get("Authorization"))
                now = _now()
                self._service.check_rate(now)
                self._log.update(request[_NUMBER], counted_at=now)
            return await handler(request)
        except Refusal as refusal:
            return self._refusal_response(refusal)
        except web.HTTPException as error:
            # No such path, no such method, body too large: raised by the framework.
            answer = self._refusal_response(Refusal(error.status, error.reason))
            if "Allow" in error.headers:
                answer.headers["Allow"] = error.headers["Allow"]
            return answer

    def _refusal_response(self, refusal: Refusal) -> web.Response:
        headers = {}
        if self._settings.retry_after and refusal.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(refusal.retry_after)))
        return web.json_response(refusal.envelope(), status=refusal.status, headers=headers)

    async def _submit(self, request: web.Request) -> web.Response:
        model = request.match_info["model"]
        self._service.check_model(model)
        raw = await request.read()
        task = self._service.submit(raw, _now(), self._active_faults.count, model)
        if task.waiting or task.order.callback_url is not None:
            called_back = request.app[_BACKGROUND].start(task, _origin(request))
            if task.callback.what == "early":
                await called_back.wait()
        else:
            self._service.schedule_end(task)
        return _success({"taskId": task.task_id})

    async def _status(self, request: web.Request) -> web.Response:
        model = request.match_info["model"]
        self._service.check_model(model)
        task_id = request.query.get("taskId")
        if not task_id:
            raise Refusal(400, "Invalid request", error="Missing required field: taskId")
        task = self._service.visible_task(model, task_id, _now())
        timestamp = request.app[_BACKGROUND].timestamp
        return _success(task.data(_now(), timestamp, _origin(request)))

    async def _balance(self, _request: web.Request) -> web.Response:
        return _success(self._service.balance)

    async def _file(self, request: web.Request) -> web.Response:
        now = _now()
        task = self._service.task(request.match_info["task_id"])
        if not task.has_file(now) or now - task.ends_at > _FILE_LIFE:
            raise Refusal(404, "Not found", error="No such file")
        content = await request.app[_BACKGROUND].films.get(task.order)
        return file_response(request, content, "video/mp4", request.get(_FAULT, ""))

    async def _sample(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        content = await asyncio.to_thread(_read_sample, self._settings.samples, name)
        kind = _SAMPLE_TYPES.get(Path(name).suffix.lower(), "application/octet-stream")
        return file_response(request, content, kind)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _origin(request: web.Request) -> str:
    return f"{request.scheme}://{request.host}"


def _success(data: object) -> web.Response:
    return web.json_response({"code": 200, "message": "success", "data": data})


def _read_sample(folder: Path | None, name: str) -> bytes:
    # A name is searched among the existing ones, so it cannot lead out of the folder.
    for path in (*folder.iterdir(), SMALL_VIDEO) if folder is not None else ():
        if path.name == name and path.suffix.lower() in _SAMPLE_TYPES:
            return path.read_bytes()
    raise Refusal(404, "Not found", error="No such sample")
