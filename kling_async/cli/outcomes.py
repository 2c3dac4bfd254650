"""How the states and outcomes of items are named and printed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from attrs import fields

from kling_async._utils.text import printable
from kling_async.batch.options import BatchOptions
from kling_async.cli.output import PROGRAM, Output, write_line
from kling_async.errors import TaskFailedError
from kling_async.fleet.serialization import outcome_dict
from kling_async.journal.base import ItemState

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping

    from kling_async.tasks.fan_out import Outcome

STATE_NAMES: Mapping[ItemState, str] = {
    ItemState.SAVED: "saved",
    ItemState.FINISHED: "finished",
    ItemState.SUBMITTED: "running",
    ItemState.SUBMITTING: "being sent",
    ItemState.PLANNED: "queued",
    ItemState.FAILED: "failed",
    ItemState.UNSURE: "unsure",
}


def format_states(counts: Mapping[ItemState, int]) -> str:
    """Return the counts that are not zero, such as ``1,200 saved, 1 unsure``."""
    return format_counts({name: counts.get(state, 0) for state, name in STATE_NAMES.items()})


def state_lines(counts: Mapping[ItemState, int]) -> list[str]:
    """Return a line for each state that has items, in columns."""
    return [
        f"{name:<10} {counts[state]:>9,}" for state, name in STATE_NAMES.items() if counts[state]
    ]


def format_counts(counts: Mapping[str, int]) -> str:
    """Return the counts that are not zero, or ``nothing``."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "nothing"


def batch_options_from(args: Namespace) -> BatchOptions:
    """Return the options of a batch or a worker."""
    given = vars(args)
    names = [field.name for field in fields(BatchOptions) if field.name in given]
    return BatchOptions(**{name: given[name] for name in names})


def outcome_name(outcome: Outcome) -> str:
    """Return the kind of an item's outcome, in a word or two."""
    error = outcome.error
    if error is None:
        return "saved" if outcome.files or outcome.archived else "finished"
    if outcome.result is not None:
        return "not saved"
    if outcome.task_ref is not None:
        return "failed" if isinstance(error, TaskFailedError) else "not ended"
    return "unsure" if error.may_have_charged else "failed"


def print_outcome(output: Output, outcome: Outcome) -> None:
    """Write an outcome to stdout: its key and files or URLs; an error only with ``--json``."""
    if output.json:
        output.print_result([], outcome_dict(outcome))
    elif outcome.error is None:
        urls = outcome.result.result_urls if outcome.result else ()
        words = (str(outcome.key), *map(str, outcome.files or outcome.archived or urls))
        write_line(sys.stdout, "\t".join(printable(word) for word in words))


def print_outcome_or_error(output: Output, outcome: Outcome) -> None:
    """Write an outcome as `print_outcome` does, and an error for a reader to stderr."""
    print_outcome(output, outcome)
    if outcome.error is not None:
        output.print_status(f"{PROGRAM}: {outcome.key}: {outcome.error}")
