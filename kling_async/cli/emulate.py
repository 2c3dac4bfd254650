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
from kling_async.cli.output import write
from kling_async.errors import ConfigurationError
from kling_async.testing import Emulator, Scenario
from kling_async.testing.sample_files import FOLDER

if TYPE_CHECKING:
    from argparse import Namespace

# Addresses that mean every one of this machine: the family, an address elsewhere (reserved for
# documentation), and what can be reached without a network.
_EVERYWHERE = {
    "0.0.0.0": (socket.AF_INET, "192.0.2.1", "127.0.0.1"),  # noqa: S104 - what users write
    "::": (socket.AF_INET6, "2001:db8::1", "::1"),
}


async def emulate(args: Namespace) -> int:
    """Run an emulator until the command is ended from outside."""
    emulator = Emulator(
        host=args.host,
        port=args.port,
        api_key=args.api_key,
        requests_per_minute=args.requests_per_minute,
        concurrent_tasks=args.concurrent_tasks,
        speed=args.speed,
        balance=args.balance,
        scenario=Scenario.parse(args.faults),
        retry_after=args.retry_after,
        video=args.video,
        samples=FOLDER,
    )
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(emulator)
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {args.host} port {args.port}: {error.strerror or error}"
            ) from None
        origin = await asyncio.to_thread(_reachable, emulator.origin)
        write(sys.stderr, f"Listening on {origin} until Ctrl-C. In another shell:")
        # At once: a script may wait for the first line and read the file then.
        write(sys.stdout, "\n".join(_settings(origin, emulator.key)))
        await asyncio.Event().wait()
    raise AssertionError("nothing sets that event")  # pragma: no cover


def _settings(origin: str, key: str) -> list[str]:
    """Return the shell's lines with which a client uses an emulator."""
    return [
        f"export APIXO_BASE_URL={shlex.quote(origin)}",
        f"export APIXO_API_KEY={shlex.quote(key)}",
        *(["export APIXO_ALLOW_HTTP=1"] if is_unencrypted(origin) else []),
    ]


def _reachable(origin: str) -> str:
    """Return where an emulator can be reached, also if it listens on all addresses."""
    parts = urlsplit(origin)
    host = _own_address(parts.hostname or "")
    return f"http://[{host}]:{parts.port}" if ":" in host else f"http://{host}:{parts.port}"


def _own_address(host: str) -> str:
    """Return an address of this machine in place of the one that means all of them."""
    if host not in _EVERYWHERE:
        return host
    return _address_towards(*_EVERYWHERE[host])


def _address_towards(family: int, elsewhere: str, loopback: str) -> str:
    """Return this machine's address on the way to another; without a way, its loopback address."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))  # sends nothing: it asks for the route
            return str(probe.getsockname()[0])
    except OSError:  # there is no network
        return loopback
