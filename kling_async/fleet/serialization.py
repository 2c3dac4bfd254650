"""Items as the payloads of jobs, and outcomes as plain values for JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kling_async.batch.decisions import Item
from kling_async.errors import InputError, Problem, TaskFailedError
from kling_async.inputs.parsing import parse_input

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kling_async.errors import KlingError
    from kling_async.journal.base import Planned
    from kling_async.tasks.fan_out import Outcome


def parse_item(key: object, fields: Mapping[str, object]) -> Item:
    """Return the item with this key and the fields of its input.

    Raises:
        InputError: The key or the fields are invalid.
    """
    return Item(key, parse_input(fields, local_images=True))  # type: ignore[arg-type]  # Item checks the key


def dump_item(item: Planned) -> bytes:
    """Return an item as a job's payload: its key, and the fields of its input."""
    return json.dumps({"key": item.key, **item.input}).encode()


def load_item(payload: bytes | None) -> Item:
    """Return the item of a job's payload.

    Raises:
        InputError: It is not JSON, or not an item.
    """
    try:
        row = json.loads(payload or b"")
    except (ValueError, RecursionError) as error:
        raise InputError(f"a job's payload is not JSON: {error}") from None
    if not isinstance(row, dict) or "key" not in row:
        raise InputError(problems=[Problem("key", "must be in a job's payload", f"{row!r:.80}")])
    return parse_item(row.pop("key"), row)


def outcome_dict(outcome: Outcome) -> dict[str, object]:
    """Return an outcome as plain values, with the fields of its error, if any."""
    return {
        "key": outcome.key,
        "ref": outcome.task_ref and str(outcome.task_ref),
        **(outcome.result.to_dict() if outcome.result else {}),
        "files": [str(path) for path in outcome.files],
        "archived": list(outcome.archived),
        "media": [facts.to_dict() for facts in outcome.media],
        "done_by_other": outcome.done_by_other,
        **(_error_fields(outcome.error) if outcome.error else {}),
    }


def error_dict(key: str, error: KlingError) -> dict[str, object]:
    """Return the same values for an item that has no outcome."""
    return {
        "key": key,
        "ref": error.ref and str(error.ref),
        "files": [],
        "archived": [],
        "media": [],
        "done_by_other": False,
        **_error_fields(error),
    }


def _error_fields(error: KlingError) -> dict[str, object]:
    failed = error if isinstance(error, TaskFailedError) else None
    return {
        "error": type(error).__name__,
        "message": str(error),
        "may_have_charged": error.may_have_charged,
        "retryable": error.retryable,
        "fail_code": failed and failed.fail_code,
        "reason": failed and failed.reason and failed.reason.value,
    }
