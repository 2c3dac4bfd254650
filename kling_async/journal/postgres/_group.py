"""What is written to a PostgreSQL journal: the calls of one transaction, in two round trips.

The first renews the worker, and locks and reads the rows concerned; the second writes what
became of them. In between each call is judged by the rules that all engines share.

Everything here blocks: it runs in the journal's own thread.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from time import sleep
from typing import TYPE_CHECKING, TypeAlias

from attrs import evolve, frozen

from kling_async.errors import JournalError
from kling_async.journal.base import (
    Claim,
    Entry,
    ItemError,
    ItemState,
    Ownership,
    Planned,
    Transition,
    attempt_after,
)
from kling_async.journal.postgres import _rows as _postgres_rows
from kling_async.journal.postgres._link import DamageError
from kling_async.journal.postgres._rows import Row, is_text
from kling_async.journal.postgres._workers import check
from kling_async.journal.text import details, input_text

if TYPE_CHECKING:
    from kling_async.journal.postgres._link import Connection
    from kling_async.journal.postgres._workers import WorkerSession

# With the number of the commit, by which it is known again if the connection is lost.
_RENEW = """
    UPDATE kling_async_workers
    SET until = clock_timestamp() + %s * interval '1 second', commits = %s
    WHERE id = %s RETURNING id
"""
_COMMITS = "SELECT commits FROM kling_async_workers WHERE id = %s FOR UPDATE"

_ENDS = frozenset({ItemState.FINISHED, ItemState.SAVED, ItemState.FAILED, ItemState.UNSURE})

# What an index of PostgreSQL's has room for, with a good deal to spare.
LONGEST_KEY_BYTES = 1_000

# Calls after which the thread lets go of the interpreter for a moment, for the event loop.
BREATH = 20


@frozen
class Plan:
    """Items to be written if they are new."""

    items: Sequence[Planned]


@frozen
class Record:
    """Moves to be written, all or none."""

    moves: Sequence[Transition]


@frozen
class Take:
    """Items to be taken in hand."""

    entries: Sequence[Entry]


@frozen
class Look:
    """Items of which is told what would become of a claim."""

    entries: Sequence[Entry]


@frozen
class Release:
    """Items to let go of, whether this worker tells how they have ended or not."""

    keys: Sequence[str]
    ended: bool


Call: TypeAlias = Plan | Record | Take | Look | Release


class Group:
    """The calls of one transaction: each has a verdict of its own, and writes all or nothing.

    It may be called again if the connection was lost: nothing is done twice then.
    """

    def __init__(self, me: WorkerSession, calls: Sequence[Call], number: int) -> None:
        self._me = me
        self._calls = calls
        self._number = number
        self._answers: list[object] | None = None

    def __call__(self, db: Connection) -> list[object]:
        """Make the calls; return what each returns, or the error that it raises."""
        if self._answers is not None and self._is_written(db):
            return self._answers
        me = self._me
        alive = db.execute(_RENEW, (me.lease, self._number, me.id))
        self._now = datetime.now(UTC)
        self._new: dict[str, str] = {}
        self._notes: list[tuple[object, ...]] = []
        self._known = self._plans(db)
        looks = [call for call in self._calls if isinstance(call, Look)]
        self._seen = _postgres_rows.peek(db, me, _keys(looks)) if looks else {}
        takes = (call for call in self._calls if isinstance(call, Take))
        locked = _postgres_rows.lock(db, me, _keys(takes), self._forced())
        check(alive.fetchone(), me)
        read = locked.rows()
        self._rows = dict(read)
        answers = [self._verdict(number, call) for number, call in enumerate(self._calls, 1)]
        if self._new:
            _postgres_rows.plan(db, me, self._now, self._new)
        changed = [row for key, row in self._rows.items() if row is not read[key]]
        _postgres_rows.write(db, changed)
        _postgres_rows.note(db, me, self._notes)
        self._answers = answers
        return answers

    def _is_written(self, db: Connection) -> bool:
        """Whether the first time was committed; waits for its end, if that is yet to come."""
        row = db.execute(_COMMITS, (self._me.id,)).fetchone()
        check(row, self._me)
        return row == (self._number,)

    def _plans(self, db: Connection) -> dict[str, Row]:
        """Read the items that are to be planned; if any is new, nobody else plans until the end."""
        plans = [call for call in self._calls if isinstance(call, Plan)]
        keys = {item.key: None for call in plans for item in call.items}
        known = _postgres_rows.peek(db, self._me, keys) if keys else {}
        if missing := keys.keys() - known.keys():
            _postgres_rows.take_turn(db, self._me)
            known |= _postgres_rows.peek(db, self._me, missing)
        return known

    def _forced(self) -> list[str]:
        """Return the keys of items that are to be moved, or let go of."""
        keys: dict[str, None] = {}
        for call in self._calls:
            if isinstance(call, Record):
                keys |= {move.key: None for move in call.moves}
            elif isinstance(call, Release):
                keys |= dict.fromkeys(call.keys)
        return list(keys)

    def _verdict(self, number: int, call: Call) -> object:
        """Do one call to the rows; return what it returns, or raises."""
        if number % BREATH == 0:
            sleep(1e-6)
        try:
            match call:
                case Plan():
                    return self._plan(call)
                case Record():
                    self._record(call)
                case Take():
                    return [self._take(entry) for entry in call.entries]
                case Look():
                    return [self._look(entry) for entry in call.entries]
                case _:
                    self._release(call)
        except DamageError:
            raise
        except Exception as error:  # noqa: BLE001 - handed to the one who called
            return error
        return None

    def _plan(self, call: Plan) -> list[Entry]:
        new: dict[str, str] = {}
        answer: list[Entry] = []
        for item in call.items:
            text = input_text(item)
            if not is_text(item.key):
                raise ItemError(f"{item.key!r} cannot be a key: PostgreSQL cannot store it")
            if len(item.key.encode()) > LONGEST_KEY_BYTES:
                raise ItemError(
                    f"{item.key[:80]!r}... cannot be a key: it is longer than"
                    f" {LONGEST_KEY_BYTES:,} bytes in UTF-8"
                )
            row = self._known.get(item.key)
            stored = row.input if row else self._new.get(item.key) or new.setdefault(item.key, text)
            if stored != text:
                raise ItemError(
                    f"item {item.key!r} is in the journal with another input: give it another"
                    " key, or use another journal"
                )
            fresh = Entry(item.key, json.loads(text), ItemState.PLANNED, 1, self._now)
            answer.append(row.entry() if row else fresh)
        self._new |= new
        return answer

    def _record(self, call: Record) -> None:
        rows: dict[str, Row] = {}
        notes: list[tuple[object, ...]] = []
        for move in call.moves:
            row = rows.get(move.key) or self._rows.get(move.key)
            if row is None:
                raise JournalError(f"there is no item {move.key!r} in the journal: plan it first")
            if row.held and row.worker != self._me.id:
                raise JournalError(f"item {move.key!r} is in the hand of another worker")
            rows[move.key], texts = _after(row, move, self._me)
            new = rows[move.key]
            notes.append((new.id, new.state.value, new.attempt, new.changed_at, *texts))
        self._rows |= rows
        self._notes += notes

    def _take(self, entry: Entry) -> Claim:
        claim = self._hold(entry, self._rows.get(entry.key))
        if claim.ownership is Ownership.MINE:
            row = self._rows[entry.key]
            if not row.held or row.worker != self._me.id:
                self._rows[entry.key] = evolve(row, held=True, worker=self._me.id)
        return claim

    def _look(self, entry: Entry) -> Claim:
        return self._hold(entry, self._rows.get(entry.key) or self._seen.get(entry.key))

    def _hold(self, entry: Entry, row: Row | None) -> Claim:
        if row is None or (row.held and row.worker != self._me.id):
            return Claim(row.entry() if row else entry, Ownership.OTHERS)
        others = row.news and row.worker is not None and not row.held
        told = others and row.state in _ENDS
        return Claim(row.entry(), Ownership.TOLD if told else Ownership.MINE, row.news)

    def _release(self, call: Release) -> None:
        for key in call.keys:
            row = self._rows.get(key)
            # What is being sent stays in hand: it is unsure when this worker goes.
            if row and row.held and row.worker == self._me.id and row.state is not _SENDING:
                worker = self._me.id if call.ended else None
                self._rows[key] = evolve(row, held=False, worker=worker)


_SENDING = ItemState.SUBMITTING


def _keys(calls: Iterable[Take | Look]) -> list[str]:
    return [entry.key for call in calls for entry in call.entries]


def _after(row: Row, move: Transition, me: WorkerSession) -> tuple[Row, tuple[str | None, ...]]:
    """Return how an item stands after a move, and what came with that."""
    attempt = attempt_after(row.state, row.attempt, move)
    texts = details(move)
    # What a move does not bring stays as it was, but a new attempt begins without anything; a
    # failure explains the last move only.
    same = attempt == row.attempt
    new = evolve(
        row,
        state=move.state,
        attempt=attempt,
        changed_at=move.at.astimezone(UTC),
        ref=(texts["ref"] or row.ref) if same else None,
        result=(texts["result"] or row.result) if same else None,
        failure=texts["failure"],
        files=(texts["files"] or row.files) if same else None,
        worker=me.id,
        held=True,
        news=False,
        moved=True,
    )
    return new, (texts["ref"], texts["result"], texts["failure"], texts["files"])
