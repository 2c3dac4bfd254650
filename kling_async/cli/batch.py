"""``kling-async batch``: a video for every row of a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import asdict

from kling_async._utils.text import format_count, format_duration
from kling_async.batch.decisions import Step
from kling_async.cli import exit_codes
from kling_async.cli.batch_run import BatchCommand, hinting_at_journal_option
from kling_async.cli.commands import check_destination
from kling_async.cli.input_file import InputFile, JournaledItem, read_journal
from kling_async.cli.outcomes import batch_options_from, format_states
from kling_async.cli.output import PROGRAM, Output
from kling_async.cli.row_files import read_csv, read_jsonl
from kling_async.cli.row_values import DEFAULT_MODE
from kling_async.cli.text_file import is_regular_file, open_input
from kling_async.errors import ConfigurationError, InputError
from kling_async.fleet import Queue
from kling_async.journal.address import is_postgres_url
from kling_async.journal.opening import journal_at, journal_exists, redact_location
from kling_async.limits.base import Limits

if TYPE_CHECKING:
    from argparse import Namespace

_SUFFIX = ".journal.sqlite"


async def run_batch(args: Namespace) -> int:
    """Check all rows, then generate a video for each, from where the journal ends."""
    journal = _journal_of(args)
    exists = journal is not None and await journal_exists(journal)
    if journal is not None and exists and not args.resume:
        raise ConfigurationError(
            f"there is a journal at {redact_location(journal)} already: name another with"
            " --journal, or continue with it, without --no-resume"
        )
    if args.enqueue and not is_postgres_url(args.journal):
        raise ConfigurationError(
            "--enqueue needs a journal that workers share, such as --journal postgresql://host/db"
        )
    with InputFile(args.file.parent, fix_images=args.fix_images) as rows:
        items: Mapping[int, JournaledItem] = {}
        if journal is not None and exists:
            with hinting_at_journal_option(args):
                items = await read_journal(journal, batch_options_from(args))
        is_csv = args.file.suffix.lower() == ".csv" if args.format is None else args.format == "csv"
        async with open_input(args.file) as file:
            read = read_csv if is_csv else read_jsonl
            await rows.read(read(args.file, file), items, args.limit)
        _check_rows(args, rows, journal)
        if args.dry_run:
            return await _dry_run(args, rows, journal if exists else None)
        if args.enqueue:
            return await _enqueue(args, rows)
        assert journal is not None  # noqa: S101 - only a dry run can be without
        if isinstance(args.download_to, Path):  # an archive is checked once, by the run
            await check_destination(args.download_to)
        return await BatchCommand(args, rows, journal).run()


def _journal_of(args: Namespace) -> Path | str | None:
    """Return the path or URL of the journal; None for a dry run of rows from a pipe."""
    place: Path | str | None = args.journal
    regular = is_regular_file(args.file)
    if place is None and regular:
        beside: Path = args.file.with_name(f"{args.file.name}{_SUFFIX}")
        # Earlier versions named it after the stem.
        earlier: Path = args.file.with_name(f"{args.file.stem}{_SUFFIX}")
        return earlier if earlier.exists() and not beside.exists() else beside
    if place is None and not args.dry_run:
        raise ConfigurationError(
            f"name a journal with --journal: {args.file} is not a regular file, so that the next"
            " run could not find a journal beside it"
        )
    if isinstance(place, Path) and _is_temporary(place):
        raise ConfigurationError(
            f"a journal at {place} would be lost at a restart: name another place with --journal"
        )
    return place


def _is_temporary(place: Path) -> bool:
    """Return whether the file would be lost when the machine restarts."""
    folder = place.parent.resolve()
    devices = any(folder.is_relative_to(device) for device in ("/dev", "/proc"))
    return devices and not folder.is_relative_to("/dev/shm")  # noqa: S108 - users may choose it


def _check_rows(args: Namespace, rows: InputFile, journal: Path | str | None) -> None:
    """Raise or print the errors of the rows, and raise if the journal is that of another file."""
    invalid = bool(rows.invalid.messages)
    if invalid and not args.skip_invalid:
        raise rows.invalid.error()
    if invalid:
        Output(json=args.json).print_error(rows.invalid.error(), exit_codes.FAILED)
    if not rows.rows:
        raise InputError(f"{args.file}: there are no {'valid ' * invalid}rows in it")
    if journal is not None and rows.foreign and not args.enqueue:
        raise ConfigurationError(
            f"the journal {redact_location(journal)} has"
            f" {format_count(rows.foreign, 'running task')} of other rows, and none of the rows of"
            f" {args.file}: name another with --journal"
        )


async def _dry_run(args: Namespace, rows: InputFile, journal: Path | str | None) -> int:
    """Report what would be done."""
    again, save = rows.steps[Step.RESUBMIT], rows.steps[Step.SAVE]
    submit, attach = rows.steps[Step.SUBMIT] + again, rows.steps[Step.WAIT]
    beyond = 0
    if args.max_tasks is not None:
        started = 0
        if journal is not None:
            async with journal_at(journal, read_only=True) as opened:
                started = (await opened.summary()).attempts
        beyond = max(0, submit - max(0, args.max_tasks - started))
    limits = Limits(args.requests_per_minute, args.concurrent_tasks)
    seconds = rows.estimate(limits, args.in_flight)
    lines = {
        f"  {submit - beyond:,} would be submitted": True,
        f"  {again:,} of {submit:,} as a new attempt, which is charged again": again,
        f"  {beyond:,} would not: --max-tasks": beyond,
        f"  {attach:,} running already, to be waited for": attach,
        f"  {format_count(save, 'video')} would be downloaded": save,
        f"  the rest would not change: {format_states(rows.states)}": rows.states,
        f"  about {format_duration(seconds)}, by the vendor's figures": submit + attach,
        **{f"  {remark}": True for remark in rows.remarks()},
    }
    fields = {
        "submit": submit - beyond,
        "submit_again": again,
        "beyond_max_tasks": beyond,
        "attach": attach,
        "save": save,
        "stay": {state.value: count for state, count in rows.states.items()},
        "seconds": round(seconds, 1),
        **({"assumed_mode": {DEFAULT_MODE: rows.without_mode}} if rows.without_mode else {}),
        **({"not_in_file": rows.not_in_file} if rows.not_in_file else {}),
    }
    return _print_report(args, rows, lines, fields)


async def _enqueue(args: Namespace, rows: InputFile) -> int:
    """Write the rows to the journal, and add those that have not ended to its queue."""
    async with Queue(args.journal, fix_images=args.fix_images) as queue:
        put = await queue.put(rows.items())
    lines = {
        f"  {put.added:,} added to the queue": True,
        f"  {put.waiting:,} in the queue already": put.waiting,
        f"  {put.ended:,} ended already, according to the journal": put.ended,
        f"{PROGRAM} worker, with the same --journal, generates the videos": True,
    }
    return _print_report(args, rows, lines, asdict(put))


def _print_report(
    args: Namespace, rows: InputFile, lines: Mapping[str, object], fields: Mapping[str, object]
) -> int:
    """Print the lines that apply, or all fields."""
    invalid = len(rows.invalid.messages)
    shown_lines = [f"{args.file}: {format_count(rows.rows, 'row')}; nothing was sent"]
    shown_lines += [line for line, applies in lines.items() if applies]
    all_fields = {"rows": rows.rows, "invalid": invalid, **fields}
    Output(json=args.json).print_result(shown_lines, all_fields)
    return exit_codes.FAILED if invalid else exit_codes.OK
