"""``kling-async completion``: the script with which a shell completes a command line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from kling_async._utils.extras import missing_extra
from kling_async.cli import exit_codes
from kling_async.cli.arguments import parsers
from kling_async.cli.output import Output, write_line

if TYPE_CHECKING:
    from argparse import Namespace


async def run_completion(args: Namespace) -> int:
    """Print the script, made from the table of options."""
    try:
        import shtab
    except ImportError:
        raise missing_extra("cli", "completion needs shtab") from None
    folders = dict.fromkeys(("DIR", "DIR|URL"), shtab.DIRECTORY)
    places = {**folders, **dict.fromkeys(("FILE", "JOURNAL", "PATH|URL"), shtab.FILE)}
    script = shtab.complete(parsers(places)[0], args.shell)
    if args.json:
        Output(json=True).print_result([], {"shell": args.shell, "script": script})
    else:
        write_line(sys.stdout, script.rstrip("\n"))
    return exit_codes.OK
