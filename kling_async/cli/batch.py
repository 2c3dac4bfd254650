"""``kling-async batch``: every row of a file becomes a video, whatever happens on the way."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections import Counter
from contextlib import AsyncExitStack, aclosing
from typing import IO, TYPE_CHECKING

from kling_async._utils.text import format_duration
from kling_async._utils.urls import redact_url
from kling_async.batch.batch import Batch
from kling_async.batch.decisions import Step
from kling_async.batch.options import TRANSIENT_REASONS, BatchOptions
from kling_async.cli import arguments, codes
from kling_async.cli.board import board
from kling_async.cli.commands import connect
from kling_async.cli.counts import WORDS, Tally, standing
from kling_async.cli.enqueue import check, enqueue
from kling_async.cli.journal_place import journal_place, naming_the_option
from kling_async.cli.output import PROGRAM, Output, printable, write
from kling_async.cli.plan import Known, Plan, known
from kling_async.cli.row_rules import ASSUMED_MODE
from kling_async.cli.rows import json_rows
from kling_async.cli.spreadsheet import csv_rows
from kling_async.cli.text_file import STDIN, open_input
from kling_async.download.files import check_folder
from kling_async.errors import (
    ConfigurationError,
    InputError,
    JournalError,
    KlingError,
    TaskFailedError,
)
from kling_async.fleet.serialization import outcome_dict
from kling_async.journal.base import ItemState
from kling_async.journal.opening import journal_at, journal_exists, redact_location
from kling_async.limits.base import Limits
from kling_async.policy.polling import Polling

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from kling_async.client import KlingClient
    from kling_async.tasks.fan_out import Outcome

# Items of a kind that the summary names; the report has them all.
_SHOWN = 5


async def batch(args: Namespace) -> int:
    """Check all rows, then generate from every one; go on where the journal ends."""
    journal = journal_place(args)
    there = journal is not None and await journal_exists(journal)
    if journal is not None and there and not args.resume:
        raise ConfigurationError(
            f"there is a journal at {redact_location(journal)} already: give another with"
            " --journal, or go on with it, without --no-resume"
        )
    if args.enqueue:
        check(args)
    options = BatchOptions(
        download_to=args.download_to,
        in_flight=args.in_flight,
        timeout=args.timeout,
        downloads=args.downloads,
        resubmit_unsure=args.resubmit_unsure,
        resubmit_rejected=args.resubmit_rejected,
        resubmit_failed=args.resubmit_failed,
        max_tasks=args.max_tasks,
        min_balance=args.min_balance,
    )
    with Plan() as plan:
        held = await _held(args, journal if there else None, options)
        async with open_input(args.file) as file:
            await plan.read(_rows(args, file), held, args.limit)
        if plan.wrong and not args.skip_invalid:
            raise plan.complaint()
        if plan.wrong:
            Output(json=args.json).error(plan.complaint(), codes.FAILED)
        if not plan.rows:
            raise InputError(f"{args.file}: there are no {'good ' * bool(plan.wrong)}rows in it")
        if journal is not None and plan.foreign and not args.enqueue:
            raise ConfigurationError(
                f"the journal {redact_location(journal)} has {plan.foreign:,} running tasks of"
                f" other rows, and none of the rows of {args.file}: name another with --journal"
            )
        if args.dry_run:
            return await _rehearse(args, plan, journal if there else None)
        if args.enqueue:
            return await enqueue(args, plan)
        assert journal is not None  # noqa: S101 - but for a dry run there is one
        if args.download_to is not None:
            await asyncio.to_thread(check_folder, args.download_to)
        return await _Run(args, options, plan, journal).code()


async def _held(
    args: Namespace, journal: Path | str | None, options: BatchOptions
) -> Mapping[int, Known]:
    """Read what a journal has, if there is one."""
    if journal is None:
        return {}
    with naming_the_option(args):
        return await known(journal, options)


def _rows(args: Namespace, file: IO[bytes]) -> Iterator[tuple[int, dict[str, object] | InputError]]:
    spreadsheet = (
        args.file.suffix.lower() == ".csv" if args.format is None else args.format == "csv"
    )
    return csv_rows(args.file, file) if spreadsheet else json_rows(args.file, file)


def _limits(args: Namespace) -> Limits:
    return Limits(args.requests_per_minute, args.concurrent_tasks)


async def _rehearse(args: Namespace, plan: Plan, journal: Path | str | None) -> int:
    """Say what would be done."""
    again = plan.steps[Step.RESUBMIT]
    submit = plan.steps[Step.SUBMIT] + again
    room = args.max_tasks
    if room is not None and journal is not None:
        async with journal_at(journal, read_only=True) as opened:
            room -= (await opened.summary()).attempts
    over = 0 if room is None else max(0, submit - max(0, room))
    seconds = plan.estimate(_limits(args), args.in_flight)
    duration = format_duration(seconds)
    attach, save = plan.steps[Step.WAIT], plan.steps[Step.SAVE]
    lines = [
        f"{args.file}: {plan.rows:,} rows; nothing was sent",
        f"  {submit - over:,} would be submitted",
        *([f"  {again:,} of {submit:,} as a new attempt, which is paid again"] if again else []),
        *([f"  {over:,} would not: --max-tasks"] if over else []),
        *([f"  {attach:,} run already, and would be waited for"] if attach else []),
        *([f"  {save:,} videos would be fetched"] if save else []),
        *([f"  the rest stays as it is: {standing(plan.states)}"] if plan.states else []),
        *([f"  about {duration}, by the vendor's figures"] if submit + attach else []),
        *_remarks(plan),
    ]
    fields = {
        "rows": plan.rows,
        "submit": submit - over,
        "submit_again": again,
        "beyond_max_tasks": over,
        "attach": attach,
        "save": save,
        "stay": {state.value: count for state, count in plan.states.items()},
        "invalid": len(plan.wrong),
        "seconds": round(seconds, 1),
        **({"assumed_mode": {ASSUMED_MODE: plan.without_mode}} if plan.without_mode else {}),
        **({"not_in_file": plan.strangers} if plan.strangers else {}),
    }
    Output(json=args.json).result(lines, fields)
    return codes.FAILED if plan.wrong else codes.OK


def _remarks(plan: Plan) -> list[str]:
    """Name what may not be what was meant."""
    assumed = f"  {plan.without_mode:,} rows have no mode: {ASSUMED_MODE} is assumed"
    strangers = f"  {plan.strangers:,} items of the journal are not in the file"
    return [*([assumed] if plan.without_mode else []), *([strangers] if plan.strangers else [])]


class _Run:
    """One run over the good rows."""

    def __init__(
        self, args: Namespace, options: BatchOptions, plan: Plan, journal: Path | str
    ) -> None:
        self._args = args
        self._options = options
        self._plan = plan
        self._journal = journal
        self._place = redact_location(journal)
        self._output = Output(json=args.json)
        # What went wrong, by kind: how many, and the first few in words.
        self._wrong: Counter[str] = Counter()
        self._named: dict[str, list[str]] = {}
        self._may_pass = False
        self._elsewhere = 0  # by other workers

    async def code(self) -> int:
        """Do everything; return the exit code."""
        args, plan = self._args, self._plan
        limits = _limits(args)
        self._tally = Tally(
            plan.rows,
            saving=args.download_to is not None,
            expected=plan.estimate(limits, args.in_flight),
            clock=asyncio.get_running_loop().time,
        )
        kling = connect(
            args, [self._tally.hook], polling=Polling(first=args.first_poll), limits=limits
        )
        batch = Batch(kling, journal=self._journal, options=self._options)
        self._tally.counts = lambda: batch.counts
        async with kling, AsyncExitStack() as stack:
            with naming_the_option(args):
                await stack.enter_async_context(batch)
            return await self._go(kling, batch)

    async def _go(self, kling: KlingClient, batch: Batch) -> int:
        before = (await batch.summary()).counts
        if any(before.values()):
            self._say(f"resuming {self._place}: {standing(before)}")
        for line in _remarks(self._plan):
            self._say(line.strip())
        error: KlingError | None = None
        try:
            await self._follow(batch)
        except JournalError as failed:
            self._lost_the_journal(failed)
            raise
        except KlingError as stopped:
            error = stopped
        except asyncio.CancelledError:
            await self._interrupted(kling, batch)
            raise
        self._sum_up(Counter(batch.counts), (await batch.summary()).attempts)
        if error is not None:
            code = self._output.error(error)
        elif batch.stopped is not None:
            code = self._output.error(ConfigurationError(batch.stopped), codes.FAILED)
        else:
            code = codes.OK
        return self._code(batch.counts) or code

    async def _follow(self, batch: Batch) -> None:
        async with (
            board(self._tally, self._args.file.name, silent=self._args.json),
            aclosing(batch.run(self._plan.items())) as outcomes,
        ):
            async for outcome in outcomes:
                self._tell(outcome)

    def _code(self, counts: Mapping[ItemState, int]) -> int:
        """Return the exit code: money first, then what may be had by running again."""
        if counts.get(ItemState.UNSURE):
            return codes.UNSURE
        not_submitted = counts.get(ItemState.PLANNED, 0) + self._not_drawn(counts)
        if counts.get(ItemState.FAILED) or not_submitted or self._plan.wrong:
            return codes.FAILED
        if counts.get(ItemState.SUBMITTED):
            return codes.RUNNING
        return codes.DOWNLOAD if self._wrong["not saved"] else codes.OK

    def _not_drawn(self, counts: Mapping[ItemState, int]) -> int:
        return max(0, self._plan.rows - sum(counts.values()))

    def _tell(self, outcome: Outcome) -> None:
        """Write what this run has finished to stdout, and keep in mind what is not."""
        error, key = outcome.error, str(outcome.key)
        if outcome.done_by_other:
            self._elsewhere += 1
        elif self._args.json:
            self._output.result([], outcome_dict(outcome))
        elif error is None:
            found = map(str, outcome.files) if outcome.files else _urls(outcome)
            write(sys.stdout, "\t".join(printable(word) for word in (key, *found)))
        if error is None:
            return
        kind = _kind(outcome, error)
        self._wrong[kind] += 1
        self._may_pass |= isinstance(error, TaskFailedError) and error.reason in TRANSIENT_REASONS
        if self._wrong[kind] <= _SHOWN:
            self._named.setdefault(kind, []).append(f"{key}: {error}")

    def _sum_up(self, counts: Counter[ItemState], attempts: int) -> None:
        """Write how it ended, and what may be done next."""
        counts[ItemState.PLANNED] += self._not_drawn(counts)
        lines = [
            f"{self._args.file}: {self._plan.rows:,} rows in {format_duration(self._tally.elapsed)}"
        ]
        lines += [
            f"  {word:<10} {counts[state]:>9,}" for state, word in WORDS.items() if counts[state]
        ]
        if self._elsewhere:
            lines.append(f"  {self._elsewhere:,} of them by other workers")
        if self._plan.wrong:
            lines.append(f"  {'left out':<10} {len(self._plan.wrong):>9,}")
        lines += [
            f"Tasks that may have cost money, all runs together: {attempts:,}",
            f"Journal: {self._place}",
        ]
        if self._args.download_to is not None:
            lines.append(f"Videos: {self._args.download_to}")
        for kind, named in self._named.items():
            lines += [f"{kind.capitalize()}:", *(f"  {words}" for words in named)]
            if (more := self._wrong[kind] - len(named)) > 0:
                lines.append(f"  and {more:,} more")
        lines += self._next(counts)
        for line in lines:
            self._say(line)

    def _next(self, counts: Counter[ItemState]) -> list[str]:
        """Name the commands that may help."""
        found: list[tuple[str, str]] = []
        if self._wrong:
            found.append((f"{PROGRAM} report {shlex.quote(self._place)}", "all items"))
        if counts[ItemState.PLANNED] or counts[ItemState.SUBMITTED] or self._wrong["not saved"]:
            found.append((self._again(), "goes on"))
        if self._may_pass:
            times = self._args.resubmit_failed + 1
            why = "submits again what may pass, and pays again"
            found.append((self._again(resubmit_failed=times), why))
        if counts[ItemState.UNSURE]:
            why = "submits the unsure again: look at the account first, it may pay twice"
            found.append((self._again(resubmit_unsure=True), why))
        told = [line for command, why in found for line in (f"  # {why}", f"  {command}")]
        return ["Next:", *told] if told else []

    def _again(self, **changes: object) -> str:
        """Write the command line that goes on: as it was, but for what pays twice."""
        usual = {**vars(arguments.parser().parse_args(["batch", "-"])), "file": self._args.file}
        given = {**vars(self._args), "resume": True, "resubmit_unsure": False, **changes}
        file = str(self._args.file)
        # A name may begin as an option does.
        file = f"./{file}" if file.startswith("-") and self._args.file != STDIN else file
        words = [PROGRAM, "batch", file]
        for name, value in given.items():
            if value != usual[name]:
                option = f"--{name.replace('_', '-')}"
                word = f"{value:g}" if isinstance(value, float) else str(value)
                word = self._place if name == "journal" else word
                word = redact_url(word) if name == "limiter" else word
                words += [option] if value is True else [option, word]
        return shlex.join(words)

    async def _interrupted(self, kling: KlingClient, batch: Batch) -> None:
        counts = (await batch.summary()).counts
        if self._args.json:
            self._output.interrupted(kling.running, self._tally.unsure)
            return
        self._say(f"{PROGRAM}: interrupted; the journal has {standing(counts)}")
        if counts[ItemState.SUBMITTED]:
            self._say(f"Tasks that go on at the service: {counts[ItemState.SUBMITTED]:,}")
        self._say(f"To go on: {self._again()}")

    def _lost_the_journal(self, error: JournalError) -> None:
        """Name what goes on at the service, since the journal may not know of it."""
        for note in getattr(error, "__notes__", ()):
            self._say(note)
        if error.ref is not None:
            self._say(f"The journal does not know that the service has accepted {error.ref}")

    def _say(self, line: str) -> None:
        if not self._args.json:
            write(sys.stderr, printable(line))


def _kind(outcome: Outcome, error: KlingError) -> str:
    if outcome.result is not None:
        return "not saved"
    if outcome.task_ref is not None:
        return "failed" if isinstance(error, TaskFailedError) else "not ended"
    return "unsure" if error.may_have_charged else "failed"


def _urls(outcome: Outcome) -> tuple[str, ...]:
    return outcome.result.result_urls if outcome.result else ()
