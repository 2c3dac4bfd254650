from __future__ import annotations

import asyncio
import signal
import sqlite3
import struct
import subprocess
import sys
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from kling_async.errors import JournalError
from kling_async.journal.base import Entry, ItemState, Journal, Planned, Transition
from kling_async.journal.sqlite.journal import SqliteJournal
from kling_async.journal.threaded import CALLERS_PER_ITERATION
from kling_async.results import TaskRef

if TYPE_CHECKING:
    from pathlib import Path

S = ItemState
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
REF = TaskRef("kling-2-1", "task_1")

# Plans items, and says of each move that it is written as soon as it is.
WRITER = """
import asyncio, sys
from datetime import UTC, datetime
from kling_async.journal.base import ItemState, Transition, Planned
from kling_async.journal.sqlite.journal import SqliteJournal

async def one(journal, key):
    while True:
        for state in (ItemState.SUBMITTING, ItemState.PLANNED):
            await journal.record(Transition(key, state, datetime.now(UTC)))
            print(key, flush=True)

async def main():
    async with SqliteJournal(sys.argv[1]) as journal:
        keys = [str(number) for number in range(20)]
        await journal.plan([Planned(key, {}) for key in keys])
        await asyncio.gather(*(one(journal, key) for key in keys))

asyncio.run(main())
"""


def planned(*keys: str) -> list[Planned]:
    """Give items of one input."""
    return [Planned(key, {"prompt": "a fox"}) for key in keys]


def sending(key: str) -> Transition:
    """Give the first move of an item."""
    return Transition(key, S.SUBMITTING, NOW)


async def entries(journal: Journal, *states: ItemState) -> list[Entry]:
    """Read all entries in these states."""
    return [entry async for entry in journal.entries(*states)]


async def states(journal: Journal) -> dict[str, str]:
    """Read how the items stand."""
    return {entry.key: str(entry.state) for entry in await entries(journal)}


def commits(path: Path) -> int:
    """Count the commits in the log of a journal."""
    log = path.with_name(f"{path.name}-wal").read_bytes()
    (page_size,) = struct.unpack(">I", log[8:12])
    # The second number of a frame is zero unless the frame ends a transaction.
    frames = (
        struct.unpack(">I", log[at + 4 : at + 8]) for at in range(32, len(log), 24 + page_size)
    )
    return sum(size != 0 for (size,) in frames)


async def test_it_is_a_journal(tmp_path: Path) -> None:
    """It keeps the promises of the protocol, and says which file it is."""
    journal: Journal = SqliteJournal(tmp_path / "a")
    assert repr(journal) == f"<SqliteJournal {tmp_path / 'a'}>"


async def test_commits_are_shared(tmp_path: Path) -> None:
    """The first call begins a commit, and all calls meanwhile share the next ones."""
    path = tmp_path / "a"
    names = [str(number) for number in range(1 + CALLERS_PER_ITERATION + 10)]
    async with SqliteJournal(path) as journal:
        await journal.plan(planned(*names))
        before = commits(path)
        await asyncio.gather(*(journal.record(sending(name)) for name in names))
        assert commits(path) - before == 3
        assert set((await states(journal)).values()) == {"submitting"}


async def test_one_batch_at_a_time(tmp_path: Path) -> None:
    """A second journal of the same file is refused, and the first is not disturbed."""
    async with SqliteJournal(tmp_path / "a") as journal:
        await journal.plan(planned("a"))
        with pytest.raises(JournalError, match="in use by another batch"):
            await SqliteJournal(tmp_path / "a").__aenter__()
        await journal.record(sending("a"))


async def test_readers_leave_alone_what_was_being_sent(tmp_path: Path) -> None:
    """Only opening a journal for writing changes what a dead process was sending to unsure."""
    path = tmp_path / "a"
    async with SqliteJournal(path) as journal:
        await journal.plan(planned("a"))
        await journal.record(sending("a"))
    async with SqliteJournal(path, read_only=True) as reader:
        assert await states(reader) == {"a": "submitting"}
    async with SqliteJournal(path) as journal:
        assert await states(journal) == {"a": "unsure"}
        assert (await journal.history("a"))[-1].failure == (await entries(journal))[0].failure


async def test_damage_that_is_found_while_reading(tmp_path: Path) -> None:
    """Later damage is an error of the calls that read it, and other calls work."""
    path = tmp_path / "a"
    async with SqliteJournal(path) as journal:
        await journal.plan(planned("a", "b"))
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("UPDATE items SET input = '{' WHERE key = 'a'")
        with pytest.raises(JournalError, match=r"a is damaged .*: keep it"):
            await entries(journal)
        with pytest.raises(JournalError, match="is damaged"):
            await journal.plan(planned("a"))
        await journal.record(sending("b"))
        assert [entry.key for entry in await entries(journal, S.SUBMITTING)] == ["b"]


async def test_a_page_that_is_damaged_later(tmp_path: Path) -> None:
    """A reader of a file whose pages were overwritten says that it is damaged."""
    path = tmp_path / "a"
    async with SqliteJournal(path) as journal:
        await journal.plan(planned(*(f"{n:0100}" for n in range(500))))
    async with SqliteJournal(path, read_only=True) as reader:
        assert len(await entries(reader)) == 500
        content = bytearray(path.read_bytes())
        content[3 * 4096 :] = b"\xa5" * (len(content) - 3 * 4096)
        path.write_bytes(content)
        with pytest.raises(JournalError, match="is damaged"):
            await entries(reader)


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on the size of files there")
async def test_no_room(tmp_path: Path) -> None:
    """If the disk is full, all calls raise, nothing is lost, and later calls work."""
    import resource

    path = tmp_path / "a"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with SqliteJournal(path) as journal:
        await journal.plan(planned("a", "b", "c"))
        await journal.record(sending("a"))
        size = path.with_name("a-wal").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, limits[1]))
        try:
            answers = await asyncio.gather(
                journal.record(sending("b")),
                journal.record(sending("c")),
                journal.plan(planned("d")),
                return_exceptions=True,
            )
            assert await states(journal) == {"a": "submitting", "b": "planned", "c": "planned"}
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        errors = [answer for answer in answers if isinstance(answer, JournalError)]
        assert len({id(error) for error in errors}) == 3
        assert all(f"{path} cannot be read or written" in str(error) for error in errors)
        assert all("disk is full" in str(error) for error in errors)
        await journal.record(sending("b"))
    async with SqliteJournal(path, read_only=True) as reader:
        assert await states(reader) == {"a": "submitting", "b": "submitting", "c": "planned"}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal there")
@pytest.mark.parametrize("lines", [1, 20, 777])
async def test_killed(tmp_path: Path, lines: int) -> None:
    """Every move that was acknowledged is there after a kill -9, and the lock is not."""
    path = tmp_path / "a"
    reported: Counter[str] = Counter()
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(lines):
            reported[process.stdout.readline().strip()] += 1
        try:
            with pytest.raises(JournalError, match="in use by another batch"):
                await SqliteJournal(path).__aenter__()
        finally:
            process.send_signal(signal.SIGKILL)
        reported.update(line.strip() for line in process.stdout if line.endswith("\n"))
    assert reported.total() >= lines
    async with SqliteJournal(path) as journal:
        for entry in await entries(journal):
            moves = [move.state for move in await journal.history(entry.key)]
            assert moves[-1] is entry.state
            assert moves[-1] is not S.SUBMITTING
            if moves[-1] is S.UNSURE:
                moves.pop()
            assert moves == ([S.PLANNED, S.SUBMITTING] * len(moves))[: len(moves)]
            # What was written and not yet said is there too: one move at most.
            assert reported[entry.key] <= len(moves) - 1 <= reported[entry.key] + 1


async def test_a_journal_of_an_earlier_version(tmp_path: Path) -> None:
    """A journal without a column for the trace is read as it is, and gets one to be written."""
    path = tmp_path / "run.sqlite"
    async with SqliteJournal(path) as journal:
        await journal.plan([Planned("a", {})])
    with closing(sqlite3.connect(path)) as db:
        db.execute("ALTER TABLE items DROP COLUMN trace")
    async with SqliteJournal(path, read_only=True) as journal:
        (entry,) = [entry async for entry in journal.entries()]
    assert (entry.key, entry.traceparent) == ("a", "")
    async with SqliteJournal(path) as journal:
        await journal.record(
            Transition("a", S.SUBMITTING, NOW),
            Transition("a", S.SUBMITTED, NOW, REF, traceparent="00-trace"),
        )
        await journal.record(Transition("a", S.FAILED, NOW))
        (failed,) = [entry async for entry in journal.entries(S.FAILED)]
        await journal.record(Transition("a", S.PLANNED, NOW))
    async with SqliteJournal(path, read_only=True) as journal:
        (again,) = [entry async for entry in journal.entries()]
    assert failed.traceparent == "00-trace"  # that of the attempt
    assert (again.attempt, again.traceparent) == (2, "")
