"""``kling-async emulate``: the emulator as a process of its own."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from kling_async.cli.format import format_os_error
from kling_async.cli.output import Output
from kling_async.errors import ConfigurationError
from kling_async.testing import Emulator, Scenario
from kling_async.testing.emulator.environment import format_exports
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
        models=args.model,
        samples=FOLDER,
        uploads=True,
    )
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(emulator)
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {args.host} port {args.port}: {format_os_error(error)};"
                " end the program that uses the port, or choose another: --port 0 is any free one"
            ) from None
        environment = emulator.environment
        origin = environment["APIXO_BASE_URL"]
        output = Output(json=args.json)
        output.print_status(f"Watch it at {origin}/ until Ctrl-C. In another shell:")
        # In one piece: a script may wait for the first line and read all of them then.
        output.print_result(format_exports(environment).split("\n"), environment)
        await asyncio.Event().wait()
    raise AssertionError("the event is never set")  # pragma: no cover
