"""Reading the rows of a PostgreSQL journal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from attrs import frozen

from kling_async.errors import JournalError
from kling_async.journal.base import Entry, ItemState, Summary, Transition
from kling_async.journal.serialization import (
    DETAILS,
    parse_entry,
    parse_page,
    parse_summary,
    parse_transition,
    reading_row,
)
from kling_async.journal.threaded import PAGE

if TYPE_CHECKING:
    from kling_async.journal.postgres._schema import Database
    from kling_async.journal.postgres._workers import WorkerSession

_COLUMNS = "id, key, input, state, attempt, changed_at, ref, result, failure, files, trace"

# xmin changes with each update of a row.
READ_ITEMS = f"""
    SELECT {_COLUMNS}, worker, held, worker IS DISTINCT FROM %(worker)s AND moved_at > %(since)s,
        xmin::text
    FROM kling_async_items WHERE batch = %(batch)s AND key = ANY(%(keys)s::text[])
"""  # noqa: S608 - constants
# Reads the index of states side by side: only the page is sorted. Tables that only earlier versions
# have written have no column for the trace: then the name means that of "missing".
_PAGE = f"""
    SELECT found.* FROM (SELECT NULL::text AS trace) AS missing,
    unnest(%(states)s::text[]) AS wanted(state), LATERAL (
        SELECT {_COLUMNS} FROM kling_async_items
        WHERE batch = %(batch)s AND kling_async_items.state = wanted.state AND id > %(after)s
        ORDER BY id LIMIT %(size)s
    ) AS found ORDER BY id LIMIT %(size)s
"""  # noqa: S608 - constants
# An attempt is accepted, or becomes unsure, or both, if its reference is found later.
_SUMMARY = """
    SELECT state, count(*) FROM kling_async_items WHERE batch = %(batch)s GROUP BY state;
    SELECT count(*) FILTER (WHERE NOT (made.state = 'unsure' AND EXISTS (
        SELECT FROM kling_async_history AS found
        WHERE found.item = made.item AND found.state = 'submitted' AND found.attempt = made.attempt
    )))
    FROM kling_async_items AS item
    JOIN kling_async_history AS made ON made.item = item.id
    WHERE item.batch = %(batch)s AND made.state IN ('submitted', 'unsure')
"""
_HISTORY = """
    SELECT made.state, at, made.ref, made.result, made.failure, made.files
    FROM kling_async_items AS item JOIN kling_async_history AS made ON made.item = item.id
    WHERE item.batch = %(batch)s AND item.key = %(key)s ORDER BY made.id
"""


@frozen
class ItemRow:
    """An item, as it was read, or is to be written.

    Attributes:
        details: As :func:`.format_details` returns them.
        worker: The worker that has it or had it last; None if that worker's lease expired.
        held: Whether the worker has it still.
        changed: Another worker has changed it since this one opened the journal.
        version: Changes with each update.
        moved: A transition is to be written.
    """

    id: int
    key: str
    input: str
    state: ItemState
    attempt: int
    changed_at: datetime
    details: Mapping[str, str | None]
    worker: int | None
    held: bool
    changed: bool
    version: str
    moved: bool = False

    @classmethod
    def parse(cls, columns: Sequence[Any]) -> ItemRow:
        """Return the row of :data:`READ_ITEMS`."""
        number, key, text, state, attempt, changed_at = columns[:6]
        details = dict(zip(DETAILS, columns[6:11], strict=True))
        with reading_row():
            state = ItemState(state)
        return cls(number, key, text, state, attempt, changed_at, details, *columns[11:])

    def entry(self) -> Entry:
        """Return the row as an entry."""
        known = (self.key, self.input, self.state, self.attempt, self.changed_at)
        return parse_entry((*known, *self.details.values()))

    def is_held_by_another(self, session: WorkerSession) -> bool:
        """Return whether another worker has the item."""
        return self.held and self.worker != session.id


def is_storable(key: str) -> bool:
    """Return whether PostgreSQL can store a key."""
    try:
        return b"\0" not in key.encode()
    except UnicodeEncodeError:
        return False


async def read_page(
    db: Database, batch: int, states: Iterable[ItemState], after: int
) -> tuple[int, list[Entry]]:
    """Return a page of entries in these states, or all, and the row after which more follow."""
    wanted = [state.value for state in (list(states) or ItemState)]
    values = {"states": wanted, "batch": batch, "after": after, "size": PAGE}
    (rows,) = await db.send(_PAGE, values)
    return parse_page(rows, after)


async def read_summary(db: Database, batch: int) -> Summary:
    """Count the items, and the submits that may have cost money."""
    counted, ((paid,),) = await db.send(_SUMMARY, {"batch": batch})
    return parse_summary(counted, paid)


async def read_history(db: Database, batch: int, key: str) -> list[Transition]:
    """Return every transition of an item, oldest first."""
    if is_storable(key):
        (rows,) = await db.send(_HISTORY, {"batch": batch, "key": key})
        if rows:
            return [parse_transition(key, row) for row in rows]
    raise JournalError(f"there is no item {key!r} in the journal")
