"""``kling-async emulate``: the emulator as a process of its own."""

from __future__ import annotations

import asyncio
import shlex
import socket
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kling_async._utils.urls import is_unencrypted
from kling_async.cli.format import format_os_error
from kling_async.cli.output import write_line
from kling_async.errors import ConfigurationError
from kling_async.testing import Emulator, Scenario
from kling_async.testing.sample_files import FOLDER

if TYPE_CHECKING:
    from argparse import Namespace

# The addresses that mean all addresses of this machine: their family, an address elsewhere
# (reserved for documentation), and the loopback address.
_WILDCARDS = {
    "0.0.0.0": (socket.AF_INET, "192.0.2.1", "127.0.0.1"),  # noqa: S104 - users may choose it
    "::": (socket.AF_INET6, "2001:db8::1", "::1"),
}


async def run_emulate(args: Namespace) -> int:
    """Run an emulator until a signal."""
    emulator = Emulator(
        host=args.host,
        port=args.port,
        api_key=args.api_key,
        requests_per_minute=args.requests_per_minute,
        concurrent_tasks=args.concurrent_tasks,
        speed=args.speed,
        balance=args.balance,
        scenario=Scenario.parse(args.fault),
        retry_after=args.retry_after,
        video=args.video,
        samples=FOLDER,
    )
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(emulator)
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {args.host} port {args.port}: {format_os_error(error)}"
            ) from None
        origin = await asyncio.to_thread(_reachable_origin, emulator.origin)
        write_line(sys.stderr, f"Listening on {origin} until Ctrl-C. In another shell:")
        # In one piece: a script may wait for the first line and read all of them then.
        write_line(sys.stdout, "\n".join(_exports(origin, emulator.key)))
        await asyncio.Event().wait()
    raise AssertionError("the event is never set")  # pragma: no cover


def _exports(origin: str, key: str) -> list[str]:
    """Return the shell commands that configure a client."""
    return [
        f"export APIXO_BASE_URL={shlex.quote(origin)}",
        f"export APIXO_API_KEY={shlex.quote(key)}",
        *(["export APIXO_ALLOW_HTTP=1"] if is_unencrypted(origin) else []),
    ]


def _reachable_origin(origin: str) -> str:
    """Return an origin with an address of this machine in place of a wildcard."""
    parts = urlsplit(origin)
    host = parts.hostname or ""
    if host in _WILDCARDS:
        host = _address_towards(*_WILDCARDS[host])
    return f"http://[{host}]:{parts.port}" if ":" in host else f"http://{host}:{parts.port}"


def _address_towards(family: int, elsewhere: str, loopback: str) -> str:
    """Return this machine's address on the route to another, or the loopback address."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))  # sends nothing, but selects the route
            return str(probe.getsockname()[0])
    except OSError:  # there is no network
        return loopback
