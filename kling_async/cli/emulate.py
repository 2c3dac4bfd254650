"""``kling-async emulate``: the emulator as a process of its own."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from errno import EADDRINUSE
from typing import TYPE_CHECKING

from kling_async._utils.files import format_os_error
from kling_async.cli.output import Output
from kling_async.errors import ConfigurationError
from kling_async.testing import Emulator, Scenario
from kling_async.testing.emulator.environment import format_exports
from kling_async.testing.sample_files import FOLDER

if TYPE_CHECKING:
    from argparse import Namespace


DEFAULT_PORT = 5546
"""Where an emulator listens unless the port is given, or taken; as in the table of options."""


async def run_emulate(args: Namespace) -> int:
    """Run an emulator until a signal."""
    output = Output(json=args.json)
    async with AsyncExitStack() as stack:
        emulator = await _start(stack, args, output)
        environment = emulator.environment
        origin = environment["APIXO_BASE_URL"]
        output.print_status(f"Watch it at {origin}/ until Ctrl-C. In another shell:")
        # In one piece: a script may wait for the first line and read all of them then.
        output.print_result(format_exports(environment).split("\n"), environment)
        await asyncio.Event().wait()
    raise AssertionError("the event is never set")  # pragma: no cover


async def _start(stack: AsyncExitStack, args: Namespace, output: Output) -> Emulator:
    """Start an emulator; if the default port is taken, on any free one."""
    try:
        return await stack.enter_async_context(_emulator_on(args.port, args))
    except OSError as error:
        if args.port != DEFAULT_PORT or error.errno != EADDRINUSE:
            raise ConfigurationError(
                f"cannot listen on {args.host} port {args.port}: {format_os_error(error)};"
                " end the program that uses the port, or choose another: --port 0 is any free one"
            ) from None
    output.print_status(
        f"Port {DEFAULT_PORT} is in use, perhaps by another emulator: this one has another port,"
        " which changes with every start"
    )
    return await stack.enter_async_context(_emulator_on(0, args))


def _emulator_on(port: int, args: Namespace) -> Emulator:
    return Emulator(
        host=args.host,
        port=port,
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
