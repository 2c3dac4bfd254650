"""How the outcomes of items are named and printed, by ``batch``, ``worker`` and ``rescue``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from attrs import fields

from kling_async._utils.text import printable
from kling_async.batch.options import BatchOptions
from kling_async.cli.output import PROGRAM, Output, write_line
from kling_async.errors import TaskFailedError
from kling_async.fleet.serialization import outcome_dict

if TYPE_CHECKING:
    from argparse import Namespace

    from kling_async.tasks.fan_out import Outcome


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
