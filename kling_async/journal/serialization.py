"""How values are written to a journal as text, and read back, the same for every engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from attrs import asdict

from kling_async.inputs.local_image import to_identity
from kling_async.journal.base import Entry, Failure, ItemError, ItemState, Summary, Transition
from kling_async.results import (
    FailReason,
    MediaFacts,
    MediaProblem,
    Result,
    SavedFile,
    TaskRef,
)

if TYPE_CHECKING:
    from kling_async.journal.base import Planned


DETAILS = ("ref", "result", "failure", "files", "trace")
"""The columns of what comes with a transition."""


class DamageError(Exception):
    """A row of the journal cannot be read."""


@contextmanager
def reading_row() -> Iterator[None]:
    """Raise :class:`DamageError` for an exception that a damaged row causes."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamageError(f"a row cannot be read: {error!r}") from error


def to_json(value: object) -> str:
    """Return plain values as JSON; equal values as equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def plan_items(
    items: Sequence[Planned],
    find: Callable[[str], tuple[str, Entry | None] | None],
    now: datetime,
) -> tuple[list[Entry], dict[str, str]]:
    """Return the entries of items, and the inputs of new items by key.

    Args:
        items: What is to be planned.
        find: Returns the input and the entry of a stored item. The entry is None if the item is
            written by the same transaction.
        now: When new items are planned.

    Raises:
        ItemError: An input is not JSON, or a key is stored with another input.
    """
    new: dict[str, str] = {}
    known: dict[str, tuple[str, Entry]] = {}
    for item in items:
        key = item.key
        try:
            text = to_json(item.input)
        except (TypeError, ValueError) as error:
            raise ItemError(f"the input of item {key!r} is not JSON: {error}") from error
        if key not in known:
            found = find(key)
            if found is None:
                new[key] = text
            stored, entry = found or (text, None)
            known[key] = stored, entry or Entry(key, json.loads(text), ItemState.PLANNED, 1, now)
        if known[key][0] != text and not _is_same_input(known[key][0], text):
            raise ItemError(
                f"item {key!r} is in the journal with another input: give it another key, or use"
                " another journal"
            )
    return [known[item.key][1] for item in items], new


def _is_same_input(stored: str, text: str) -> bool:
    """Return whether two inputs differ at most in where a local image was found."""
    first, second = (
        {name: to_identity(value) for name, value in json.loads(one).items()}
        for one in (stored, text)
    )
    return first == second


def format_details(transition: Transition) -> dict[str, str | None]:
    """Return the details of a transition as text by column; None for those that it has not."""
    result, failure, files = transition.result, transition.failure, transition.files
    return {
        "ref": str(transition.ref) if transition.ref else None,
        "result": to_json(result.to_dict()) if result else None,
        "failure": to_json(asdict(failure)) if failure else None,
        "files": to_json([_file_fields(file) for file in files]) if files else None,
        "trace": transition.traceparent or None,
    }


def parse_entry(columns: Sequence[Any]) -> Entry:
    """Return an entry from the columns of its row: those of an entry, in order.

    The trace, which is the last, may be missing: earlier versions had no such column.

    Raises:
        DamageError: They cannot be read.
    """
    with reading_row():
        key, text, state, attempt, changed_at, *details = columns
        plain, when = json.loads(text), _parse_time(changed_at)
        trace = details.pop() if len(details) == len(DETAILS) else None
        known = parse_details(details)
        return Entry(key, plain, ItemState(state), attempt, when, *known, trace or "")


def parse_page(rows: Sequence[Sequence[Any]], after: int) -> tuple[int, list[Entry]]:
    """Return the entries of a page, and the id of its last row, or ``after`` if it is empty.

    Each row has the columns of :func:`parse_entry` after its id.

    Raises:
        DamageError: A row cannot be read.
    """
    return (rows[-1][0] if rows else after), [parse_entry(row[1:]) for row in rows]


def parse_summary(counted: Iterable[tuple[str, int]], paid: int) -> Summary:
    """Return a summary.

    Args:
        counted: The number of items in each state in which there are any.
        paid: The attempts that were accepted or became unsure.
    """
    found = dict(counted)
    counts = {state: found.get(state.value, 0) for state in ItemState}
    return Summary(counts, paid + counts[ItemState.SUBMITTING])


def parse_transition(key: str, columns: Sequence[Any]) -> Transition:
    """Return a transition of an item from the columns of its row: state, time and details.

    Raises:
        DamageError: They cannot be read.
    """
    with reading_row():
        state, at, *details = columns
        return Transition(key, ItemState(state), _parse_time(at), *parse_details(details))


def parse_details(
    details: Iterable[str | None],
) -> tuple[TaskRef | None, Result | None, Failure | None, tuple[SavedFile, ...]]:
    """Return what :func:`format_details` wrote, in its order and without the trace.

    Raises:
        KeyError, TypeError, ValueError: The texts are not of that kind.
    """
    ref, result, failure, files = details
    return (
        TaskRef.parse(ref) if ref else None,
        _parse_result(json.loads(result)) if result else None,
        _parse_failure(json.loads(failure)) if failure else None,
        tuple(map(_parse_file, json.loads(files))) if files else (),
    )


def _file_fields(file: SavedFile) -> dict[str, object]:
    fields = file.to_dict()
    for name in ("media", "archive"):  # earlier versions do not know them
        if not fields[name]:
            del fields[name]
    return fields


def _parse_file(plain: dict[str, Any]) -> SavedFile:
    media = plain.pop("media", None)
    if media is not None:
        problems = tuple(map(MediaProblem, media.pop("problems")))
        media = MediaFacts(**media, problems=problems)
    return SavedFile(**plain, media=media)


def _parse_result(plain: dict[str, Any]) -> Result:
    return Result(
        TaskRef.parse(plain["ref"]),
        tuple(plain["result_urls"]),
        created_at=_parse_time(plain["created_at"]) if plain["created_at"] else None,
        completed_at=_parse_time(plain["completed_at"]) if plain["completed_at"] else None,
        cost_time=plain["cost_time"],
    )


def _parse_failure(plain: dict[str, Any]) -> Failure:
    reason = plain.pop("reason")
    return Failure(**plain, reason=FailReason(reason) if reason else None)


def _parse_time(value: datetime | str) -> datetime:
    return datetime.fromisoformat(value) if isinstance(value, str) else value.astimezone(UTC)
