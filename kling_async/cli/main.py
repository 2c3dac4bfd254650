"""The command line: ``kling-async``, and ``python -m kling_async``.

Results go to stdout, everything else to stderr. An error is a sentence and an exit code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from kling_async.cli import arguments, codes
from kling_async.cli.log import log_to_stderr
from kling_async.cli.output import Output
from kling_async.cli.signals import on_signals
from kling_async.cli.streams import guarded_streams
from kling_async.errors import KlingError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Awaitable, Callable

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
    with guarded_streams():
        try:
            args = arguments.parser().parse_args(argv)
        except SystemExit as end:  # --help, --version, or wrong usage
            raise SystemExit(Output(json=False).end(_number(end))) from None
        return Output(json=args.json).end(_run(args))


def _number(end: SystemExit) -> int:
    return end.code if isinstance(end.code, int) else codes.OK


def _run(args: Namespace) -> int:
    _command(args)  # imports take their time, and would hold up the loop
    try:
        with asyncio.Runner() as runner:
            return runner.run(_until_terminated(args))
    except (KeyboardInterrupt, asyncio.CancelledError):
        # What still runs has been reported by the command itself.
        return int(args.interrupted)


def _command(args: Namespace) -> Callable[[Namespace], Awaitable[int]]:
    home = import_module(f"kling_async.cli.{_HOMES.get(args.command, 'commands')}")
    command: Callable[[Namespace], Awaitable[int]] = getattr(home, args.command)
    return command


async def _until_terminated(args: Namespace) -> int:
    """Run a command; SIGTERM and SIGHUP end it as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in a task
    on_signals(task.cancel)
    return await run(args)


async def run(args: Namespace) -> int:
    """Run a parsed command on the running loop; return its exit code."""
    try:
        with log_to_stderr(as_json=args.json):
            return await _command(args)(args)
    except KlingError as error:
        return Output(json=args.json).error(error)
