"""A journal in PostgreSQL, which several processes may share."""

from kling_async.journal.postgres.journal import PostgresJournal

__all__ = ["PostgresJournal"]
