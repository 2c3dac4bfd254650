"""``kling-async worker``: generates the videos of a batch's queue."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from kling_async._utils.text import format_count, format_duration
from kling_async.cli import exit_codes
from kling_async.cli.commands import client_from
from kling_async.cli.outcomes import (
    batch_options_from,
    format_counts,
    outcome_name,
    print_outcome_or_error,
)
from kling_async.cli.output import PROGRAM, Output
from kling_async.cli.process import call_on_signals
from kling_async.errors import KlingError
from kling_async.fleet import Worker
from kling_async.journal.address import Address

if TYPE_CHECKING:
    from argparse import Namespace

    from kling_async.tasks.fan_out import Outcome

# The exit code of the worst outcome: money first, then what another run would do.
_CODES = {
    "unsure": exit_codes.UNSURE,
    "failed": exit_codes.FAILED,
    "not ended": exit_codes.RUNNING,
    "not saved": exit_codes.DOWNLOAD,
}


async def run_worker(args: Namespace) -> int:
    """Work until the queue is empty, or until a signal."""
    output = Output(json=args.json)
    counts: Counter[str] = Counter()
    error: KlingError | None = None
    clock = asyncio.get_running_loop().time
    started = clock()

    def handle(outcome: Outcome) -> None:
        counts[outcome_name(outcome)] += 1
        counts["by other workers"] += outcome.done_by_other
        print_outcome_or_error(output, outcome)

    def stop() -> None:
        output.print_status(
            f"{PROGRAM}: taking no more items; running tasks have up to"
            f" {format_duration(args.drain)}"
        )
        queue_worker.stop()

    # Before the packages of the queue are imported, which takes seconds, and before the database
    # is connected, which may fail.
    output.print_status(
        f"{PROGRAM}: worker of {Address.parse(args.journal, args.name).url}: connects, then"
        f" processes up to {format_count(args.concurrency, 'item')} of its queue at a time until"
        f" {'the queue is empty' if args.until_empty else 'SIGTERM or Ctrl-C'}"
    )
    async with client_from(args) as kling:
        queue_worker = Worker(
            kling,
            args.journal,
            name=args.name,
            concurrency=args.concurrency,
            drain=args.drain,
            lease=args.lease,
            until_empty=args.until_empty,
            options=batch_options_from(args),
        )
        call_on_signals(stop, interrupt=True)
        try:
            await queue_worker.run(handle)
        except KlingError as failed:
            error = failed
    counts["handed over"] = queue_worker.handed_over
    seconds = clock() - started
    fields = {name.replace(" ", "_"): count for name, count in counts.items()}
    output.print_result([], {"counts": {**fields, "seconds": round(seconds, 1)}})
    output.print_status(f"{PROGRAM}: {format_counts(counts)} in {format_duration(seconds)}")
    code = exit_codes.OK if error is None else output.print_error(error)
    if code == exit_codes.JOURNAL:
        return code
    return next((code for name, code in _CODES.items() if counts[name]), code)
