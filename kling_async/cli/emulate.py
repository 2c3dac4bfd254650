"""``kling-async emulate``: the emulator as a process of its own."""

from __future__ import annotations

import asyncio
import shlex
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from kling_async.cli.output import write
from kling_async.errors import ConfigurationError
from kling_async.testing import Emulator, Scenario
from kling_async.testing.samples import FOLDER

if TYPE_CHECKING:
    from argparse import Namespace

__all__ = ["emulate"]


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
        write(sys.stderr, f"Listening on {emulator.origin} until Ctrl-C. In another shell:")
        write(sys.stdout, f"export APIXO_BASE_URL={shlex.quote(emulator.origin)}")
        write(sys.stdout, f"export APIXO_API_KEY={shlex.quote(emulator.key)}")
        await asyncio.Event().wait()
    raise AssertionError("nothing sets that event")  # pragma: no cover
