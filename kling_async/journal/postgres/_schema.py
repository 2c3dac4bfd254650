"""The tables of a PostgreSQL journal: made when they are missing, by one worker at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kling_async.errors import JournalError

if TYPE_CHECKING:
    import psycopg

FORMAT = 1

# Of advisory locks: nobody else in the database is likely to use it.
LOCK = 0x4B4C4E47

# Not to_regclass(), which may remember for a moment that there was nothing.
_THERE = """
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_class
        WHERE relname = 'kling_async_journal' AND pg_catalog.pg_table_is_visible(oid)
    )
"""

# Inputs, results, failures and files are JSON, in text: as jsonb they could not hold every
# character that JSON can, and would not be compared as they were written.
SCHEMA = """
CREATE TABLE kling_async_journal (format integer NOT NULL);
INSERT INTO kling_async_journal VALUES (1);

CREATE TABLE kling_async_batches (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE
);

-- Those who have a batch open. One row is renewed for all that a worker has in hand; who takes the
-- row away when it has lapsed takes all of that from it.
CREATE TABLE kling_async_workers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch integer NOT NULL REFERENCES kling_async_batches,
    name text NOT NULL,
    since timestamptz NOT NULL,
    until timestamptz NOT NULL,
    commits bigint NOT NULL DEFAULT 0  -- the number of the last one
);

CREATE TABLE kling_async_items (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- the order in which they were planned
    batch integer NOT NULL REFERENCES kling_async_batches,
    key text NOT NULL,
    input text NOT NULL,
    state text NOT NULL,
    attempt integer NOT NULL,
    changed_at timestamptz NOT NULL,  -- by the clock of the worker
    ref text, result text, failure text, files text,
    worker bigint,  -- who has it in hand, or had it last; null if that worker died
    held boolean NOT NULL DEFAULT false,
    moved_at timestamptz NOT NULL DEFAULT clock_timestamp(),  -- by the clock of the server
    UNIQUE (batch, key)
);
CREATE INDEX kling_async_items_by_state ON kling_async_items (batch, state, id);
CREATE INDEX kling_async_items_held ON kling_async_items (worker) WHERE held;

-- Every move that was ever made; rows are added and never changed.
CREATE TABLE kling_async_history (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    item bigint NOT NULL REFERENCES kling_async_items,
    attempt integer NOT NULL,
    state text NOT NULL,
    at timestamptz NOT NULL,
    ref text, result text, failure text, files text,
    worker bigint
);
CREATE INDEX kling_async_history_of_item ON kling_async_history (item, state);
"""


def make(db: psycopg.Connection[tuple[Any, ...]], place: object) -> None:
    """Make the tables, unless they are there."""
    if not check(db, place):
        db.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        if not check(db, place):  # nobody else has made them meanwhile
            for statement in SCHEMA.split(";\n"):
                db.execute(statement.encode())


def check(db: psycopg.Connection[tuple[Any, ...]], place: object) -> bool:
    """Tell whether the tables are there; refuse those of a newer version."""
    if db.execute(_THERE).fetchone() != (True,):
        return False
    rows = db.execute("SELECT max(format) FROM kling_async_journal").fetchall()
    ((version,),) = rows
    if version != FORMAT:
        raise JournalError(
            f"the journal {place} has format {version}, and this version of kling_async knows"
            f" format {FORMAT}: install a newer one"
        )
    return True
