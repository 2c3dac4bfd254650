"""What a job says of its item, and what a worker says of an item's outcome: plain values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kling_async.batch.decisions import Item
from kling_async.errors import InputError, Problem, TaskFailedError
from kling_async.inputs.base import parse_input

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kling_async.errors import KlingError
    from kling_async.tasks.fan_out import Outcome


def item_from(key: object, fields: Mapping[str, object]) -> Item:
    """Make an item of plain values.

    Raises:
        InputError: They make no sense.
    """
    return Item(key, parse_input(fields))  # type: ignore[arg-type]  # it checks that itself


def write(item: Item) -> bytes:
    """Write an item as a job's payload: the key, and the fields of its input."""
    return json.dumps({"key": item.key, **item.input.to_dict()}).encode()


def read(payload: bytes | None) -> Item:
    """Read what :func:`write` wrote.

    Raises:
        InputError: It is nothing of the kind.
    """
    try:
        row = json.loads(payload or b"")
    except (ValueError, RecursionError) as error:
        raise InputError(f"a job's payload is not JSON: {error}") from None
    if not isinstance(row, dict) or "key" not in row:
        raise InputError(problems=[Problem("key", "must be in a job's payload", f"{row!r:.80}")])
    return item_from(row.pop("key"), row)


def outcome_dict(outcome: Outcome) -> dict[str, object]:
    """Return an outcome's plain values for JSON, with its error, if any, among them."""
    return {
        "key": outcome.key,
        "ref": outcome.task_ref and str(outcome.task_ref),
        **(outcome.result.to_dict() if outcome.result else {}),
        "files": [str(path) for path in outcome.files],
        "done_by_other": outcome.done_by_other,
        **(_error(outcome.error) if outcome.error else {}),
    }


def error_dict(key: str, error: KlingError) -> dict[str, object]:
    """Return the same of an item that has come to nothing."""
    return {
        "key": key,
        "ref": error.ref and str(error.ref),
        "files": [],
        "done_by_other": False,
        **_error(error),
    }


def _error(error: KlingError) -> dict[str, object]:
    failed = error if isinstance(error, TaskFailedError) else None
    return {
        "error": type(error).__name__,
        "message": str(error),
        "may_have_charged": error.may_have_charged,
        "retryable": error.retryable,
        "fail_code": failed and failed.fail_code,
        "reason": failed and failed.reason and failed.reason.value,
    }
