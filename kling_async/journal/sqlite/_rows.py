"""Reading and writing the rows of a SQLite journal, on an open connection.

Everything here blocks and runs in the journal's thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from kling_async.errors import JournalError
from kling_async.journal.base import (
    INTERRUPTED,
    Entry,
    ItemError,
    ItemState,
    Planned,
    Summary,
    Transition,
    attempt_after,
)
from kling_async.journal.calls import Call, apply_calls
from kling_async.journal.serialization import (
    DamageError,
    format_details,
    parse_entry,
    parse_page,
    parse_summary,
    parse_transition,
    plan_items,
    reading_row,
)
from kling_async.journal.sqlite._file import transaction
from kling_async.journal.threaded import PAGE

# A journal that only earlier versions have written has no column for the trace.
_ENTRY = "SELECT * FROM items"
_PROGRESS = "SELECT id, state, attempt FROM items"
_HISTORY = """
    SELECT state, at, ref, result, failure, files FROM history WHERE item = ? ORDER BY id
"""
_PLAN = """
    INSERT INTO items (key, input, state, attempt, changed_at) VALUES (?, ?, 'planned', 1, ?)
"""
_LOG_PLANNED = """
    INSERT INTO history (item, attempt, state, at)
    SELECT id, attempt, state, changed_at FROM items WHERE id > ?
"""
# Both use the same row. Details that a transition does not have stay as they are, unless a new
# attempt begins; a failure belongs to the last transition only. The placeholders are named since
# Python 3.12 warns of numbers.
_CHANGE = """
    UPDATE items SET
        attempt = :attempt, state = :state, changed_at = :at, failure = :failure,
        ref = CASE attempt WHEN :attempt THEN coalesce(:ref, ref) END,
        result = CASE attempt WHEN :attempt THEN coalesce(:result, result) END,
        files = CASE attempt WHEN :attempt THEN coalesce(:files, files) END,
        trace = CASE attempt WHEN :attempt THEN coalesce(:trace, trace) END
    WHERE id = :item
"""
_LOG = """
    INSERT INTO history (item, attempt, state, at, ref, result, failure, files)
    VALUES (:item, :attempt, :state, :at, :ref, :result, :failure, :files)
"""
# An attempt is accepted, or becomes unsure, or both, if its reference is found later. Those few
# are found through the index.
_PAID = """
    SELECT (SELECT count(*) FROM history WHERE state IN ('submitted', 'unsure')) - (
        SELECT count(*) FROM history AS lost JOIN history AS found
        ON found.item = lost.item AND found.state = 'submitted' AND found.attempt = lost.attempt
        WHERE lost.state = 'unsure'
    )
"""

# The row, state and attempt of items by key, after the transitions that were checked so far. Kept
# from one transaction to the next, since items that have changed change again soon.
Progress = dict[str, tuple[int, ItemState, int]]

# When there are more, all are dropped: a batch has very many items, and few change at a time.
_MOST_PROGRESS = 10_000


class SqliteChanges:
    """See :class:`.Changes`. Transitions are checked first, and written together at the end."""

    def __init__(self, db: sqlite3.Connection, progress: Progress) -> None:
        self._db = db
        self._progress = progress
        self._rows: list[dict[str, object]] = []

    def plan(self, items: Sequence[Planned]) -> list[Entry]:
        """Write the transitions so far, and new items; return the entries of all items."""
        self.write()
        now = datetime.now(UTC)

        def find(key: str) -> tuple[str, Entry] | None:
            row = _find(self._db, _ENTRY, key)
            return row and (row[2], parse_entry(row[1:]))

        entries, new = plan_items(items, find, now)
        (last,) = self._db.execute("SELECT coalesce(max(id), 0) FROM items").fetchone()
        self._db.executemany(_PLAN, [(*item, now.isoformat()) for item in new.items()])
        self._db.execute(_LOG_PLANNED, (last,))
        return entries

    def record(self, transitions: Iterable[Transition]) -> None:
        """Add transitions, all or none."""
        rows: list[dict[str, object]] = []
        progress: Progress = {}
        for transition in transitions:
            key = transition.key
            found = progress.get(key) or self._progress.get(key) or _read_progress(self._db, key)
            if found is None:
                raise JournalError(f"there is no item {key!r} in the journal: plan it first")
            item, state, attempt = found
            attempt = attempt_after(state, attempt, transition)
            progress[key] = item, transition.state, attempt
            at = transition.at.isoformat()
            row = {"item": item, "attempt": attempt, "state": transition.state.value, "at": at}
            rows.append({**row, **format_details(transition)})
        self._progress.update(progress)
        self._rows += rows

    def write(self) -> None:
        """Write the transitions."""
        self._db.executemany(_CHANGE, self._rows)
        self._db.executemany(_LOG, self._rows)
        self._rows.clear()


def commit_calls(
    db: sqlite3.Connection, calls: Sequence[Call[SqliteChanges]], progress: Progress
) -> list[object]:
    """Commit calls in one transaction; return the result of each, or the exception it raises.

    An error of the file is raised, and nothing is written.
    """
    if len(progress) > _MOST_PROGRESS:
        progress.clear()
    try:
        with transaction(db):
            changes = SqliteChanges(db, progress)
            answers = apply_calls(calls, changes, fatal=(sqlite3.Error, DamageError))
            changes.write()
    except BaseException:
        progress.clear()
        raise
    return answers


def mark_interrupted(db: sqlite3.Connection) -> None:
    """Change items that a process was sending when it ended to unsure."""
    now = datetime.now(UTC)
    keys = db.execute("SELECT key FROM items WHERE state = 'submitting' ORDER BY id").fetchall()
    with transaction(db):
        changes = SqliteChanges(db, {})
        changes.record(
            Transition(key, ItemState.UNSURE, now, failure=INTERRUPTED) for (key,) in keys
        )
        changes.write()


def read_page(
    db: sqlite3.Connection, states: Iterable[ItemState], after: int, size: int = PAGE
) -> tuple[int, list[Entry]]:
    """Return a page of entries in these states, or all, and the row after which more follow."""
    terms, values = [], []
    for state in states:
        # One term for each: SQLite then reads the index of states side by side and stops at the
        # end of the page, instead of sorting all items in these states.
        terms.append(f"{_ENTRY} WHERE id > ? AND state = ?")
        values += [after, state.value]
    if not terms:
        terms, values = [f"{_ENTRY} WHERE id > ?"], [after]
    query = f"{' UNION ALL '.join(terms)} ORDER BY id LIMIT ?"
    rows = db.execute(query, (*values, size)).fetchall()
    return parse_page(rows, after)


def read_summary(db: sqlite3.Connection) -> Summary:
    """Count the items, and the submits that may have cost money."""
    counted = db.execute("SELECT state, count(*) FROM items GROUP BY state").fetchall()
    (paid,) = db.execute(_PAID).fetchone()
    return parse_summary(counted, paid)


def read_history(db: sqlite3.Connection, key: str) -> list[Transition]:
    """Return every transition of an item, oldest first."""
    found = _read_progress(db, key)
    if found is None:
        raise JournalError(f"there is no item {key!r} in the journal")
    rows = db.execute(_HISTORY, found[:1]).fetchall()
    return [parse_transition(key, row) for row in rows]


def _find(db: sqlite3.Connection, query: str, key: str) -> tuple[Any, ...] | None:
    try:
        found: tuple[Any, ...] | None = db.execute(f"{query} WHERE key = ?", (key,)).fetchone()
    except UnicodeEncodeError as error:
        raise ItemError(f"{key!r} cannot be a key: it contains half a surrogate pair") from error
    return found


def _read_progress(db: sqlite3.Connection, key: str) -> tuple[int, ItemState, int] | None:
    row = _find(db, _PROGRESS, key)
    if row is None:
        return None
    with reading_row():
        return row[0], ItemState(row[1]), row[2]
