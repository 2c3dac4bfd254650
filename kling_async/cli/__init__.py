"""The command line: ``kling-async``, and ``python -m kling_async``.

Results go to stdout, everything else to stderr. An error is a sentence and an exit code.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

from kling_async.cli import arguments, codes
from kling_async.cli.output import Output
from kling_async.errors import KlingError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Awaitable, Callable

__all__ = ["main"]

_HOMES = {
    name: name for name in ("batch", "demo", "emulate", "limits", "listen", "report", "worker")
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit code.

    Args:
        argv: The arguments; None takes those of the process.

    Raises:
        SystemExit: For ``--help``, ``--version`` and wrong usage, as argparse does.
    """
    code = codes.FAILED
    try:
        try:
            args = arguments.parser().parse_args(argv)
            code = _run(args)
        finally:
            sys.stdout.flush()
    except* BrokenPipeError:  # whoever read our output has gone; a group if a task wrote it
        # The interpreter flushes once more at its end, and must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _run(args: Namespace) -> int:
    _command(args)  # imports take their time, and would hold up the loop
    try:
        with asyncio.Runner() as runner:
            return runner.run(_until_terminated(args))
    except (KeyboardInterrupt, asyncio.CancelledError):
        # What still runs has been told by the command itself.
        return int(args.interrupted)


def _command(args: Namespace) -> Callable[[Namespace], Awaitable[int]]:
    home = import_module(f"kling_async.cli.{_HOMES.get(args.command, 'commands')}")
    command: Callable[[Namespace], Awaitable[int]] = getattr(home, args.command)
    return command


async def _until_terminated(args: Namespace) -> int:
    """Run a command; SIGTERM ends it as Ctrl-C does."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in a task
    # Not on Windows, and not outside the main thread.
    with suppress(NotImplementedError, RuntimeError):
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    return await run(args)


async def run(args: Namespace) -> int:
    """Run a parsed command on the running loop; return its exit code."""
    try:
        return await _command(args)(args)
    except KlingError as error:
        return Output(json=args.json).error(error)
