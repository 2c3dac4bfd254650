"""A journal in one SQLite file."""

from kling_async.journal.sqlite.journal import SqliteJournal

__all__ = ["SqliteJournal"]
