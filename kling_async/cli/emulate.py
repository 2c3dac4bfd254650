"""``kling-async emulate``: the emulator as a process of its own."""

from __future__ import annotations

import asyncio
import shlex
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from kling_async._network.local_address import reachable_origin
from kling_async._utils.urls import is_unencrypted
from kling_async.cli.format import format_os_error
from kling_async.cli.output import write_line
from kling_async.errors import ConfigurationError
from kling_async.testing import Emulator, Scenario
from kling_async.testing.sample_files import FOLDER

if TYPE_CHECKING:
    from argparse import Namespace


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
        origin = await asyncio.to_thread(reachable_origin, emulator.origin)
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
