"""``kling-async listen``: prints the callbacks that arrive, to debug a tunnel or a proxy.

The server reads one request of each connection, from `MAX_CONNECTIONS` at a time, with a body of at
most `MAX_BYTES`, and waits `SECONDS` for the headers and again for the body: its memory is bounded.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, cast

from aiohttp import web
from attrs import evolve

from kling_async._utils.files import format_os_error
from kling_async._utils.text import format_size, printable
from kling_async.cli import exit_codes
from kling_async.cli.callback_log import (
    LogEntry,
    describe_problem,
    entry_columns,
    entry_fields,
    read_callback,
)
from kling_async.cli.output import Output, write_line
from kling_async.cli.process import failure_of
from kling_async.errors import ConfigurationError, ContractError
from kling_async.progress.opening import allows_escapes

if TYPE_CHECKING:
    from argparse import Namespace

MAX_BYTES: Final = 64 * 1024
MAX_CONNECTIONS: Final = 256
MAX_TASKS: Final = 10_000
SECONDS: Final = 10.0

# The first bytes of a TLS client.
_TLS: Final = b"\x16\x03"

_GREEN, _RED, _YELLOW = 32, 31, 33
_COLOURS: Final = {"success": _GREEN, "failed": _RED}


async def run_listen(args: Namespace) -> int:
    """Print what arrives, until enough callbacks have arrived or stdout is lost."""
    server = CallbackServer(args.answer)
    runner = web.ServerRunner(server, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, args.host, args.port).start()
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {args.host} port {args.port}: {format_os_error(error)}"
            ) from None
        host = f"[{args.host}]" if ":" in args.host else args.host
        origin = f"http://{host}:{runner.addresses[0][1]}"
        output = Output(json=args.json)
        output.print_result([], {"listening": origin})
        output.print_status(f"Listening on {origin} until Ctrl-C.")
        left: int | None = args.count
        while left != 0 and failure_of(sys.stdout) is None:
            entry = await server.entries.get()
            write_line(sys.stdout, _format_entry(args, entry))
            if left is not None and entry.snapshot is not None:
                left -= 1
    finally:
        # Every request that was printed is answered.
        await runner.cleanup()
    return exit_codes.OK


def _format_entry(args: Namespace, entry: LogEntry) -> str:
    """Return one line: JSON, columns separated by tabs, or columns for a terminal."""
    if args.json:
        # ASCII: all characters that a terminal could interpret are escaped.
        return json.dumps(entry_fields(entry))
    columns = entry_columns(entry)
    if not sys.stdout.isatty():
        return "\t".join((entry.at.isoformat(timespec="milliseconds"), *columns))
    task_id, state, text, rest = columns
    if allows_escapes(sys.stdout):
        state = f"\x1b[{_COLOURS.get(state, _YELLOW)}m{state}\x1b[0m"
    known = (task_id,) if entry.snapshot is not None else ()
    return "  ".join((f"{entry.at.astimezone():%H:%M:%S}", *known, state, text, f"({rest})"))


class CallbackServer(web.Server):
    """Answers callbacks with one status, other requests with that of their error, and logs all."""

    def __init__(self, status: int) -> None:
        super().__init__(self._handle)
        self._status = status
        self._counts: dict[str, int] = {}  # callbacks of the latest tasks
        # Needs no bound: what one iteration of the loop adds is removed in the next.
        self.entries: asyncio.Queue[LogEntry] = asyncio.Queue()

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of a new connection."""
        return _ListenerConnection(self, crowded=len(self.connections) >= MAX_CONNECTIONS)

    def log_problem(self, problem: str, status: int | None = None) -> None:
        """Log what is not a request."""
        self.entries.put_nowait(LogEntry(datetime.now(UTC), status=status, problem=problem))

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        cast("_ListenerConnection", request.protocol).stop_timer()
        body = bytearray()
        entry = LogEntry(
            datetime.now(UTC),
            request.method,
            # A query may contain secrets; the service adds none.
            f"{request.path}?…" if request.query_string else request.path,
        )
        status, problem = await _read_body(request, body)
        if not problem:
            try:
                snapshot = read_callback(request.path, bytes(body))
            except ContractError as error:
                status, problem = 400, describe_problem(bytes(body), error)
            else:
                status, task_id = self._status, snapshot.ref.task_id
                times = self._counts[task_id] = self._counts.pop(task_id, 0) + 1
                if len(self._counts) > MAX_TASKS:
                    del self._counts[next(iter(self._counts))]
                entry = evolve(entry, snapshot=snapshot, times=times)
        size = max(len(body), request.content_length or 0)
        entry = evolve(entry, status=status, problem=problem, size_bytes=size)
        self.entries.put_nowait(entry)
        return _response(status, problem)


class _ListenerConnection(web.RequestHandler):
    """One connection, which is closed unless the headers of a request arrive in time."""

    def __init__(self, server: CallbackServer, *, crowded: bool) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type] # as the library itself does
            auto_decompress=False,
        )
        self._server = server
        self._crowded = crowded
        self._first = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._crowded:
            self._server.log_problem(f"more than {MAX_CONNECTIONS} connections at one time")
            self.force_close()
        else:
            self._timer = asyncio.get_running_loop().call_later(SECONDS, self._time_out)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._first = self._first or data[: len(_TLS)]
        super().data_received(data)

    def stop_timer(self) -> None:
        """Stop waiting for headers."""
        if self._timer is not None:
            self._timer.cancel()

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - the library's signature
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Log what cannot be parsed as HTTP, here and not in the library's log."""
        self.stop_timer()
        # The first line of a message is a sentence; further lines show the position.
        first = (message or repr(exc)).strip().partition("\n")[0]
        problem = f"not HTTP: {first.rstrip(':')}"
        if self._first == _TLS:
            problem = "not HTTP, but TLS: configure the tunnel to send plain HTTP to this port"
        self._server.log_problem(problem, status)
        return _response(status, problem)

    def _time_out(self) -> None:
        if self._first:  # browsers connect in advance and send nothing
            self._server.log_problem(f"too slow: no complete headers in {SECONDS:g} s")
        self.force_close()


async def _read_body(request: web.BaseRequest, body: bytearray) -> tuple[int | None, str]:
    """Read the body of a request; return a status and why it cannot be a callback, if so."""
    too_large = (413, f"the body is too large: more than {format_size(MAX_BYTES)}")
    if request.method != "POST":
        return 405, "not a POST; callbacks are POSTs"
    if (request.content_length or 0) > MAX_BYTES:
        return too_large
    if encoding := request.headers.get("Content-Encoding"):
        return 415, f"the body is encoded ({encoding}); callbacks are not"
    try:
        async with asyncio.timeout(SECONDS):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > MAX_BYTES:
                    break
    except TimeoutError:
        return 408, f"too slow: only {format_size(len(body))} of the body in {SECONDS:g} s"
    except ConnectionError:  # no response can be sent
        return None, f"the connection was closed after {format_size(len(body))} of the body"
    return too_large if len(body) > MAX_BYTES else (None, "")


def _response(status: int | None, problem: str) -> web.Response:
    """Return a response that closes the connection, with the problem for a reader."""
    text = f"kling-async listen: {printable(problem)}\n" if problem else ""
    response = web.Response(status=status or 400, text=text)
    if status == 405:  # noqa: PLR2004 - for which HTTP requires the header
        response.headers["Allow"] = "POST"
    response.force_close()
    return response
