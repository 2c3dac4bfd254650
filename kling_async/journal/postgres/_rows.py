"""The rows of a PostgreSQL journal: how items are read, locked and written, many at a time.

Everything here blocks: it runs in the journal's own thread.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from attrs import frozen

from kling_async.errors import JournalError
from kling_async.journal.base import Entry, ItemState, Summary, Transition
from kling_async.journal.postgres._link import DamageError
from kling_async.journal.text import making_sense, read_details

if TYPE_CHECKING:
    import psycopg

    from kling_async.journal.postgres._link import Connection
    from kling_async.journal.postgres._workers import WorkerSession

_COLUMNS = "id, key, input, state, attempt, changed_at, ref, result, failure, files"

_LOOK = f"""
    SELECT {_COLUMNS}, worker, held, worker IS DISTINCT FROM %s AND moved_at > %s
    FROM kling_async_items WHERE batch = %s AND key = ANY(%s)
"""  # noqa: S608 - our own words
# In the order of the rows, so that two workers never wait for each other. What another has in hand
# is not locked for nothing: who only wants to take it looks again and again.
_LOCK = f"""{_LOOK}
    AND (worker = %s OR NOT held OR key = ANY(%s)) ORDER BY id FOR UPDATE
"""
# One at a time plans what is new to a batch, so that its order is everybody's.
_PLANNING = "SELECT pg_advisory_xact_lock(%s, %s)"
_PLANNERS = 0x4B4C4E47
_PLAN = """
    WITH new AS (
        INSERT INTO kling_async_items (batch, key, input, state, attempt, changed_at)
        SELECT %(batch)s, key, input, 'planned', 1, %(now)s
        FROM unnest(%(keys)s::text[], %(inputs)s::text[])
            WITH ORDINALITY AS given(key, input, place)
        ORDER BY place
        RETURNING id, attempt, state, changed_at
    )
    INSERT INTO kling_async_history (item, attempt, state, at, worker)
    SELECT *, %(worker)s::bigint FROM new ORDER BY id
"""
_WRITE = """
    UPDATE kling_async_items AS item SET
        state = new.state, attempt = new.attempt, changed_at = new.changed_at, ref = new.ref,
        result = new.result, failure = new.failure, files = new.files,
        worker = new.worker, held = new.held,
        moved_at = CASE WHEN new.moved THEN clock_timestamp() ELSE item.moved_at END
    FROM unnest(
        %s::bigint[], %s::text[], %s::integer[], %s::timestamptz[],
        %s::text[], %s::text[], %s::text[], %s::text[],
        %s::bigint[], %s::boolean[], %s::boolean[]
    ) AS new(id, state, attempt, changed_at, ref, result, failure, files, worker, held, moved)
    WHERE item.id = new.id
"""
_NOTE = """
    INSERT INTO kling_async_history
        (worker, item, state, attempt, at, ref, result, failure, files)
    SELECT %s, item, state, attempt, at, ref, result, failure, files
    FROM unnest(
        %s::bigint[], %s::text[], %s::integer[], %s::timestamptz[],
        %s::text[], %s::text[], %s::text[], %s::text[]
    ) WITH ORDINALITY AS new(item, state, attempt, at, ref, result, failure, files, place)
    ORDER BY place
"""
# Through the index of states, side by side: nothing is sorted but the page.
_PAGE = f"""
    SELECT found.* FROM unnest(%s::text[]) AS wanted(state), LATERAL (
        SELECT {_COLUMNS} FROM kling_async_items
        WHERE batch = %s AND kling_async_items.state = wanted.state AND id > %s
        ORDER BY id LIMIT %s
    ) AS found ORDER BY id LIMIT %s
"""  # noqa: S608 - as above
_COUNT = "SELECT state, count(*) FROM kling_async_items WHERE batch = %s GROUP BY state"
# An attempt is accepted, or becomes unsure, or both, if its reference is learned later.
_PAID = """
    SELECT count(*) FILTER (WHERE NOT (made.state = 'unsure' AND EXISTS (
        SELECT FROM kling_async_history AS found
        WHERE found.item = made.item AND found.state = 'submitted' AND found.attempt = made.attempt
    )))
    FROM kling_async_items AS item
    JOIN kling_async_history AS made ON made.item = item.id
    WHERE item.batch = %s AND made.state IN ('submitted', 'unsure')
"""
_HISTORY = """
    SELECT made.state, at, made.ref, made.result, made.failure, made.files
    FROM kling_async_items AS item JOIN kling_async_history AS made ON made.item = item.id
    WHERE item.batch = %s AND item.key = %s ORDER BY made.id
"""


@frozen
class Row:
    """An item, as it was read, or is to be written.

    Attributes:
        worker: Who has it in hand, or had it last; None if that worker died.
        held: Somebody has it in hand.
        news: Another worker has moved it since this one came.
        moved: It was moved since it was read.
    """

    id: int
    key: str
    input: str
    state: ItemState
    attempt: int
    changed_at: datetime
    ref: str | None
    result: str | None
    failure: str | None
    files: str | None
    worker: int | None = None
    held: bool = False
    news: bool = False
    moved: bool = False

    def entry(self) -> Entry:
        """Return how it stands."""
        with making_sense(DamageError):
            return Entry(
                self.key,
                json.loads(self.input),
                self.state,
                self.attempt,
                self.changed_at.astimezone(UTC),
                *read_details((self.ref, self.result, self.failure, self.files)),
            )


def is_text(key: str) -> bool:
    """Whether a key can be stored at all."""
    try:
        return b"\0" not in key.encode()
    except UnicodeEncodeError:
        return False


def peek(db: Connection, me: WorkerSession, keys: Iterable[str]) -> dict[str, Row]:
    """Read items, which may change at any time."""
    values = (me.id, me.since, me.batch, _texts(keys))
    return _by_key(db.execute(_LOOK, values).fetchall())


def lock(
    db: Connection, me: WorkerSession, wanted: Iterable[str], any_holder: Iterable[str]
) -> _Locked:
    """Lock items: the second ones in any case, the first ones unless others have them in hand.

    They are there when they are asked for, after whatever else was sent by then.
    """
    forced = _texts(any_holder)
    keys = [*_texts(wanted), *forced]
    return _Locked(db.execute(_LOCK, (me.id, me.since, me.batch, keys, me.id, forced)))


class _Locked:
    """Rows whose answer is yet to be read."""

    def __init__(self, cursor: psycopg.Cursor[tuple[Any, ...]]) -> None:
        self._cursor = cursor

    def rows(self) -> dict[str, Row]:
        """Wait for the answer."""
        return _by_key(self._cursor.fetchall())


def take_turn(db: Connection, me: WorkerSession) -> None:
    """Wait until nobody else plans items of this batch."""
    db.execute(_PLANNING, (_PLANNERS, me.batch))


def plan(db: Connection, me: WorkerSession, now: datetime, inputs: Mapping[str, str]) -> None:
    """Write new items, and their histories."""
    given: dict[str, object] = {"batch": me.batch, "worker": me.id, "now": now}
    db.execute(_PLAN, {**given, "keys": list(inputs), "inputs": list(inputs.values())})


def write(db: Connection, rows: Collection[Row]) -> None:
    """Write how items stand now."""
    if rows:
        columns = zip(
            *(
                (
                    row.id,
                    row.state.value,
                    row.attempt,
                    row.changed_at,
                    *(row.ref, row.result, row.failure, row.files),
                    *(row.worker, row.held, row.moved),
                )
                for row in rows
            ),
            strict=True,
        )
        db.execute(_WRITE, tuple(map(list, columns)))


def note(db: Connection, me: WorkerSession, notes: Collection[Sequence[object]]) -> None:
    """Add to the history."""
    if notes:
        db.execute(_NOTE, (me.id, *map(list, zip(*notes, strict=True))))


def page(
    db: Connection, batch: int, states: Iterable[ItemState], after: int, size: int
) -> tuple[int, list[Entry]]:
    """Return so many entries in these states, or all, and the place after which more follow."""
    wanted = [state.value for state in (list(states) or ItemState)]
    found = db.execute(_PAGE, (wanted, batch, after, size, size)).fetchall()
    rows = [_row(columns) for columns in found]
    return (rows[-1].id if rows else after), [row.entry() for row in rows]


def summary(db: Connection, batch: int) -> Summary:
    """Count the items, and the submits that may have cost money."""
    counting, paying = db.execute(_COUNT, (batch,)), db.execute(_PAID, (batch,))
    found: dict[str, int] = dict(counting.fetchall())
    counts = {state: found.get(state.value, 0) for state in ItemState}
    ((paid,),) = paying.fetchall()
    return Summary(counts, paid + counts[ItemState.SUBMITTING])


def history(db: Connection, batch: int, key: str) -> list[Transition]:
    """Return every move of an item, oldest first."""
    rows = db.execute(_HISTORY, (batch, key)).fetchall() if is_text(key) else []
    if not rows:
        raise JournalError(f"there is no item {key!r} in the journal")
    with making_sense(DamageError):
        return [
            Transition(key, ItemState(state), at.astimezone(UTC), *read_details(texts))
            for state, at, *texts in rows
        ]


def _texts(keys: Iterable[str]) -> list[str]:
    return [key for key in keys if is_text(key)]


def _by_key(found: Iterable[Sequence[Any]]) -> dict[str, Row]:
    rows = [_row(columns) for columns in found]
    return {row.key: row for row in rows}


def _row(columns: Sequence[Any]) -> Row:
    number, key, text, state, *others = columns
    with making_sense(DamageError):
        return Row(number, key, text, ItemState(state), *others)
