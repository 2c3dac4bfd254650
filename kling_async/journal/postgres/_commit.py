"""The calls of one transaction of a PostgreSQL journal, in two round trips.

The first one reads the rows concerned, without locking them. The calls are applied to these rows
in memory, by the rules that all engines share. The second one is a transaction in one message: it
locks the rows, and writes if none of them has changed since it was read. Otherwise everything is
repeated. So no lock is held while this process is suspended or unreachable.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from attrs import asdict, evolve

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
from kling_async.journal.calls import Call, apply_calls
from kling_async.journal.postgres._rows import READ_ITEMS, ItemRow, is_storable
from kling_async.journal.postgres._schema import LOCK
from kling_async.journal.postgres._workers import check_alive
from kling_async.journal.serialization import (
    DETAILS,
    DamageError,
    format_details,
    plan_items,
)

if TYPE_CHECKING:
    from kling_async.journal.postgres._schema import Database
    from kling_async.journal.postgres._workers import WorkerSession

_READ = f"SELECT commits FROM kling_async_workers WHERE id = %(worker)s;{READ_ITEMS}"  # noqa: S608
_IS_BEGUN = """EXISTS (
    SELECT FROM kling_async_workers WHERE id = %(worker)s AND commits = %(commit)s)"""
# The row of the worker is locked first, as by those who take over its items. Then one worker at a
# time plans new items, so that ids become visible in their order. Items are locked in the order of
# their ids, so that two workers never wait for each other.
#
# The number of the commit says whether it was written if the answer is lost. A message that arrives
# late finds another number, and writes nothing.
_BEGIN = """
    SELECT FROM kling_async_workers WHERE id = %(worker)s FOR UPDATE;
    SELECT pg_advisory_xact_lock(%(lock)s, %(batch)s) WHERE %(has_new)s;
    SELECT FROM kling_async_items WHERE id = ANY(%(ids)s::bigint[]) ORDER BY id FOR UPDATE;

    UPDATE kling_async_workers
    SET until = clock_timestamp() + %(lease)s * interval '1 second', commits = %(commit)s
    WHERE id = %(worker)s AND commits = %(last_commit)s
        AND NOT EXISTS (
            SELECT FROM kling_async_items
            WHERE batch = %(batch)s AND key = ANY(%(new_keys)s::text[]))
        AND NOT EXISTS (
            SELECT FROM unnest(%(ids)s::bigint[], %(versions)s::text[]) AS known(id, version)
            LEFT JOIN kling_async_items AS item ON item.id = known.id
            WHERE item.xmin::text IS DISTINCT FROM known.version)
    RETURNING id;
"""
_STATEMENT_OF_BEGINNING = 3
_PLAN = f"""
    WITH new AS (
        INSERT INTO kling_async_items (batch, key, input, state, attempt, changed_at)
        SELECT %(batch)s, key, input, 'planned', 1, %(now)s
        FROM unnest(%(new_keys)s::text[], %(inputs)s::text[])
            WITH ORDINALITY AS given(key, input, place)
        WHERE {_IS_BEGUN} ORDER BY place
        RETURNING id, attempt, state, changed_at
    )
    INSERT INTO kling_async_history (item, attempt, state, at, worker)
    SELECT *, %(worker)s::bigint FROM new ORDER BY id;
"""  # noqa: S608 - constants
_CHANGE = f"""
    UPDATE kling_async_items AS item SET
        state = new.state, attempt = new.attempt, changed_at = new.changed_at, ref = new.ref,
        result = new.result, failure = new.failure, files = new.files, trace = new.trace,
        worker = new.worker, held = new.held,
        moved_at = CASE WHEN new.moved THEN clock_timestamp() ELSE item.moved_at END
    FROM json_to_recordset(%(rows)s) AS new(
        id bigint, state text, attempt integer, changed_at timestamptz, ref text, result text,
        failure text, files text, trace text, worker bigint, held boolean, moved boolean)
    WHERE item.id = new.id AND {_IS_BEGUN};
"""  # noqa: S608 - constants
_LOG = f"""
    INSERT INTO kling_async_history (worker, item, state, attempt, at, ref, result, failure, files)
    SELECT %(worker)s, item, state, attempt, at, ref, result, failure, files
    FROM json_populate_recordset(NULL::kling_async_history, %(log)s) WITH ORDINALITY
    WHERE {_IS_BEGUN} ORDER BY ordinality
"""  # noqa: S608 - constants

_ENDS = frozenset({ItemState.FINISHED, ItemState.SAVED, ItemState.FAILED, ItemState.UNSURE})

# Well within what an index of PostgreSQL can hold.
LONGEST_KEY_BYTES = 1_000


class GroupCommit:
    """Commits calls. Each of them has its own result, and writes all or nothing.

    It may be called again if the connection was lost: nothing is written twice.
    """

    def __init__(self, session: WorkerSession, calls: Sequence[Call[PostgresChanges]]) -> None:
        self._session = session
        self._calls = calls
        self._keys = sorted({key for call in calls for key in call.keys if is_storable(key)})
        self._answers: dict[int, list[object]] = {}  # by the number of the commit

    async def __call__(self, db: Database) -> list[object]:
        """Return the result of each call, or the exception that it raises."""
        session = self._session
        values = {
            "worker": session.id,
            "since": session.since,
            "batch": session.batch,
            "keys": self._keys,
        }
        while True:
            commits, rows = await db.send(_READ, values)
            check_alive(commits, session)
            ((last_commit,),) = commits
            if last_commit in self._answers:  # it was written, and the answer was lost
                return self._answers[last_commit]
            changes = PostgresChanges(session, map(ItemRow.parse, rows))
            answers = apply_calls(self._calls, changes, fatal=(DamageError,))
            number = next(session.commit_numbers)
            self._answers[number] = answers
            if await changes.write(db, number, last_commit):
                return answers


class PostgresChanges:
    """See :class:`.Changes`. They are made to rows in memory, and written at the end."""

    def __init__(self, session: WorkerSession, rows: Iterable[ItemRow]) -> None:
        self._session = session
        self._now = datetime.now(UTC)
        self._read = {row.key: row for row in rows}
        self._rows = dict(self._read)
        self._new: dict[str, str] = {}  # inputs by key
        self._log: list[dict[str, object]] = []

    def plan(self, items: Sequence[Planned]) -> list[Entry]:
        """Add the items that are not stored yet; return the entries of all."""

        def find(key: str) -> tuple[str, Entry | None] | None:
            _check_key(key)
            if row := self._rows.get(key):
                return row.input, row.entry()
            return (self._new[key], None) if key in self._new else None

        entries, new = plan_items(items, find, self._now)
        self._new |= new
        return entries

    def record(self, transitions: Iterable[Transition]) -> None:
        """Add transitions, all or none."""
        rows: dict[str, ItemRow] = {}
        log: list[dict[str, object]] = []
        for transition in transitions:
            key = transition.key
            row = rows.get(key) or self._rows.get(key)
            if row is None:
                raise JournalError(f"there is no item {key!r} in the journal: plan it first")
            if row.is_held_by_another(self._session):
                raise JournalError(f"item {key!r} is claimed by another worker")
            details = format_details(transition)
            rows[key] = new = _row_after(row, transition, details, self._session)
            log.append(
                {
                    "item": new.id,
                    "state": new.state,
                    "attempt": new.attempt,
                    "at": new.changed_at,
                    **details,
                }
            )
        self._rows |= rows
        self._log += log

    def claim(self, entry: Entry, *, peek: bool = False) -> Claim:
        """Claim an item unless another worker has it, or only return what that would return."""
        row = self._rows.get(entry.key)
        if row is None or row.is_held_by_another(self._session):
            return Claim(row.entry() if row else entry, Ownership.OTHERS)
        if row.changed and row.worker is not None and not row.held and row.state in _ENDS:
            return Claim(row.entry(), Ownership.DONE, row.changed)
        if not peek and not row.held:
            self._rows[entry.key] = evolve(row, held=True, worker=self._session.id)
        return Claim(row.entry(), Ownership.MINE, row.changed)

    def release(self, keys: Iterable[str], *, ended: bool) -> None:
        """Release those of the items that this worker has and is not sending."""
        for key in keys:
            row = self._rows.get(key)
            if row is None or not row.held or row.worker != self._session.id:
                continue
            if row.state is not ItemState.SUBMITTING:  # it becomes unsure when the worker ends
                self._rows[key] = evolve(row, held=False, worker=row.worker if ended else None)

    async def write(self, db: Database, number: int, last_commit: int) -> bool:
        """Write the changes, and return True; or False if a row has changed since it was read."""
        changed = [row for key, row in self._rows.items() if row is not self._read[key]]
        values = {
            "worker": self._session.id,
            "lease": self._session.lease,
            "batch": self._session.batch,
            "lock": LOCK,
            "commit": number,
            "last_commit": last_commit,
            "now": self._now,
            "has_new": bool(self._new),
            "new_keys": list(self._new),
            "inputs": list(self._new.values()),
            "ids": [row.id for row in changed],
            "versions": [row.version for row in changed],
            "rows": json.dumps([_row_values(row) for row in changed], default=str),
            "log": json.dumps(self._log, default=str),
        }
        parts = ((self._new, _PLAN), (changed, _CHANGE), (self._log, _LOG))
        query = _BEGIN + "".join(part for needed, part in parts if needed)
        answers = await db.send(query, values)
        return bool(answers[_STATEMENT_OF_BEGINNING])


def _check_key(key: str) -> None:
    if not is_storable(key):
        raise ItemError(f"{key!r} cannot be a key: PostgreSQL cannot store it")
    if len(key.encode()) > LONGEST_KEY_BYTES:
        raise ItemError(
            f"{key[:80]!r}... cannot be a key: it is longer than {LONGEST_KEY_BYTES:,} bytes in"
            " UTF-8"
        )


def _row_values(row: ItemRow) -> dict[str, object]:
    """Return the columns of a row by name."""
    return {**asdict(row, recurse=False), **row.details, "details": None}


def _row_after(
    row: ItemRow, transition: Transition, details: dict[str, str | None], session: WorkerSession
) -> ItemRow:
    attempt = attempt_after(row.state, row.attempt, transition)
    # Details that a transition does not have stay as they are, unless a new attempt begins; a
    # failure belongs to the last transition only.
    kept = {name: details[name] or row.details[name] for name in DETAILS}
    if attempt != row.attempt:
        kept = dict.fromkeys(DETAILS)
    return evolve(
        row,
        state=transition.state,
        attempt=attempt,
        changed_at=transition.at.astimezone(UTC),
        details={**kept, "failure": details["failure"]},
        worker=session.id,
        held=True,
        changed=False,
        moved=True,
    )
