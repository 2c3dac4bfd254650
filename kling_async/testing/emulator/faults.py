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
    from collections.abc import Awaitable, Callable, Mapping

    from kling_async.testing.scenario import Rule

_MESSAGES: Final[Mapping[int, str]] = {
    401: "Invalid or missing API key",
    402: "Insufficient credits",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timeout",
    409: "Conflict",
    410: "Gone",
    413: "Payload too large",
    422: "Unprocessable entity",
    423: "Locked",
    425: "Too early",
    429: "Too many requests",
    499: "Client closed request",
    500: "Internal server error",
    503: "Service unavailable",
}
_GATEWAY: Final = frozenset({502, 504})
_LOGIN: Final = "/login"
_LATE: Final = 10.0
_READ: Final = 0.05
# on, and zero seconds: closing sends a reset instead of the orderly end.
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


async def instead(rule: Rule, request: web.Request, closing: asyncio.Event) -> web.Response | None:
    """Do what comes in place of an answer; None if the request is to be carried out, now."""
    answer: web.Response | None
    detail = rule.detail
    if rule.what == "late":
        await wait(float(detail or _LATE), closing)
    match rule.what:
        case "hang":
            await closing.wait()
            answer = _drop(request)
        case "reset":
            answer = _drop(request, reset=True)
        case "page":
            answer = page(int(detail))
        case "redirect":
            answer = web.Response(status=int(detail or 302), headers={"Location": _LOGIN})
        case "code":
            code = int(detail)
            message = _MESSAGES.get(code, "Error")
            answer = web.json_response({"code": code, "message": message, "data": None})
        case status if status.isdecimal():
            answer = _refuse(int(status), detail)
        case _:
            answer = None
    return answer


async def afterwards(
    rule: Rule,
    request: web.Request,
    response: web.Response,
    closing: asyncio.Event,
) -> web.StreamResponse:
    """Carry out what happens to the answer of a request that was carried out.

    What a file is served as has happened by then: see `files.file_response`.
    """
    suffer = _AFTERWARDS.get(rule.what)
    return response if suffer is None else await suffer(rule, request, response, closing)


async def wait(seconds: float, closing: asyncio.Event) -> None:
    """Wait so many seconds, or until the emulator closes."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await closing.wait()


def add_login(app: web.Application) -> None:
    """Serve the page to which the fault ``redirect`` leads."""

    async def login(_request: web.Request) -> web.Response:
        return page(200)

    app.router.add_route("*", _LOGIN, login, name="login")


def page(status: int) -> web.Response:
    """Answer with an HTML page, as a gateway, a firewall or a portal does."""
    reason = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Error"
    text = f"<html><head><title>{status}</title></head><body><h1>{reason}</h1></body></html>"
    return web.Response(status=status, text=text, content_type="text/html")


def _refuse(status: int, retry_after: str) -> web.Response:
    headers = {"Retry-After": retry_after} if retry_after else {}
    if status in _GATEWAY:
        return page(status)
    body = {"code": status, "message": _MESSAGES[status], "data": None}
    return web.json_response(body, status=status, headers=headers)


def _drop(request: web.Request, *, reset: bool = False) -> web.Response:
    """End the connection without an answer: in good order, or by a reset."""
    transport = request.transport
    if transport is not None:
        if reset:
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.close()
    # It is never sent: there is no connection for it any more.
    return web.Response()


async def _lost_answer(
    _rule: Rule, request: web.Request, _response: web.Response, _closing: asyncio.Event
) -> web.StreamResponse:
    return _drop(request)


async def _garbage(
    _rule: Rule, _request: web.Request, _response: web.Response, _closing: asyncio.Event
) -> web.StreamResponse:
    # Neither JSON nor UTF-8.
    return web.Response(body=b"\xc3\x28 {'code': 200", content_type="application/json")


async def _truncated(
    _rule: Rule, _request: web.Request, response: web.Response, _closing: asyncio.Event
) -> web.StreamResponse:
    body = _body(response)
    response.body = body[: len(body) // 2]
    return response


async def _cut(
    _rule: Rule, request: web.Request, response: web.Response, _closing: asyncio.Event
) -> web.StreamResponse:
    body = _body(response)
    cut = web.StreamResponse(status=response.status, headers=response.headers)
    cut.content_length = len(body)
    with suppress(ConnectionError):  # the client has gone
        await cut.prepare(request)
        await cut.write(body[: len(body) // 2])
        # A client that learns of the end in the same moment may discard what came before it.
        await asyncio.sleep(_READ)
    _drop(request)
    return cut


async def _slow(
    rule: Rule, _request: web.Request, response: web.Response, closing: asyncio.Event
) -> web.StreamResponse:
    await wait(float(rule.detail or _LATE), closing)
    return response


async def _late_page(
    rule: Rule, _request: web.Request, _response: web.Response, _closing: asyncio.Event
) -> web.StreamResponse:
    return page(int(rule.detail))


def _body(response: web.Response) -> bytes:
    return response.body if isinstance(response.body, bytes) else b""


_AFTERWARDS: Final[
    Mapping[
        str,
        Callable[[Rule, web.Request, web.Response, asyncio.Event], Awaitable[web.StreamResponse]],
    ]
] = {
    "lost-answer": _lost_answer,
    "garbage": _garbage,
    "truncated": _truncated,
    "cut": _cut,
    "slow": _slow,
    "late-page": _late_page,
}
