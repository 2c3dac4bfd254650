"""``kling-async worker``: one of those who take the rows of a batch from its queue."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from typing import TYPE_CHECKING

from kling_async._utils.text import format_duration
from kling_async.batch.options import BatchOptions
from kling_async.cli import codes
from kling_async.cli.commands import connect
from kling_async.cli.output import PROGRAM, Output, printable, write
from kling_async.cli.signals import on_signals
from kling_async.errors import KlingError, TaskFailedError
from kling_async.fleet import Worker
from kling_async.fleet.serialization import outcome_dict
from kling_async.journal.address import Address
from kling_async.limits.base import Limits
from kling_async.policy.polling import Polling

if TYPE_CHECKING:
    from argparse import Namespace

    from kling_async.tasks.fan_out import Outcome

# What became of items, in the words of the summary, and what that means for the exit code: money
# first, then what may be had by running again.
_CODES = {
    "unsure": codes.UNSURE,
    "failed": codes.FAILED,
    "not ended": codes.RUNNING,
    "not saved": codes.DOWNLOAD,
}


async def worker(args: Namespace) -> int:
    """Work until the queue is empty, or until the command is ended from outside."""
    if not args.json:
        # At once: the packages of the queue take seconds to import, and the database may be away.
        write(sys.stderr, printable(f"{PROGRAM}: {_plan(args)}"))
    kling = connect(
        args,
        [],
        polling=Polling(first=args.first_poll),
        limits=Limits(args.requests_per_minute, args.concurrent_tasks),
    )
    async with kling:
        return await _Run(
            args,
            Worker(
                kling,
                args.journal,
                name=args.name,
                concurrency=args.concurrency,
                drain=args.drain,
                lease=args.lease,
                until_empty=args.until_empty,
                options=BatchOptions(
                    download_to=args.download_to,
                    timeout=args.timeout,
                    downloads=args.downloads,
                    resubmit_failed=args.resubmit_failed,
                    min_balance=args.min_balance,
                ),
            ),
        ).code()


def _plan(args: Namespace) -> str:
    address = Address.parse(args.journal, args.name)
    return (
        f"worker of {address.url}: connects, then takes items from its queue, up to"
        f" {args.concurrency:,} at one time, until"
        f" {'the queue is empty' if args.until_empty else 'SIGTERM or Ctrl-C'}"
    )


class _Run:
    """One run, and what is said of it."""

    def __init__(self, args: Namespace, worker: Worker) -> None:
        self._args = args
        self._worker = worker
        self._output = Output(json=args.json)
        self._counts: Counter[str] = Counter()

    async def code(self) -> int:
        """Do everything; return the exit code."""
        clock = asyncio.get_running_loop().time
        begun, error = clock(), None
        on_signals(self._stop, interrupt=True)
        try:
            await self._worker.run(self._tell)
        except KlingError as failed:
            error = failed
        self._sum_up(clock() - begun)
        code = codes.OK if error is None else self._output.error(error)
        if code == codes.JOURNAL:
            return code
        return next((code for word, code in _CODES.items() if self._counts[word]), code)

    def _stop(self) -> None:
        self._say(f"taking nothing more; up to {self._args.drain:g} s for what runs")
        self._worker.stop()

    def _tell(self, outcome: Outcome) -> None:
        """Write one line of an item that has ended: what is well to stdout."""
        error = outcome.error
        self._counts[_word(outcome)] += 1
        self._counts["by other workers"] += outcome.done_by_other
        if self._args.json:
            self._output.result([], outcome_dict(outcome))
        elif error is None:
            found = outcome.files or (outcome.result.result_urls if outcome.result else ())
            words = (str(outcome.key), *map(str, found))
            write(sys.stdout, "\t".join(printable(word) for word in words))
        else:
            self._say(f"{outcome.key}: {error}")

    def _sum_up(self, seconds: float) -> None:
        """Write how it ended."""
        handed_over = self._worker.handed_over
        if self._args.json:
            counts = {word.replace(" ", "_"): number for word, number in self._counts.items()}
            fields = {**counts, "handed_over": handed_over, "seconds": round(seconds, 1)}
            self._output.result([], {"counts": fields})
            return
        counts = {**self._counts, "handed over": handed_over}
        told = ", ".join(f"{number:,} {word}" for word, number in counts.items() if number)
        self._say(f"{told or 'nothing was to be done'} in {format_duration(seconds)}")

    def _say(self, line: str) -> None:
        if not self._args.json:
            write(sys.stderr, printable(f"{PROGRAM}: {line}"))


def _word(outcome: Outcome) -> str:
    """Say in a word what became of an item."""
    error = outcome.error
    if error is None:
        return "saved" if outcome.files else "finished"
    if outcome.result is not None:
        return "not saved"
    if outcome.task_ref is not None:
        return "failed" if isinstance(error, TaskFailedError) else "not ended"
    return "unsure" if error.may_have_charged else "failed"
