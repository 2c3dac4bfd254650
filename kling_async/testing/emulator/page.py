"""The page at ``/``, which shows what the emulator does, and the routes that it uses.

``POST /faults`` switches on faults, a rule on each line of its body, as `Scenario.parse` reads
them; ``DELETE /faults`` switches all off; ``GET /faults`` names those that may still apply.

None of these routes needs the key, so none shows a key that the user has chosen. Their requests
are not recorded, not counted, not delayed, and meet no fault.
"""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiohttp import web

from kling_async.errors import ConfigurationError
from kling_async.testing.emulator.checks import Refusal
from kling_async.testing.emulator.environment import format_exports
from kling_async.testing.emulator.tasks import USUAL
from kling_async.testing.scenario import KINDS, Scenario, faults_of, has_value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kling_async.testing.emulator.active_faults import ActiveFaults
    from kling_async.testing.emulator.service import Service
    from kling_async.testing.emulator.tasks import EmulatedTask

ROUTES: Final = frozenset({"page", "page-state", "page-file", "page-faults"})
"""The names of these routes."""

_STATIC: Final = Path(__file__).parent / "static"
_FILES: Final[Mapping[str, str]] = {"style.css": "text/css", "page.js": "text/javascript"}
_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src data:; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# How many tasks are shown, and how much of a prompt.
_RUNNING: Final = 100
_ENDED: Final = 20
_PROMPT: Final = 300

# The values of faults that need one.
_EXAMPLES: Final[Mapping[str, str]] = {
    "code": "500",
    "fail": "NSFW_DETECTED",
    "late-page": "503",
    "page": "403",
}


class Page:
    """The handlers of the page.

    Args:
        service: The account that it shows.
        active_faults: The faults that it shows and changes.
        variables: Returns a client's environment variables for the address that a browser uses.
        shows_key: Whether it shows the key; not if the user has chosen it.
    """

    def __init__(
        self,
        service: Service,
        active_faults: ActiveFaults,
        variables: Callable[[str], dict[str, str]],
        *,
        shows_key: bool,
    ) -> None:
        self._service = service
        self._active_faults = active_faults
        self._variables = variables
        self._shows_key = shows_key
        self._start_balance = service.balance

    def add_routes(self, app: web.Application) -> None:
        """Add the routes to the application."""
        app.router.add_get("/", self._index, name="page")
        app.router.add_get("/page/state", self._state, name="page-state")
        app.router.add_get("/page/{name}", self._file, name="page-file")
        faults = app.router.add_resource("/faults", name="page-faults")
        faults.add_route("GET", self._faults)
        faults.add_route("POST", self._add_faults)
        faults.add_route("DELETE", self._clear_faults)

    async def _index(self, _request: web.Request) -> web.Response:
        html = await asyncio.to_thread((_STATIC / "index.html").read_text, "utf-8")
        # In a script element, "<" is the only character that could end it.
        catalogue = json.dumps(fault_catalogue()).replace("<", "\\u003c")
        html = html.replace("{{catalogue}}", catalogue)
        return web.Response(text=html, content_type="text/html", headers=_HEADERS)

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in _FILES:
            raise Refusal(404, "Not found", error="No such file")
        text = await asyncio.to_thread((_STATIC / name).read_text, "utf-8")
        return web.Response(text=text, content_type=_FILES[name], headers=_HEADERS)

    async def _state(self, request: web.Request) -> web.Response:
        now, service = asyncio.get_running_loop().time(), self._service
        variables = self._variables(f"{request.scheme}://{request.host}")
        if not self._shows_key:
            del variables["APIXO_API_KEY"]
        state = {
            "running": service.count_running(now),
            "concurrent_tasks": service.concurrent_tasks,
            "requests": service.window.counted(now),
            "requests_per_minute": service.window.limit,
            "balance": service.balance,
            "spent": round(self._start_balance - service.balance, 4),
            "submitted": len(service.ledger),
            "exports": format_exports(variables),
            "own_key": not self._shows_key,
            "faults": self._rules(),
            "tasks": [
                _describe_task(task, now)
                for task in service.latest_tasks(running=_RUNNING, ended=_ENDED)
            ],
        }
        return web.json_response(state, headers=_HEADERS)

    async def _faults(self, _request: web.Request) -> web.Response:
        return web.json_response(self._rules(), headers=_HEADERS)

    async def _add_faults(self, request: web.Request) -> web.Response:
        _check_origin(request)
        try:
            lines = (await request.read()).decode().split("\n")
            self._active_faults.add(Scenario.parse(line for line in lines if line.strip()))
        except (ConfigurationError, UnicodeDecodeError) as error:
            raise Refusal(400, "Invalid request", error=str(error)) from error
        return await self._faults(request)

    async def _clear_faults(self, request: web.Request) -> web.Response:
        _check_origin(request)
        self._active_faults.clear()
        return await self._faults(request)

    def _rules(self) -> list[str]:
        return [str(rule) for rule in self._active_faults.pending()]


def fault_catalogue() -> dict[str, dict[str, dict[str, str | None]]]:
    """Return the faults of each kind: what happens, and an example of the value.

    The value is None for a fault without one, and empty if it is optional.
    """
    return {
        kind: {
            name: {"text": text, "value": _EXAMPLES.get(name, "") if has_value(name) else None}
            for name, text in faults_of(kind).items()
        }
        for kind in KINDS
    }


def _describe_task(task: EmulatedTask, now: float) -> dict[str, object]:
    end = min(now, task.ends_at)
    is_known = math.isfinite(task.ends_at)
    rules = (task.outcome, task.callback)
    return {
        "id": task.task_id,
        "mode": " · ".join(filter(None, (task.model, task.order.mode))),
        "prompt": task.order.prompt[:_PROMPT],
        "state": task.state(now),
        "seconds": round(end - task.created, 1),
        "progress": _share(end - task.created, task.ends_at - task.created) if is_known else None,
        "failure": _failure(task) if task.state(now) == "failed" else None,
        "file": f"files/{task.task_id}.mp4" if task.has_file(now) else None,
        "faults": [rule.what for rule in rules if rule not in USUAL],
    }


def _failure(task: EmulatedTask) -> str:
    failure = task.failure
    return "" if failure is None else f"{failure.code}: {failure.message}"


def _share(part: float, whole: float) -> float:
    return round(part / whole, 3) if whole > 0 else 1.0


def _check_origin(request: web.Request) -> None:
    """Refuse (403) a request that another site's page sends from a browser on this machine."""
    origin = request.headers.get("Origin")
    if origin is not None and origin != f"{request.scheme}://{request.host}":
        raise Refusal(403, "Forbidden", error="Another site may not switch faults")
