"""How the journal's values are written as text, the same in every engine, and read back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from attrs import asdict

from kling_async.journal.base import Failure, ItemError
from kling_async.results import FailReason, Result, SavedFile, TaskRef

if TYPE_CHECKING:
    from kling_async.journal.base import Planned, Transition


def write(value: object) -> str:
    """Write plain values as JSON, equal ones as equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def input_text(item: Planned) -> str:
    """Write the input of an item.

    Raises:
        ItemError: It is not JSON.
    """
    try:
        return write(item.input)
    except (TypeError, ValueError) as error:
        raise ItemError(f"the input of item {item.key!r} is not JSON: {error}") from error


@contextmanager
def making_sense(damage: type[Exception]) -> Iterator[None]:
    """Treat a row that cannot be read like any other damage, which the engine tells so."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damage(f"a row makes no sense: {error!r}") from error


def details(move: Transition) -> dict[str, str | None]:
    """Write what came with a move, by name; what did not is None."""
    return {
        "ref": str(move.ref) if move.ref else None,
        "result": write(move.result.to_dict()) if move.result else None,
        "failure": write(asdict(move.failure)) if move.failure else None,
        "files": write([asdict(file) for file in move.files]) if move.files else None,
    }


def read_details(
    texts: Iterable[str | None],
) -> tuple[TaskRef | None, Result | None, Failure | None, tuple[SavedFile, ...]]:
    """Read what :func:`details` wrote, in its order.

    Raises:
        KeyError, TypeError, ValueError: Something else wrote it.
    """
    ref, result, failure, files = texts
    return (
        TaskRef.parse(ref) if ref else None,
        _result(json.loads(result)) if result else None,
        _failure(json.loads(failure)) if failure else None,
        tuple(SavedFile(**file) for file in json.loads(files)) if files else (),
    )


def _result(plain: dict[str, Any]) -> Result:
    return Result(
        TaskRef.parse(plain["ref"]),
        tuple(plain["result_urls"]),
        created_at=_moment(plain["created_at"]),
        completed_at=_moment(plain["completed_at"]),
        cost_time=plain["cost_time"],
    )


def _failure(plain: dict[str, Any]) -> Failure:
    reason = plain.pop("reason")
    return Failure(**plain, reason=FailReason(reason) if reason else None)


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
