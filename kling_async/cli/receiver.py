"""The server behind ``kling-async listen``: notes what arrives, answers it, and trusts nobody.

It takes one request from each connection, `MOST_CONNECTIONS` of these at one time, `MOST_BYTES`
of a body, and `SECONDS` for the head of a request and again for its body. So its memory is
bounded, whoever finds it.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Final, cast

from aiohttp import web
from attrs import evolve

from kling_async.cli import arrivals
from kling_async.cli.arrivals import Arrival
from kling_async.cli.output import printable
from kling_async.errors import ContractError

MOST_BYTES: Final = 64 * 1024
MOST_CONNECTIONS: Final = 256
SECONDS: Final = 10.0

# What a client of TLS begins with.
_TLS: Final = b"\x16\x03"


class Receiver(web.Server):
    """Answers callbacks with one status, and everything else with what HTTP has for it."""

    def __init__(self, answer: int) -> None:
        super().__init__(self._handle)
        self._status = answer
        self._seen = arrivals.Seen()
        # Not bounded: what one turn of the loop brings is taken out in the next.
        self.arrived: asyncio.Queue[Arrival] = asyncio.Queue()

    def __call__(self) -> web.RequestHandler:
        """Begin with a connection."""
        return _Connection(self, crowded=len(self.connections) >= MOST_CONNECTIONS)

    def note(self, problem: str, status: int | None = None) -> None:
        """Note what was no request at all."""
        self.arrived.put_nowait(Arrival(datetime.now(UTC), status=status, problem=problem))

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        cast("_Connection", request.protocol).begun()
        arrival = await self._receive(request)
        self.arrived.put_nowait(arrival)
        return _answer(arrival.status, arrival.problem)

    async def _receive(self, request: web.BaseRequest) -> Arrival:
        body = bytearray()
        arrival = Arrival(
            datetime.now(UTC),
            request.method,
            # A query may hold anything, and the service adds none.
            f"{request.path}?…" if request.query_string else request.path,
        )
        try:
            await _read(request, body)
            snapshot = arrivals.read(request.path, bytes(body))
        except _RefusedError as error:
            arrival = evolve(arrival, status=error.status, problem=str(error))
        except ContractError as error:
            problem = arrivals.problem_of(bytes(body), error)
            arrival = evolve(arrival, status=400, problem=problem)
        else:
            times = self._seen.count(snapshot.ref.task_id)
            arrival = evolve(arrival, status=self._status, snapshot=snapshot, times=times)
        return evolve(arrival, size_bytes=max(len(body), request.content_length or 0))


class _RefusedError(Exception):
    """A request that is answered with `status`, or not at all, and what is wrong with it."""

    def __init__(self, status: int | None, problem: str) -> None:
        super().__init__(problem)
        self.status = status


class _Connection(web.RequestHandler):
    """One connection, which is given up when no request begins on it in time."""

    def __init__(self, receiver: Receiver, *, crowded: bool) -> None:
        super().__init__(
            receiver,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type] # what the library calls it with itself
            auto_decompress=False,
        )
        self._receiver = receiver
        self._crowded = crowded
        self._first = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._crowded:
            self._receiver.note(f"more than {MOST_CONNECTIONS} connections at one time")
            self.force_close()
        else:
            self._timer = asyncio.get_running_loop().call_later(SECONDS, self._give_up)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.begun()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._first = self._first or data[: len(_TLS)]
        super().data_received(data)

    def begun(self) -> None:
        """Wait no longer: the head of a request has come, or nothing will."""
        if self._timer is not None:
            self._timer.cancel()

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - the library's signature
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Note what cannot be read as HTTP; the library would log it."""
        self.begun()
        # Further lines of a message show where; the first is a sentence.
        first = (message or repr(exc)).strip().partition("\n")[0]
        problem = f"not HTTP: {first.rstrip(':')}"
        if self._first == _TLS:
            problem = "not HTTP, but TLS: let the tunnel speak plain HTTP to this port"
        self._receiver.note(problem, status)
        return _answer(status, problem)

    def _give_up(self) -> None:
        if self._first:  # browsers connect in advance, and say nothing
            self._receiver.note(f"too slow: no whole head of a request came in {SECONDS:g} s")
        self.force_close()


async def _read(request: web.BaseRequest, body: bytearray) -> None:
    """Read what may be a callback's body; raise `_RefusedError` for what cannot be."""
    too_large = _RefusedError(413, f"the body is too large: more than {MOST_BYTES} bytes")
    if request.method != "POST":
        raise _RefusedError(405, "not a POST; callbacks are POSTs")
    if (request.content_length or 0) > MOST_BYTES:
        raise too_large
    if encoding := request.headers.get("Content-Encoding"):
        raise _RefusedError(415, f"the body is encoded ({encoding}); the service does not do that")
    try:
        async with asyncio.timeout(SECONDS):
            async for piece in request.content.iter_any():
                body += piece
                if len(body) > MOST_BYTES:
                    raise too_large
    except TimeoutError:
        raise _RefusedError(408, f"too slow: {_had(body)} in {SECONDS:g} s") from None
    except ConnectionError:
        raise _RefusedError(None, f"the connection broke off: {_had(body)}") from None


def _had(body: bytearray) -> str:
    return f"no more than {len(body)} bytes of the body came"


def _answer(status: int | None, problem: str) -> web.Response:
    """Answer, and end the connection; who tries it by hand is told the problem."""
    text = f"kling-async listen: {printable(problem)}\n" if problem else ""
    response = web.Response(status=status or 400, text=text)
    if status == 405:  # noqa: PLR2004 - for which HTTP wants it
        response.headers["Allow"] = "POST"
    response.force_close()
    return response
