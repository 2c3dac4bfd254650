from __future__ import annotations

import shutil
import sqlite3
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from kling_async.errors import JournalError
from kling_async.journal.sqlite._file import (
    APPLICATION_ID,
    FORMAT,
    open_to_read,
    open_to_write,
    sqlite_errors,
    transaction,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

PLAN = (
    "INSERT INTO items (key, input, state, attempt, changed_at) VALUES (?, '{}', 'planned', 1, '')"
)


def names(folder: Path) -> set[str]:
    """Give what is in a folder."""
    return {path.name for path in folder.iterdir()}


def items(db: sqlite3.Connection) -> int:
    """Count the items."""
    (count,) = db.execute("SELECT count(*) FROM items").fetchone()
    assert isinstance(count, int)
    return count


def statement(path: Path, *statements: str) -> None:
    """Do something to a file without the journal's knowing."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for one in statements:
            db.execute(one)


def refused(path: Path, *, read: bool = True) -> str:
    """Return the error of opening a journal for writing, which is that for reading, too."""
    with pytest.raises(JournalError) as caught, open_to_write(path):
        pass
    if read:
        with pytest.raises(JournalError) as again, open_to_read(path):
            pass
        assert str(again.value) == str(caught.value)
    return str(caught.value)


def test_made_with_its_folder(tmp_path: Path) -> None:
    """A journal and the folders above it are made; a lock stays beside it, and no log."""
    path = tmp_path / "a" / "b" / "run.sqlite"
    with open_to_write(path) as db:
        db.execute(PLAN, ("a",))
    assert names(path.parent) == {"run.sqlite", "run.sqlite-lock"}
    with open_to_write(path) as db:
        assert items(db) == 1


def test_durable(tmp_path: Path) -> None:
    """A commit is on disk when it is done, and readers are not kept out: that is how it is set."""
    with open_to_write(tmp_path / "a") as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_the_mark(tmp_path: Path) -> None:
    """The file carries the mark KLNG, and the number of its format."""
    with open_to_write(tmp_path / "a"):
        pass
    head = (tmp_path / "a").read_bytes()[:100]
    assert head[68:72] == b"KLNG"
    assert int.from_bytes(head[60:64], "big") == FORMAT == 1


@pytest.mark.parametrize("name", ["a b?c#d%20&e.sqlite", ":memory:", "ünï", "-x"])
def test_odd_names(tmp_path: Path, name: str) -> None:
    """A file may be called anything, whether it is written or read."""
    with open_to_write(tmp_path / name) as db:
        db.execute(PLAN, ("a",))
    with open_to_read(tmp_path / name) as db:
        assert items(db) == 1
    assert names(tmp_path) == {name, f"{name}-lock"}


def test_an_empty_file(tmp_path: Path) -> None:
    """An empty file becomes a journal when it is written, not before."""
    path = tmp_path / "a"
    path.touch()
    with pytest.raises(JournalError, match="no journal"), open_to_read(path):
        pass
    with open_to_write(path) as db:
        assert items(db) == 0


def test_killed_while_it_was_made(tmp_path: Path) -> None:
    """A file without tables, whose creation was interrupted, is created again."""
    path = tmp_path / "a"
    statement(path, "PRAGMA journal_mode = WAL")
    assert path.stat().st_size
    with open_to_write(path) as db:
        assert items(db) == 0


def test_one_writer(tmp_path: Path) -> None:
    """A second writer is refused until the first one ends, whichever name of the file it uses."""
    path, other = tmp_path / "a", tmp_path / "b"
    with open_to_write(path):
        other.symlink_to(path)
        assert "in use by another batch" in refused(path, read=False)
        assert "in use by another batch" in refused(other, read=False)
        assert str(path) in refused(other, read=False)
    with open_to_write(other):
        pass


def test_readers_beside_the_writer(tmp_path: Path) -> None:
    """A reader sees what is committed while the journal is being written."""
    path = tmp_path / "a"
    with open_to_write(path) as db:
        db.execute(PLAN, ("a",))
        with open_to_read(path) as reader:
            assert items(reader) == 1
            db.execute(PLAN, ("b",))
        with open_to_read(path) as reader:
            assert items(reader) == 2


def test_readers_write_nothing(tmp_path: Path) -> None:
    """A reader cannot write, and creates nothing beside a file that is not open."""
    path = tmp_path / "a"
    with open_to_write(path):
        pass
    (tmp_path / "a-lock").unlink()
    before = path.stat()
    with open_to_read(path) as db:
        assert items(db) == 0
        assert names(tmp_path) == {"a"}
    with pytest.raises(JournalError, match="cannot be written"), open_to_read(path) as db:
        db.execute(PLAN, ("a",))
    assert names(tmp_path) == {"a"}
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_reading_where_nothing_may_be_written(
    public: Path, protected: Callable[[Path], AbstractContextManager[None]]
) -> None:
    """A reader needs no right to write, be a batch running or not; a writer says what it lacks."""
    path = public / "a"
    with open_to_write(path) as db:
        db.execute(PLAN, ("a",))
        with protected(public), open_to_read(path) as reader:
            assert items(reader) == 1
    with protected(public):
        with open_to_read(path) as reader:
            assert items(reader) == 1
        assert str(path) in refused(path, read=False)
        assert "cannot be" in refused(public / "b", read=False)
    assert names(public) == {"a", "a-lock"}


def test_left_where_nothing_may_be_written(
    tmp_path: Path, public: Path, protected: Callable[[Path], AbstractContextManager[None]]
) -> None:
    """A log that cannot be read is not ignored: the error says to copy both files."""
    with open_to_write(tmp_path / "a") as db:
        db.execute(PLAN, ("a",))
        for name in ("a", "a-wal"):
            shutil.copy(tmp_path / name, public / name)
    with protected(public), pytest.raises(JournalError, match="copy the file, and its -wal"):  # noqa: SIM117 - the rights go first
        with open_to_read(public / "a"):
            pass
    with open_to_read(public / "a") as db:
        assert items(db) == 1


def test_a_lock_that_cannot_be_taken(
    public: Path, protected: Callable[[Path], AbstractContextManager[None]]
) -> None:
    """A lock file that is read-only excludes no one, and is refused."""
    path = public / "a"
    with open_to_write(path):
        pass
    path.chmod(0o666)
    public.chmod(0o777)
    lock = public / "lock"
    lock.mkdir()
    (public / "a-lock").rename(lock / "a-lock")
    (public / "a-lock").symlink_to(lock / "a-lock")
    with protected(lock):
        assert "cannot be written" in refused(path, read=False)
    with open_to_write(path):
        assert (lock / "a-lock").stat().st_size == 0


def test_nothing_there(tmp_path: Path) -> None:
    """Where there is no journal a reader says so, and makes none."""
    for path in (tmp_path / "a", tmp_path / "b" / "a"):
        with pytest.raises(JournalError, match=f"no journal at {path}"), open_to_read(path):
            pass
    assert not names(tmp_path)


def test_a_folder(tmp_path: Path) -> None:
    """A folder is no journal."""
    with pytest.raises(JournalError, match="it is a folder"), open_to_write(tmp_path):
        pass


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    """A name that the file system refuses is an error that shows it."""
    path = tmp_path / ("x" * 300)
    with pytest.raises(JournalError, match="there cannot be a journal"), open_to_write(path):
        pass
    with pytest.raises(JournalError, match="no journal"), open_to_read(tmp_path):
        pass


def test_below_a_file(tmp_path: Path) -> None:
    """A path below a file leads nowhere."""
    (tmp_path / "a").touch()
    with (
        pytest.raises(JournalError, match="cannot be a journal"),
        open_to_write(tmp_path / "a" / "b"),
    ):
        pass
    with pytest.raises(JournalError, match="no journal"), open_to_read(tmp_path / "a" / "b"):
        pass


def test_an_impossible_path(tmp_path: Path) -> None:
    """A path that no system takes is refused like any other."""
    assert "cannot be a journal" in refused(tmp_path / "a\0b")


@pytest.mark.skipif(sys.platform != "linux", reason="a folder without an owner")
def test_a_folder_without_files(tmp_path: Path) -> None:
    """Where the system itself takes no files, that is said."""
    (tmp_path / "a").symlink_to("/proc/a.sqlite")
    assert "cannot be opened" in refused(tmp_path / "a", read=False)


@pytest.mark.parametrize("size", [2, 50, 5000])
def test_not_a_database(tmp_path: Path, size: int) -> None:
    """A file of another kind is refused and left as it is."""
    path = tmp_path / "inputs.jsonl"
    path.write_bytes(b"{" * size)
    assert "is not a journal" in refused(path)
    assert path.read_bytes() == b"{" * size


@pytest.mark.parametrize(
    "made",
    ["CREATE TABLE items (id)", "PRAGMA application_id = 7", "PRAGMA user_version = 1"],
)
def test_a_database_of_another_program(tmp_path: Path, made: str) -> None:
    """A database of another program is refused and left as it is."""
    path = tmp_path / "a"
    statement(path, made)
    before = path.read_bytes()
    assert "of another program" in refused(path)
    assert path.read_bytes() == before


def test_a_newer_format(tmp_path: Path) -> None:
    """A journal of a newer version is refused with both numbers, and left as it is."""
    path = tmp_path / "a"
    with open_to_write(path):
        pass
    statement(path, "PRAGMA user_version = 2")
    before = path.read_bytes()
    error = refused(path)
    assert "has format 2" in error
    assert "up to 1" in error
    assert "install a newer one" in error
    assert path.read_bytes() == before


def test_a_damaged_file(tmp_path: Path) -> None:
    """Damage anywhere in the file is found on opening it for writing, before anything is paid."""
    path = tmp_path / "a"
    with open_to_write(path) as db, transaction(db):
        db.executemany(PLAN, [(f"{number:0100}",) for number in range(1000)])
    content = bytearray(path.read_bytes())
    assert len(content) > 20 * 4096
    content[15 * 4096 : 16 * 4096] = b"\xa5" * 4096
    path.write_bytes(content)
    error = refused(path, read=False)
    assert "is damaged" in error
    assert ".recover" in error
    assert str(path) in error
    assert path.read_bytes() == content


def test_a_head_without_a_body(tmp_path: Path) -> None:
    """A file that was cut short is damaged, for readers too."""
    path = tmp_path / "a"
    with open_to_write(path):
        pass
    path.write_bytes(path.read_bytes()[:4096])
    assert "is damaged" in refused(path)


def test_without_tables(tmp_path: Path) -> None:
    """What SQLite says of other things is passed on, with the path."""
    path = tmp_path / "a"
    statement(path, f"PRAGMA application_id = {APPLICATION_ID}", "PRAGMA user_version = 1")
    no_table = pytest.raises(JournalError, match="cannot be used: no such table")
    with no_table as caught, open_to_read(path) as db:
        items(db)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)


def test_the_lock_goes_with_a_failure(tmp_path: Path) -> None:
    """A journal that could not be opened, or whose user failed, is not in use."""
    path = tmp_path / "a"
    path.write_bytes(b"{" * 5000)
    refused(path)
    path.unlink()
    with pytest.raises(ZeroDivisionError), open_to_write(path):
        raise ZeroDivisionError
    with open_to_write(path):
        pass


def test_a_transaction_is_undone(tmp_path: Path) -> None:
    """An exception rolls the transaction back, and the next one works."""
    with open_to_write(tmp_path / "a") as db:
        with pytest.raises(ZeroDivisionError), transaction(db):  # noqa: PT012 - that is the fact
            db.execute(PLAN, ("a",))
            raise ZeroDivisionError
        with transaction(db):
            db.execute(PLAN, ("b",))
        assert db.execute("SELECT key FROM items").fetchall() == [("b",)]


def test_a_transaction_that_cannot_begin(tmp_path: Path) -> None:
    """If no transaction has begun, nothing is rolled back: the first error is raised."""
    with closing(sqlite3.connect(tmp_path / "a", isolation_level=None)) as db:
        db.execute("PRAGMA query_only = 1")
        with pytest.raises(sqlite3.OperationalError, match="readonly"), transaction(db):
            pass


def test_another_program(tmp_path: Path) -> None:
    """If another program writes to the file, that is said."""
    path = tmp_path / "a"
    with open_to_write(path), closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with (
            pytest.raises(JournalError, match=r"a is being written by another program .*: wait"),
            sqlite_errors(path),
            closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as db,
            transaction(db),
        ):
            pass
