"""``kling-async batch --enqueue``: the rows of a file, for the workers of a fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kling_async.cli import codes
from kling_async.cli.output import PROGRAM, Output
from kling_async.errors import ConfigurationError
from kling_async.fleet import Queue
from kling_async.journal.address import is_postgres_url

if TYPE_CHECKING:
    from argparse import Namespace

    from kling_async.cli.plan import Plan


def check(args: Namespace) -> None:
    """Complain of options with which nothing can be put in a queue.

    Raises:
        ConfigurationError: The journal is none that workers share.
    """
    if not is_postgres_url(args.journal):
        raise ConfigurationError(
            "--enqueue needs a journal that workers share, such as --journal postgresql://host/db"
        )


async def enqueue(args: Namespace, plan: Plan) -> int:
    """Write the rows in the journal, and put those in its queue that have not ended."""
    async with Queue(args.journal) as queue:
        told = await queue.put(plan.items())
    lines = [
        f"{args.file}: {plan.rows:,} rows; nothing was sent",
        f"  {told.added:,} were put in the queue",
        *([f"  {told.waiting:,} are there already"] if told.waiting else []),
        *([f"  {told.ended:,} have ended, says the journal"] if told.ended else []),
        f"The videos are made by {PROGRAM} worker, with the same --journal",
    ]
    fields = {
        "rows": plan.rows,
        "added": told.added,
        "waiting": told.waiting,
        "ended": told.ended,
        "invalid": len(plan.wrong),
    }
    Output(json=args.json).result(lines, fields)
    return codes.FAILED if plan.wrong else codes.OK
