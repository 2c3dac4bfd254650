"""One run of ``kling-async batch``: its progress, its outcomes, and its summary."""

from __future__ import annotations

import asyncio
import shlex
from collections import Counter
from contextlib import AsyncExitStack, aclosing, contextmanager, suppress
from typing import TYPE_CHECKING

from kling_async._utils.text import format_count, format_duration
from kling_async._utils.urls import redact_url
from kling_async.batch.batch import Batch
from kling_async.batch.options import TRANSIENT_REASONS
from kling_async.cli import arguments, exit_codes
from kling_async.cli.commands import client_from
from kling_async.cli.outcomes import (
    batch_options_from,
    format_states,
    outcome_name,
    print_outcome,
    state_lines,
)
from kling_async.cli.output import PROGRAM, Output
from kling_async.cli.stats import BatchStats, show_stats
from kling_async.cli.text_file import STDIN
from kling_async.errors import ConfigurationError, JournalError, KlingError, TaskFailedError
from kling_async.journal.base import ItemState
from kling_async.journal.opening import redact_location
from kling_async.limits.base import Limits

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from kling_async.cli.input_file import InputFile
    from kling_async.client import KlingClient
    from kling_async.tasks.fan_out import Outcome

# Errors of each kind that the summary lists; the report has all of them.
_EXAMPLES = 5

# Seconds for a balance, which is only shown.
_BALANCE_SECONDS = 10.0


@contextmanager
def hinting_at_journal_option(args: Namespace) -> Iterator[None]:
    """Mention ``--journal`` in the error of a journal at the default path."""
    try:
        yield
    except JournalError as error:
        if args.journal is not None:
            raise
        raise JournalError(f"{error}; or name another place with --journal") from None


async def _read_balance(kling: KlingClient) -> float | None:
    """Return the account's balance; None if the service does not report it in time."""
    with suppress(KlingError, TimeoutError):
        async with asyncio.timeout(_BALANCE_SECONDS):
            return await kling.balance()
    return None


class BatchCommand:
    """Generates videos from the rows of a file."""

    def __init__(self, args: Namespace, rows: InputFile, journal: Path | str) -> None:
        limits = Limits(args.requests_per_minute, args.concurrent_tasks)
        self._args = args
        self._rows = rows
        self._journal = journal
        self._journal_name = redact_location(journal)
        self._output = Output(json=args.json)
        self._stats = BatchStats(
            rows.rows,
            saving=args.download_to is not None,
            expected=rows.estimate(limits, args.in_flight),
            clock=asyncio.get_running_loop().time,
        )
        # By kind of outcome: their number, and the first errors.
        self._outcomes: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    async def run(self) -> int:
        """Run the batch and return the exit code."""
        args = self._args
        kling = client_from(args, self._stats.on_event)
        batch = Batch(kling, journal=self._journal, options=batch_options_from(args))
        self._stats.counts = lambda: batch.counts
        async with kling, AsyncExitStack() as stack:
            with hinting_at_journal_option(args):
                await stack.enter_async_context(batch)
            return await self._run_opened(kling, batch)

    async def _run_opened(self, kling: KlingClient, batch: Batch) -> int:
        journaled = (await batch.summary()).counts
        if any(journaled.values()):
            self._output.print_status(f"resuming {self._journal_name}: {format_states(journaled)}")
        for remark in self._rows.remarks():
            self._output.print_status(remark)
        try:
            before = await _read_balance(kling)
            error = await self._process_items(batch)
            balances = {"balance_before": before, "balance_after": await _read_balance(kling)}
        except asyncio.CancelledError:
            await self._report_interrupted(kling, batch)
            raise
        counts = Counter(batch.counts)
        counts[ItemState.PLANNED] += max(0, self._rows.rows - counts.total())
        attempts = (await batch.summary()).attempts
        shown = {state.value: count for state, count in counts.items() if count}
        seconds = round(self._stats.elapsed, 1)
        fields = {"counts": shown, "attempts": attempts, **balances, "seconds": seconds}
        self._output.print_result([], fields)
        for line in self._summary(counts, attempts, *balances.values()):
            self._output.print_status(line)
        code = exit_codes.OK
        if error is not None:
            code = self._output.print_error(error)
        elif batch.stopped is not None:
            code = self._output.print_error(ConfigurationError(batch.stopped), exit_codes.FAILED)
        return self._exit_code(counts) or code

    def _exit_code(self, counts: Mapping[ItemState, int]) -> int:
        """Return the code of the worst state: money first, then what another run would do."""
        if counts[ItemState.UNSURE]:
            return exit_codes.UNSURE
        if counts[ItemState.FAILED] or counts[ItemState.PLANNED] or self._rows.invalid.messages:
            return exit_codes.FAILED
        if counts[ItemState.SUBMITTED]:
            return exit_codes.RUNNING
        return exit_codes.DOWNLOAD if self._outcomes["not saved"] else exit_codes.OK

    async def _process_items(self, batch: Batch) -> KlingError | None:
        """Print the outcomes of all items; return the error that has ended the batch early."""
        try:
            with show_stats(self._stats, self._args.file.name, silent=self._args.json):
                async with aclosing(batch.run(self._rows.items())) as outcomes:
                    async for outcome in outcomes:
                        self._handle(outcome)
        except JournalError as error:
            self._report_lost_journal(error)
            raise
        except KlingError as error:
            if not batch.counts:  # nothing has begun: the archive cannot be used
                raise
            return error
        return None

    def _handle(self, outcome: Outcome) -> None:
        """Print an outcome of this run, and keep its error for the summary."""
        if outcome.done_by_other:
            self._outcomes["by other workers"] += 1
        else:
            print_outcome(self._output, outcome)
        error, name = outcome.error, outcome_name(outcome)
        if error is not None:
            self._outcomes[name] += 1
            if isinstance(error, TaskFailedError) and error.reason in TRANSIENT_REASONS:
                self._outcomes["temporary"] += 1
            if self._outcomes[name] <= _EXAMPLES:
                self._examples.setdefault(name, []).append(f"{outcome.key}: {error}")

    def _summary(
        self, counts: Counter[ItemState], attempts: int, before: float | None, after: float | None
    ) -> Iterator[str]:
        args, rows = self._args, self._rows
        total = format_count(rows.rows, "row")
        yield f"{args.file}: {total} in {format_duration(self._stats.elapsed)}"
        yield from (f"  {line}" for line in state_lines(counts))
        if others := self._outcomes["by other workers"]:
            yield f"  {others:,} of them by other workers"
        if invalid := rows.invalid.messages:
            yield f"  {'left out':<10} {len(invalid):>9,}"
        yield f"Tasks that may have cost money, all runs together: {attempts:,}"
        shown = ["unknown" if value is None else f"{value:,.2f}" for value in (before, after)]
        yield f"Balance in USD: {shown[0]} before, {shown[1]} after"
        yield f"Journal: {self._journal_name}"
        if args.download_to is not None:
            yield f"Videos: {args.download_to}"
        for name, examples in self._examples.items():
            yield f"{name.capitalize()}:"
            yield from (f"  {example}" for example in examples)
            if (more := self._outcomes[name] - len(examples)) > 0:
                yield f"  and {more:,} more"
        if commands := list(self._next_commands(counts)):
            yield "Next:"
            for purpose, command in commands:
                yield f"  # {purpose}"
                yield f"  {command}"

    def _next_commands(self, counts: Counter[ItemState]) -> Iterator[tuple[str, str]]:
        """Yield what may be done next, and the command that does it."""
        if self._examples:
            yield "all items", shlex.join([PROGRAM, "report", self._journal_name])
        unfinished = counts[ItemState.PLANNED] or counts[ItemState.SUBMITTED]
        if unfinished or self._outcomes["not saved"]:
            yield "continues", self._command_line()
        if self._outcomes["temporary"]:
            command = self._command_line(resubmit_failed=self._args.resubmit_failed + 1)
            yield "resubmits what failed for a temporary reason, and pays again", command
        if counts[ItemState.UNSURE]:
            command = self._command_line(resubmit_unsure=True)
            yield "resubmits the unsure rows: check the account first, it may pay twice", command

    def _command_line(self, **changes: object) -> str:
        """Return the command line that continues: this one, without what would pay twice."""
        args = self._args
        defaults = {**vars(arguments.parse(["batch", "-"])), "file": args.file}
        given = {**vars(args), "resume": True, "resubmit_unsure": False, **changes}
        file = str(args.file)
        # The name of a file may begin as an option does.
        file = f"./{file}" if file.startswith("-") and args.file != STDIN else file
        words = [PROGRAM, "batch", file]
        shown_values = {"journal": self._journal_name, "limiter": redact_url(args.limiter or "")}
        for name, value in given.items():
            if value != defaults[name]:
                text = f"{value:g}" if isinstance(value, float) else str(value)
                option = f"--{name.replace('_', '-')}"
                words += [option] if value is True else [option, shown_values.get(name, text)]
        return shlex.join(words)

    async def _report_interrupted(self, kling: KlingClient, batch: Batch) -> None:
        counts = (await batch.summary()).counts
        if self._args.json:
            self._output.print_interrupted(kling.running, self._stats.unsure)
        say = self._output.print_status
        say(f"{PROGRAM}: interrupted; the journal has {format_states(counts)}")
        if counts[ItemState.SUBMITTED]:
            say(f"Tasks still running at the service: {counts[ItemState.SUBMITTED]:,}")
        say(f"To continue: {self._command_line()}")

    def _report_lost_journal(self, error: JournalError) -> None:
        """Print which tasks are running, since the journal may not have their references."""
        for note in getattr(error, "__notes__", ()):
            self._output.print_status(note)
        if (ref := error.ref) is not None:
            line = f"The journal does not know that the service has accepted {ref}"
            self._output.print_status(line)
