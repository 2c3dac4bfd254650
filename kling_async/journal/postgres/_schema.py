"""The tables of a PostgreSQL journal, and how transactions are sent to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from attrs import frozen

from kling_async._postgres.transaction import Connection, Rows, transact
from kling_async.errors import JournalError

if TYPE_CHECKING:
    from kling_async.journal.address import Address

FORMAT = 1

# The key of advisory locks. No other program in the database is likely to use it.
LOCK = 0x4B4C4E47

# For one transaction only, whatever the settings of the database are. What is reported as written
# must not be lost in a crash of the server.
_SETTINGS = """
    SELECT set_config('TimeZone', 'UTC', true),
        set_config('synchronous_commit', CASE current_setting('synchronous_commit')
            WHEN 'off' THEN 'local' ELSE current_setting('synchronous_commit') END, true);
"""

# to_regclass() may return a result that is out of date.
_EXISTS = """
    SELECT 1 FROM pg_catalog.pg_class
    WHERE relname = 'kling_async_journal' AND pg_catalog.pg_table_is_visible(oid)
"""

# Earlier versions did not write the trace. They name their columns, and ignore it.
_FORMAT = """
    SELECT max(format), EXISTS (
        SELECT FROM pg_catalog.pg_attribute JOIN pg_catalog.pg_class ON attrelid = pg_class.oid
        WHERE relname = 'kling_async_items' AND pg_catalog.pg_table_is_visible(pg_class.oid)
            AND attname = 'trace'
    ) FROM kling_async_journal
"""
_ADD_TRACE = "ALTER TABLE kling_async_items ADD COLUMN IF NOT EXISTS trace text"

# Inputs, results, failures and files are JSON in text columns: jsonb cannot hold every character
# that JSON can, and does not keep the order of keys.
SCHEMA = """
CREATE TABLE IF NOT EXISTS kling_async_journal (format integer NOT NULL);
INSERT INTO kling_async_journal SELECT 1 WHERE NOT EXISTS (SELECT FROM kling_async_journal);

CREATE TABLE IF NOT EXISTS kling_async_batches (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE
);

-- The workers that have a batch open. To renew a lease changes one row, however many items the
-- worker has. A transaction that deletes the row of another worker releases its items.
CREATE TABLE IF NOT EXISTS kling_async_workers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch integer NOT NULL REFERENCES kling_async_batches,
    name text NOT NULL,
    since timestamptz NOT NULL,
    until timestamptz NOT NULL,
    commits bigint NOT NULL DEFAULT 0  -- the number of the last one
);

CREATE TABLE IF NOT EXISTS kling_async_items (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- the order in which they were planned
    batch integer NOT NULL REFERENCES kling_async_batches,
    key text NOT NULL,
    input text NOT NULL,
    state text NOT NULL,
    attempt integer NOT NULL,
    changed_at timestamptz NOT NULL,  -- by the clock of the worker
    ref text, result text, failure text, files text,
    worker bigint,  -- that has the item, or had it last; null if its lease expired
    held boolean NOT NULL DEFAULT false,
    moved_at timestamptz NOT NULL DEFAULT clock_timestamp(),  -- by the clock of the server
    trace text,  -- a W3C trace context
    UNIQUE (batch, key)
);
CREATE INDEX IF NOT EXISTS kling_async_items_by_state ON kling_async_items (batch, state, id);
CREATE INDEX IF NOT EXISTS kling_async_items_held ON kling_async_items (worker) WHERE held;

-- Every transition; rows are added and never changed.
CREATE TABLE IF NOT EXISTS kling_async_history (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    item bigint NOT NULL REFERENCES kling_async_items,
    attempt integer NOT NULL,
    state text NOT NULL,
    at timestamptz NOT NULL,
    ref text, result text, failure text, files text,
    worker bigint
);
CREATE INDEX IF NOT EXISTS kling_async_history_of_item ON kling_async_history (item, state);
"""


@frozen
class Database:
    """The database of a journal, in which transactions have the settings of a journal."""

    connection: Connection
    timeout: float

    async def send(self, query: str, values: Mapping[str, object] | None = None) -> list[Rows]:
        """Run statements in one transaction and one message; return the rows of each."""
        answers = await transact(self.connection, _SETTINGS + query, values, timeout=self.timeout)
        return answers[1:]


async def create_tables(db: Database, address: Address) -> None:
    """Create the tables unless they exist."""
    if not await has_tables(db, address):
        await db.send(f"SELECT pg_advisory_xact_lock({LOCK:d});{SCHEMA}")
        await has_tables(db, address)
    elif not await _read_format(db, address):
        await db.send(f"SELECT pg_advisory_xact_lock({LOCK:d});{_ADD_TRACE}")


async def has_tables(db: Database, address: Address) -> bool:
    """Return whether the tables exist.

    Raises:
        JournalError: They are those of another version.
    """
    (found,) = await db.send(_EXISTS)
    if found:
        await _read_format(db, address)
    return bool(found)


async def _read_format(db: Database, address: Address) -> bool:
    """Check the format; return whether the tables have all columns."""
    (((version, complete),),) = await db.send(_FORMAT)
    if version != FORMAT:
        raise JournalError(
            f"the journal {address} has format {version}, and this version of kling_async knows"
            f" format {FORMAT}: install a newer one"
        )
    return bool(complete)
