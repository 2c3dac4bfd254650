"""What is asked of a SQLite journal, and written to it: functions of an open connection.

Everything here blocks: it runs in the journal's own thread.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from time import sleep
from typing import Any

from kling_async.errors import JournalError
from kling_async.journal.base import (
    GIVEN_UP,
    Entry,
    ItemError,
    ItemState,
    Planned,
    Summary,
    Transition,
    attempt_after,
)
from kling_async.journal.sqlite._file import transaction
from kling_async.journal.text import details, input_text, making_sense, read_details

_ENTRY = """
    SELECT id, key, input, state, attempt, changed_at, ref, result, failure, files
    FROM items
"""
_STANDING = "SELECT id, state, attempt FROM items"
_HISTORY = """
    SELECT state, at, ref, result, failure, files FROM history WHERE item = ? ORDER BY id
"""
_PLAN = """
    INSERT INTO items (key, input, state, attempt, changed_at) VALUES (?, ?, 'planned', 1, ?)
"""
_NOTE_PLANNED = """
    INSERT INTO history (item, attempt, state, at)
    SELECT id, attempt, state, changed_at FROM items WHERE id > ?
"""
# Both are given the same row. What a move does not bring stays as it was, unless a new attempt
# begins; a failure explains the last move only. The names are for Python 3.12, which warns of
# numbers in their place.
_MOVE = """
    UPDATE items SET
        attempt = :attempt, state = :state, changed_at = :at, failure = :failure,
        ref = CASE attempt WHEN :attempt THEN coalesce(:ref, ref) END,
        result = CASE attempt WHEN :attempt THEN coalesce(:result, result) END,
        files = CASE attempt WHEN :attempt THEN coalesce(:files, files) END
    WHERE id = :item
"""
_NOTE = """
    INSERT INTO history (item, attempt, state, at, ref, result, failure, files)
    VALUES (:item, :attempt, :state, :at, :ref, :result, :failure, :files)
"""
# An attempt is accepted, or becomes unsure, or both, if its reference is learned later. Those few
# are found through the index.
_PAID = """
    SELECT (SELECT count(*) FROM history WHERE state IN ('submitted', 'unsure')) - (
        SELECT count(*) FROM history AS lost JOIN history AS found
        ON found.item = lost.item AND found.state = 'submitted' AND found.attempt = lost.attempt
        WHERE lost.state = 'unsure'
    )
"""

# Calls after which the thread lets go of the interpreter for a moment: the event loop, which
# needs it too, otherwise waits for 5 ms each time (sys.getswitchinterval).
BREATH = 20


# How items stand after the moves taken so far, by their keys: item, state, attempt. It is kept from
# one transaction to the next, since those that have moved move again soon.
Standing = dict[str, tuple[int, ItemState, int]]

# More than these are forgotten: a batch has very many items, and few of them move at a time.
_REMEMBERED = 10_000


class Commit:
    """The calls of one transaction. Each judges before it writes, and so writes all or nothing."""

    def __init__(self, db: sqlite3.Connection, standing: Standing) -> None:
        self._db = db
        self._standing = standing
        self._rows: list[dict[str, object]] = []

    def plan(self, items: Iterable[Planned]) -> list[Entry]:
        """Write the items that are new; return all as they stand."""
        self.write()
        now = datetime.now(UTC)
        answer: list[Entry] = []
        known: dict[str, tuple[str, Entry]] = {}
        new: list[tuple[str, str, str]] = []
        for item in items:
            text = input_text(item)
            if item.key not in known:
                row = _find(self._db, _ENTRY, item.key)
                if row is None:
                    new.append((item.key, text, now.isoformat()))
                    entry = Entry(item.key, json.loads(text), ItemState.PLANNED, 1, now)
                    known[item.key] = text, entry
                else:
                    known[item.key] = row[2], _entry(row)
            stored, entry = known[item.key]
            if stored != text:
                raise ItemError(
                    f"item {item.key!r} is in the journal with another input: give it another"
                    " key, or use another journal"
                )
            answer.append(entry)
        (last,) = self._db.execute("SELECT coalesce(max(id), 0) FROM items").fetchone()
        self._db.executemany(_PLAN, new)
        self._db.execute(_NOTE_PLANNED, (last,))
        return answer

    def record(self, moves: Iterable[Transition]) -> None:
        """Take moves, all or none, to be written with those of the other calls."""
        rows: list[dict[str, object]] = []
        standing: Standing = {}
        for move in moves:
            key = move.key
            found = standing.get(key) or self._standing.get(key) or _stands(self._db, key)
            if found is None:
                raise JournalError(f"there is no item {key!r} in the journal: plan it first")
            item, state, attempt = found
            attempt = attempt_after(state, attempt, move)
            standing[key] = item, move.state, attempt
            at = move.at.isoformat()
            row = {"item": item, "attempt": attempt, "state": move.state.value, "at": at}
            rows.append({**row, **details(move)})
        self._standing.update(standing)
        self._rows += rows

    def write(self) -> None:
        """Write the moves that were taken."""
        self._db.executemany(_MOVE, self._rows)
        self._db.executemany(_NOTE, self._rows)
        self._rows.clear()


Call = Callable[[Commit], object]


def commit(
    db: sqlite3.Connection, calls: Iterable[Call], standing: Standing | None = None
) -> list[object]:
    """Make calls in one transaction; give what each returns, or the error that it raises.

    Trouble with the file itself is raised, and undoes all of them.
    """
    answers: list[object] = []
    standing = {} if standing is None else standing
    if len(standing) > _REMEMBERED:
        standing.clear()
    with _forgetting(standing), transaction(db):
        together = Commit(db, standing)
        for number, call in enumerate(calls, 1):
            if number % BREATH == 0:
                sleep(1e-6)
            try:
                answers.append(call(together))
            except sqlite3.Error:
                raise
            except Exception as error:  # noqa: BLE001 - handed to the one who called
                answers.append(error)
        together.write()
    return answers


@contextmanager
def _forgetting(standing: Standing) -> Iterator[None]:
    """Forget what was taken, if it is undone."""
    try:
        yield
    except BaseException:
        standing.clear()
        raise


def give_up_sending(db: sqlite3.Connection) -> None:
    """Move to unsure what a process was sending when it died."""
    now = datetime.now(UTC)
    keys = db.execute("SELECT key FROM items WHERE state = 'submitting' ORDER BY id").fetchall()
    with transaction(db):
        together = Commit(db, {})
        together.record(Transition(key, ItemState.UNSURE, now, failure=GIVEN_UP) for (key,) in keys)
        together.write()


def page(
    db: sqlite3.Connection, states: Iterable[ItemState], after: int, size: int
) -> tuple[int, list[Entry]]:
    """Return so many entries in these states, or all, and the place after which more follow."""
    terms, values = [], []
    for state in states:
        # One term for each: SQLite then walks through the index of states side by side and
        # stops at the end of the page, instead of sorting all that stand in these states.
        terms.append(f"{_ENTRY} WHERE id > ? AND state = ?")
        values += [after, state.value]
    if not terms:
        terms, values = [f"{_ENTRY} WHERE id > ?"], [after]
    query = f"{' UNION ALL '.join(terms)} ORDER BY id LIMIT ?"
    rows = db.execute(query, (*values, size)).fetchall()
    return (rows[-1][0] if rows else after), [_entry(row) for row in rows]


def summary(db: sqlite3.Connection) -> Summary:
    """Count the items, and the submits that may have cost money."""
    found: Mapping[str, int] = dict(
        db.execute("SELECT state, count(*) FROM items GROUP BY state").fetchall()
    )
    counts = {state: found.get(state.value, 0) for state in ItemState}
    (paid,) = db.execute(_PAID).fetchone()
    return Summary(counts, paid + counts[ItemState.SUBMITTING])


def history(db: sqlite3.Connection, key: str) -> list[Transition]:
    """Return every move of an item, oldest first."""
    found = _stands(db, key)
    if found is None:
        raise JournalError(f"there is no item {key!r} in the journal")
    rows = db.execute(_HISTORY, found[:1]).fetchall()
    with making_sense(sqlite3.DatabaseError):
        return [
            Transition(key, ItemState(state), datetime.fromisoformat(at), *read_details(texts))
            for state, at, *texts in rows
        ]


def _find(db: sqlite3.Connection, query: str, key: str) -> tuple[Any, ...] | None:
    try:
        found: tuple[Any, ...] | None = db.execute(f"{query} WHERE key = ?", (key,)).fetchone()
    except UnicodeEncodeError as error:
        raise ItemError(f"{key!r} cannot be a key: half a character is in it") from error
    return found


def _stands(db: sqlite3.Connection, key: str) -> tuple[int, ItemState, int] | None:
    row = _find(db, _STANDING, key)
    if row is None:
        return None
    with making_sense(sqlite3.DatabaseError):
        return row[0], ItemState(row[1]), row[2]


def _entry(row: tuple[Any, ...]) -> Entry:
    _, key, text, state, attempt, changed_at, *texts = row
    with making_sense(sqlite3.DatabaseError):
        moment = datetime.fromisoformat(changed_at)
        return Entry(key, json.loads(text), ItemState(state), attempt, moment, *read_details(texts))
