"""The command line: ``kling-async``, and ``python -m kling_async``.

Results go to stdout, everything else to stderr. An error is a sentence and an exit code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from kling_async.cli import arguments, exit_codes
from kling_async.cli.output import Output, log_to_stderr
from kling_async.cli.process import call_on_signals, guarded_streams
from kling_async.errors import KlingError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Awaitable, Callable

# Commands with a module of their own; the others are in `commands`.
_MODULES = (
    "batch",
    "completion",
    "demo",
    "emulate",
    "limits",
    "listen",
    "models",
    "report",
    "rescue",
    "worker",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; `SystemExit` as argparse raises it."""
    with guarded_streams():
        try:
            args = arguments.parse(argv)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else exit_codes.OK
            raise SystemExit(Output(json=False).final_code(code)) from None
        return Output(json=args.json).final_code(_run_on_new_loop(args))


def _run_on_new_loop(args: Namespace) -> int:
    _command(args)  # the imports take time, during which they would block the loop
    try:
        with asyncio.Runner() as runner:
            return runner.run(_run_until_terminated(args))
    except (KeyboardInterrupt, asyncio.CancelledError):
        # The command itself has reported what is still running.
        return int(args.interrupted)


async def _run_until_terminated(args: Namespace) -> int:
    """Run a command; SIGTERM and SIGHUP cancel it, as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in a task
    call_on_signals(task.cancel)
    return await run(args)


async def run(args: Namespace) -> int:
    """Run a parsed command on the running loop and return its exit code."""
    try:
        with log_to_stderr(as_json=args.json, verbose=args.verbose):
            return await _command(args)(args)
    except KlingError as error:
        return Output(json=args.json).print_error(error)


def _command(args: Namespace) -> Callable[[Namespace], Awaitable[int]]:
    name = args.command if args.command in _MODULES else "commands"
    module = import_module(f"kling_async.cli.{name}")
    command: Callable[[Namespace], Awaitable[int]] = getattr(module, f"run_{args.command}")
    return command
