"""``kling-async listen``: shows what callbacks arrive, to debug a tunnel or a proxy."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Final

from aiohttp import web

from kling_async.cli import arrivals, codes
from kling_async.cli.output import write
from kling_async.cli.receiver import Receiver
from kling_async.cli.streams import failure_of
from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    from argparse import Namespace

    from kling_async.cli.arrivals import Arrival

_GREEN, _RED, _YELLOW = 32, 31, 33
_COLOURS: Final = {"success": _GREEN, "failed": _RED}


async def listen(args: Namespace) -> int:
    """Print what arrives, until so many callbacks have come or the command is ended."""
    receiver = Receiver(args.answer)
    runner = web.ServerRunner(receiver, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, args.host, args.port).start()
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {args.host} port {args.port}: {error.strerror or error}"
            ) from None
        _greet(args, runner.addresses[0][1])
        left: int | None = args.count
        # What only shows something has nothing more to do when its output is lost.
        while left != 0 and failure_of(sys.stdout) is None:
            arrival = await receiver.arrived.get()
            _show(args, arrival)
            if left is not None and arrival.snapshot is not None:
                left -= 1
    finally:
        # Whoever was noted is answered.
        await runner.cleanup()
    return codes.OK


def _greet(args: Namespace, port: int) -> None:
    host = f"[{args.host}]" if ":" in args.host else args.host
    origin = f"http://{host}:{port}"
    if args.json:
        write(sys.stdout, json.dumps({"listening": origin}))
    else:
        write(sys.stderr, f"Listening on {origin} until Ctrl-C.")


def _show(args: Namespace, arrival: Arrival) -> None:
    """Print one line: JSON, columns with tabs between them, or something for the eye."""
    if args.json:
        # In ASCII: whatever else a terminal could obey is escaped.
        line = json.dumps(arrivals.fields(arrival))
    elif not sys.stdout.isatty():
        line = "\t".join(
            (arrival.at.isoformat(timespec="milliseconds"), *arrivals.columns(arrival))
        )
    else:
        what, state, said, rest = arrivals.columns(arrival)
        state = _coloured(state)
        time = f"{arrival.at.astimezone():%H:%M:%S}"
        known = (what,) if arrival.snapshot is not None else ()
        line = "  ".join((time, *known, state, said, f"({rest})"))
    write(sys.stdout, line)


def _coloured(state: str) -> str:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return state if plain else f"\x1b[{_COLOURS.get(state, _YELLOW)}m{state}\x1b[0m"
