"""The journals against a model of them: whatever is done to both, they agree."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from abc import abstractmethod
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeAlias, TypeVar

import attrs
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kling_async.errors import JournalError
from kling_async.journal.base import Entry, Failure, ItemState, Planned, Transition
from kling_async.journal.postgres.journal import PostgresJournal
from kling_async.journal.sqlite.journal import SqliteJournal
from kling_async.results import FailReason, Result, SavedFile, TaskRef
from kling_async.testing.clock import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence

    from tests.engines.postgres import Server

_T = TypeVar("_T")

AnyJournal: TypeAlias = SqliteJournal | PostgresJournal

S = ItemState
# The rule itself, written down a second time.
LEGAL = {
    S.PLANNED: {S.SUBMITTING, S.FAILED},
    S.SUBMITTING: {S.PLANNED, S.SUBMITTED, S.FAILED, S.UNSURE},
    S.SUBMITTED: {S.FINISHED, S.FAILED},
    S.FINISHED: {S.FINISHED, S.SAVED},
    S.SAVED: {S.SAVED},
    S.FAILED: {S.PLANNED},
    S.UNSURE: {S.PLANNED, S.SUBMITTED},
}
START = datetime(2026, 1, 2, tzinfo=UTC)
KEYS = ["a", "b", "ä\n", "'c"]
ITEMS = st.builds(
    Planned,
    st.sampled_from(KEYS),
    # Mostly the same, or hardly anything would ever be planned.
    st.sampled_from([{"x": 1, "y": [2]}] * 9 + [{"x": 2}]),
)
REFS = st.builds(TaskRef, st.just("m"), st.sampled_from(["1", "2"]))
TRANSITIONS = st.builds(
    Transition,
    st.sampled_from([*KEYS * 4, "unknown"]),
    st.sampled_from(S),
    st.integers(0, 10**9).map(lambda seconds: START + timedelta(seconds=seconds)),
    st.none() | REFS,
    st.none() | st.builds(Result, REFS, st.just(("u",)), cost_time=st.sampled_from([None, 1.5])),
    st.none() | st.builds(Failure, st.just("E"), st.text(), reason=st.sampled_from(FailReason)),
    st.lists(st.builds(SavedFile, st.text(), st.just("n"), st.integers(0), st.just("0"))).map(
        tuple
    ),
)


@attrs.define
class Item:
    """What the model knows of one item."""

    entry: Entry
    history: list[Transition]


class JournalAndModel(RuleBasedStateMachine):
    """Does the same to a journal and to a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, Item] = {}
        self.paid = 0
        self.runner = asyncio.Runner(debug=False, loop_factory=VirtualLoop)

    def run(self, main: Coroutine[object, object, _T]) -> _T:
        return self.runner.run(main)

    def entered(self, journal: AnyJournal) -> AnyJournal:
        async def enter() -> AnyJournal:
            return await journal.__aenter__()

        return self.run(enter())

    @abstractmethod
    def make(self, *, read_only: bool = False) -> AnyJournal:
        """Make a journal of the place."""

    @abstractmethod
    def die(self) -> None:
        """End like a process that is killed; the location is that of the next one."""

    @initialize()
    def open(self) -> None:
        self.journal = self.entered(self.make())

    def teardown(self) -> None:
        self.run(self.journal.close())
        self.runner.close()

    # What is done.

    @rule(items=st.lists(ITEMS, max_size=4))
    def plan(self, items: list[Planned]) -> None:
        inputs = {key: item.entry.input for key, item in self.model.items()}
        agreed = all(inputs.setdefault(item.key, item.input) == item.input for item in items)
        answer = self.run(answered(self.journal.plan(items)))
        if not agreed:
            assert isinstance(answer, JournalError)
            return
        assert not isinstance(answer, JournalError)
        for item, entry in zip(items, answer, strict=True):
            if item.key not in self.model:
                now = entry.changed_at
                expected = Entry(item.key, item.input, S.PLANNED, 1, now)
                self.model[item.key] = Item(expected, [Transition(item.key, S.PLANNED, now)])
            assert entry == self.model[item.key].entry

    @rule(calls=st.lists(st.lists(TRANSITIONS, max_size=3), min_size=1, max_size=4))
    def record(self, calls: list[list[Transition]]) -> None:
        async def together() -> list[JournalError | None]:
            return await asyncio.gather(*(answered(self.journal.record(*call)) for call in calls))

        expected = [self.recorded(call) for call in calls]
        assert [answer is None for answer in self.run(together())] == expected

    @precondition(lambda self: self.model)
    @rule(data=st.data(), move=TRANSITIONS)
    def record_what_is_legal(self, data: st.DataObject, move: Transition) -> None:
        item = self.model[data.draw(st.sampled_from(sorted(self.model)))]
        state = data.draw(st.sampled_from(sorted(LEGAL[item.entry.state])))
        ref = TaskRef("m", "3")
        move = attrs.evolve(
            move,
            key=item.entry.key,
            state=state,
            ref=ref if state is S.SUBMITTED else move.ref,
            result=Result(ref, ()) if state is S.FINISHED else move.result,
        )
        assert self.recorded([move])
        self.run(self.journal.record(move))

    @rule()
    def close_and_reopen(self) -> None:
        self.run(self.journal.close())
        self.reopen()

    @rule()
    def kill(self) -> None:
        """Continue with what is stored, like the next process after one was killed."""
        self.die()
        self.reopen()

    # What must hold.

    @invariant()
    def all_entries(self) -> None:
        if hasattr(self, "journal"):
            assert self.run(entries(self.journal)) == [item.entry for item in self.model.values()]

    @rule(states=st.lists(st.sampled_from(S), min_size=1, max_size=3))
    def some_entries(self, states: list[ItemState]) -> None:
        expected = [item.entry for item in self.model.values() if item.entry.state in states]
        assert self.run(entries(self.journal, *states)) == expected

    @rule()
    def peek(self) -> None:
        """Compare what else can be read, also by a reader beside the writer."""
        reader = self.entered(self.make(read_only=True))
        for journal in (self.journal, reader):
            for key, item in self.model.items():
                assert self.run(journal.history(key)) == item.history
            summary = self.run(journal.summary())
            states = Counter(item.entry.state for item in self.model.values())
            assert summary.counts == {state: states[state] for state in S}
            assert summary.attempts == self.paid + states[S.SUBMITTING]
        assert self.run(entries(reader)) == self.run(entries(self.journal))
        self.run(reader.close())

    # The model.

    def recorded(self, moves: Sequence[Transition]) -> bool:
        """Apply transitions to the model, all or none; return whether they are allowed."""
        new: dict[str, Item] = {}
        paid = 0
        for move in moves:
            known = new.get(move.key) or self.model.get(move.key)
            if known is None or move.state not in LEGAL[known.entry.state]:
                return False
            if (move.state is S.SUBMITTED and not move.ref) or (
                move.state is S.FINISHED and not move.result
            ):
                return False
            unsure = known.entry.state is S.UNSURE  # it was counted when it became so
            paid += move.state in (S.SUBMITTED, S.UNSURE) and not unsure
            new[move.key] = Item(after(known.entry, move), [*known.history, move])
        self.model |= new
        self.paid += paid
        return True

    def reopen(self) -> None:
        self.journal = self.entered(self.make())
        for key, item in self.model.items():
            if item.entry.state is S.SUBMITTING:
                *_, last = self.run(self.journal.history(key))
                assert last.state is S.UNSURE
                assert last.failure is not None
                assert last.failure.may_have_charged
                assert self.recorded([last])


def after(entry: Entry, move: Transition) -> Entry:
    """Return an item after an allowed transition."""
    if move.state is S.PLANNED and entry.state in (S.FAILED, S.UNSURE):
        entry = Entry(entry.key, entry.input, entry.state, entry.attempt + 1, move.at)
        move = Transition(move.key, move.state, move.at, failure=move.failure)
    return attrs.evolve(
        entry,
        state=move.state,
        changed_at=move.at,
        ref=move.ref or entry.ref,
        result=move.result or entry.result,
        failure=move.failure,
        files=move.files or entry.files,
    )


async def answered(call: Coroutine[object, object, _T]) -> _T | JournalError:
    """Give the answer, or the refusal."""
    try:
        return await call
    except JournalError as error:
        return error


async def entries(journal: AnyJournal, *states: ItemState) -> list[Entry]:
    """Read all entries in these states."""
    return [entry async for entry in journal.entries(*states)]


class SqliteAndModel(JournalAndModel):
    """A journal in a file, and a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "journal"

    def make(self, *, read_only: bool = False) -> SqliteJournal:
        return SqliteJournal(self.path, read_only=read_only)

    def die(self) -> None:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        for name in ("journal", "journal-wal"):
            shutil.copy(self.path.with_name(name), folder)
        self.run(self.journal.close())
        self.path = folder / "journal"

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.folder)


class PostgresAndModel(JournalAndModel):
    """A journal in a database, and a dictionary."""

    database: ClassVar[str]
    batches: ClassVar = count(1)

    def __init__(self) -> None:
        super().__init__()
        self.batch = f"model {next(self.batches)}"

    def make(self, *, read_only: bool = False) -> PostgresJournal:
        return PostgresJournal(self.database, name=self.batch, read_only=read_only)

    def die(self) -> None:
        with psycopg.connect(self.database) as db:
            db.execute("UPDATE kling_async_workers SET until = clock_timestamp()")
        self.dead = self.journal

    def reopen(self) -> None:
        dead, self.dead = self.dead, None
        super().reopen()
        if dead is not None:  # it closes long after it was replaced
            self.run(dead.close())

    dead: AnyJournal | None = None


@pytest.fixture(scope="class")
def database(postgres_server: Server) -> Iterator[None]:
    """Create a database for the models."""
    with postgres_server.database("models") as url:
        PostgresAndModel.database = url
        yield


def few_examples(number: int) -> settings:
    """Say how much is tried."""
    return settings(
        deadline=None,
        derandomize=True,
        max_examples=number,
        stateful_step_count=30,
        suppress_health_check=[HealthCheck.too_slow],
    )


TestSqlite = pytest.mark.slow(SqliteAndModel.TestCase)
TestSqlite.settings = few_examples(30)
TestPostgres = pytest.mark.usefixtures("database")(PostgresAndModel.TestCase)
TestPostgres.settings = few_examples(15)
