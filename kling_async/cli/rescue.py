"""``kling-async rescue``: saves what batches have generated and not saved."""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING

from kling_async._utils.text import format_count
from kling_async.batch.batch import Batch
from kling_async.cli import exit_codes
from kling_async.cli.commands import client_from
from kling_async.cli.outcomes import batch_options_from, print_outcome_or_error
from kling_async.cli.output import PROGRAM, Output
from kling_async.errors import ConfigurationError, JournalError, ResultExpiredError
from kling_async.journal.opening import journal_exists, redact_location

if TYPE_CHECKING:
    from argparse import Namespace

    from kling_async.tasks.fan_out import Outcome


async def run_rescue(args: Namespace) -> int:
    """Save the videos of each journal in turn; one that cannot be used does not prevent others."""
    if args.download_to is None:
        raise ConfigurationError("name the folder for the videos with --download-to")
    output, counts = Output(json=args.json), Counter(saved=0, not_saved=0, lost=0)
    missing = []
    async with client_from(args) as kling:
        for journal in args.journals:
            try:
                if not await journal_exists(journal):
                    missing.append(redact_location(journal))
                    continue
                batch = Batch(kling, journal=journal, options=batch_options_from(args))
                async with batch, aclosing(batch.rescue()) as outcomes:
                    async for outcome in outcomes:
                        counts[_name_of(outcome)] += 1
                        print_outcome_or_error(output, outcome)
            # Damaged, out of reach, or in use by a batch, which saves its own videos.
            except JournalError as error:
                counts["in_use" if error.retryable else "unusable"] += 1
                output.print_status(f"{PROGRAM}: left out: {error}")
    output.print_status(
        f"{PROGRAM}: {format_count(counts['saved'], 'video')} saved,"
        f" {counts['not_saved']:,} not saved this time, {counts['lost']:,} lost"
    )
    output.print_result([], {"counts": dict(counts)})
    if missing:
        raise ConfigurationError(f"there is no journal at {', '.join(missing)}")
    if counts["unusable"]:
        return exit_codes.JOURNAL
    return exit_codes.DOWNLOAD if counts["not_saved"] or counts["lost"] else exit_codes.OK


def _name_of(outcome: Outcome) -> str:
    if outcome.error is None:
        return "saved"
    expired = isinstance(outcome.error, ResultExpiredError) and not outcome.error.retryable
    return "lost" if expired else "not_saved"
