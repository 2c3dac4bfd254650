"""How each fault of a scenario looks on the wire."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kling_async.testing.scenario import ScenarioRule

NOT_JSON: Final = b"\xc3\x28 {'code': 200"
"""Neither JSON nor UTF-8."""

# The service's messages where they differ from the standard phrases.
_MESSAGES: Final[Mapping[int, str]] = {
    401: "Invalid or missing API key",
    402: "Insufficient credits",
    413: "Payload too large",
    422: "Unprocessable entity",
    499: "Client closed request",
}
_GATEWAY: Final = frozenset({502, 504})
_LOGIN: Final = "/login"
_LATE: Final = 10.0
_READ: Final = 0.05
# on, and zero seconds: closing sends a reset instead of the orderly end.
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


async def instead(
    rule: ScenarioRule, request: web.Request, closing: asyncio.Event
) -> web.Response | None:
    """Return the answer that a fault gives in place of the service's; None: carry the request out.

    The fault ``late`` waits before it returns None.
    """
    detail = rule.detail
    answer: web.Response | None = None
    match rule.what:
        case "hang":
            await closing.wait()
            answer = _drop(request)
        case "reset":
            answer = _drop(request, reset=True)
        case "page":
            answer = _html_page(int(detail))
        case "redirect":
            answer = web.Response(status=int(detail or 302), headers={"Location": _LOGIN})
        case "code":
            answer = _error_envelope(int(detail))
        case status if status.isdecimal():
            headers = {"Retry-After": detail} if detail else {}
            code = int(status)
            if code in _GATEWAY:
                answer = _html_page(code)
            else:
                answer = _error_envelope(code, status=code, headers=headers)
        case "late":
            await wait(float(detail or _LATE), closing)
    return answer


async def afterwards(
    rule: ScenarioRule, request: web.Request, response: web.Response, closing: asyncio.Event
) -> web.StreamResponse:
    """Return what a fault makes of the answer to a request that has been carried out.

    The faults of files are applied by `files.file_response`.
    """
    body = response.body if isinstance(response.body, bytes) else b""
    answer: web.StreamResponse = response
    match rule.what:
        case "lost-answer":
            answer = _drop(request)
        case "garbage":
            answer = web.Response(body=NOT_JSON, content_type="application/json")
        case "truncated":
            response.body = body[: len(body) // 2]
        case "cut":
            answer = await _send_half(request, response, body)
        case "slow":
            await wait(float(rule.detail or _LATE), closing)
        case "late-page":
            answer = _html_page(int(rule.detail))
    return answer


async def wait(seconds: float, event: asyncio.Event) -> None:
    """Wait so many seconds, or until an event, such as that the emulator closes."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def add_login(app: web.Application) -> None:
    """Add the page to which the fault ``redirect`` leads."""

    async def login(_request: web.Request) -> web.Response:
        return _html_page(200)

    app.router.add_route("*", _LOGIN, login, name="login")


def _html_page(status: int) -> web.Response:
    """Return an HTML page, as a gateway, a firewall or a portal sends it."""
    text = (
        f"<html><head><title>{status}</title></head><body><h1>{_phrase(status)}</h1></body></html>"
    )
    return web.Response(status=status, text=text, content_type="text/html")


def _error_envelope(
    code: int, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    message = _MESSAGES.get(code) or _phrase(code).capitalize()
    envelope = {"code": code, "message": message, "data": None}
    return web.json_response(envelope, status=status, headers=headers)


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else "Error"


def _drop(request: web.Request, *, reset: bool = False) -> web.Response:
    """End the connection without an answer, in good order or by a reset."""
    transport = request.transport
    if transport is not None:
        if reset:
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.close()
    # It is never sent: the connection is closed.
    return web.Response()


async def _send_half(
    request: web.Request, response: web.Response, body: bytes
) -> web.StreamResponse:
    half = web.StreamResponse(status=response.status, headers=response.headers)
    half.content_length = len(body)
    with suppress(ConnectionError):  # the client has closed the connection
        await half.prepare(request)
        await half.write(body[: len(body) // 2])
        # A client that reads the end in the same moment may discard what came before it.
        await asyncio.sleep(_READ)
    _drop(request)
    return half
