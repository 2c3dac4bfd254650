from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias

import pytest

from kling_async.errors import JournalError
from kling_async.journal.base import Entry, Failure, ItemState, Planned, Transition
from kling_async.journal.calls import CALLS_PER_PAUSE, Call
from kling_async.journal.serialization import DamageError
from kling_async.journal.sqlite._file import open_to_write
from kling_async.journal.sqlite._rows import (
    Progress,
    SqliteChanges,
    commit_calls,
    mark_interrupted,
    read_history,
    read_page,
    read_summary,
)
from kling_async.results import SavedFile
from tests.journal.examples import FILES, LOST, NOW, REF, RESULT, S, plan_call

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

SqliteCall: TypeAlias = Call[SqliteChanges]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Open a new journal."""
    with open_to_write(tmp_path / "a") as db:
        yield db


def commit(
    db: sqlite3.Connection, calls: list[SqliteCall], progress: Progress | None = None
) -> list[object]:
    """Commit calls, with what is known of the items, if anything is."""
    return commit_calls(db, calls, {} if progress is None else progress)


def plan(*keys: str, input: object = 1) -> SqliteCall:
    """Plan items with one input."""
    return plan_call(*(Planned(key, {"prompt": input}) for key in keys))


def record(*moves: Transition) -> SqliteCall:
    """Record moves."""
    return Call([move.key for move in moves], lambda changes: changes.record(moves))


def move(key: str, *states: ItemState) -> SqliteCall:
    """Record moves of one item, with what they need."""
    return record(*(Transition(key, state, NOW, ref=REF, result=RESULT) for state in states))


def entries(db: sqlite3.Connection, *states: ItemState, size: int = 100) -> list[Entry]:
    """Read all pages."""
    after, found = read_page(db, states, 0, size)
    everything = list(found)
    while found:
        after, found = read_page(db, states, after, size)
        assert len(found) <= size
        everything += found
    return everything


def keys(db: sqlite3.Connection, *states: ItemState, size: int = 100) -> list[str]:
    """Read the keys of all pages."""
    return [entry.key for entry in entries(db, *states, size=size)]


def test_planned(db: sqlite3.Connection) -> None:
    """What is planned is returned as it will be read, in the order given."""
    before = datetime.now(UTC)
    (answer,) = commit(db, [plan("b", "a")])
    assert answer == entries(db)
    first, _ = entries(db)
    assert before <= first.changed_at <= datetime.now(UTC)
    assert first == Entry("b", {"prompt": 1}, S.PLANNED, 1, first.changed_at)
    assert read_history(db, "b") == [Transition("b", S.PLANNED, first.changed_at)]


def test_planned_again(db: sqlite3.Connection) -> None:
    """What was planned before is returned as it stands, beside what is new."""
    commit(db, [plan("a", "b"), move("b", S.SUBMITTING)])
    (answer,) = commit(db, [plan("c", "b", "a", "b")])
    assert isinstance(answer, list)
    assert [(entry.key, entry.state) for entry in answer] == [
        ("c", S.PLANNED),
        ("b", S.SUBMITTING),
        ("a", S.PLANNED),
        ("b", S.SUBMITTING),
    ]
    assert keys(db) == ["a", "b", "c"]
    assert len(read_history(db, "a")) == 1


def test_planned_after_a_move_in_one_commit(db: sqlite3.Connection) -> None:
    """Calls of one commit happen one after another, and once."""
    commit(db, [plan("a")])
    _, answer = commit(db, [move("a", S.SUBMITTING), plan("a")])
    assert answer == entries(db, S.SUBMITTING)
    assert len(read_history(db, "a")) == 2


@pytest.mark.parametrize("planned", [["a"], []])
def test_another_input(db: sqlite3.Connection, planned: list[str]) -> None:
    """A key that has another input is refused by name, and nothing of its call is written."""
    commit(db, [plan(*planned)])
    items = [Planned("new", {}), Planned("a", {"prompt": 1}), Planned("a", {"prompt": 2})]
    error, _ = commit(db, [plan_call(*items), plan("other")])
    assert isinstance(error, JournalError)
    assert "'a'" in str(error)
    assert keys(db) == [*planned, "other"]


def test_the_same_input(db: sqlite3.Connection) -> None:
    """The order of an input's fields does not make it another."""
    one = plan_call(Planned("a", {"x": 1, "y": [2]}))
    two = plan_call(Planned("a", {"y": (2,), "x": 1}))
    assert commit(db, [one]) == commit(db, [two])


@pytest.mark.parametrize("bad", [object(), {1, 2}, {"a": 1, 2: 3}])
def test_an_input_that_is_not_json(db: sqlite3.Connection, bad: object) -> None:
    """An input that cannot be written is refused by its key, and the others are not harmed."""
    error, _ = commit(db, [plan("a", input=bad), plan("b")])
    assert isinstance(error, JournalError)
    assert "item 'a' is not JSON" in str(error)
    assert keys(db) == ["b"]


@pytest.mark.parametrize("key", ["", "a\0b", "ü", "a'b", "x" * 10_000])
def test_odd_keys(db: sqlite3.Connection, key: str) -> None:
    """Any text is a key."""
    assert commit(db, [plan("a", key), move(key, S.SUBMITTING)])[1] is None
    assert [(entry.key, entry.state) for entry in entries(db)] == [
        ("a", S.PLANNED),
        (key, S.SUBMITTING),
    ]
    assert len(read_history(db, key)) == 2


def test_half_a_character(db: sqlite3.Connection) -> None:
    """What is no text is no key."""
    for error in commit(db, [plan("b", "\ud800"), move("\ud800", S.SUBMITTING)]):
        assert isinstance(error, JournalError)
        assert "'\\ud800' cannot be a key" in str(error)
    assert not keys(db)


def test_a_whole_life(db: sqlite3.Connection) -> None:
    """The reference, the result and the files stay once they are there."""
    moves = [
        Transition("a", S.SUBMITTING, NOW),
        Transition("a", S.SUBMITTED, NOW, ref=REF),
        Transition("a", S.FINISHED, NOW, result=RESULT),
        Transition("a", S.SAVED, NOW, files=FILES),
        Transition("a", S.SAVED, NOW),
    ]
    commit(db, [plan("a")])
    for one in moves:
        assert commit(db, [record(one)]) == [None]
    assert read_history(db, "a")[1:] == moves
    assert entries(db) == [
        Entry("a", {"prompt": 1}, S.SAVED, 1, NOW, ref=REF, result=RESULT, files=FILES)
    ]


def test_files_fetched_again(db: sqlite3.Connection) -> None:
    """The files that were saved last are those that count."""
    commit(db, [plan("a"), move("a", S.SUBMITTING, S.SUBMITTED, S.FINISHED)])
    again = (SavedFile("https://example.com/a.mp4", "b.mp4", 10, "00"),)
    commit(db, [record(Transition("a", S.SAVED, NOW, files=files)) for files in (FILES, again)])
    assert entries(db)[0].files == again
    assert [one.files for one in read_history(db, "a")[-2:]] == [FILES, again]


def test_a_new_attempt_is_empty(db: sqlite3.Connection) -> None:
    """A new attempt has nothing of the one before, which stays in the history."""
    failed = Transition("a", S.FAILED, NOW, failure=Failure("TaskFailedError", "no"))
    commit(db, [plan("a"), move("a", S.SUBMITTING, S.SUBMITTED), record(failed)])
    assert entries(db)[0].ref == REF
    assert entries(db)[0].failure == failed.failure
    commit(db, [record(Transition("a", S.PLANNED, NOW))])
    assert entries(db) == [Entry("a", {"prompt": 1}, S.PLANNED, 2, NOW)]
    assert read_history(db, "a")[3] == failed


def test_a_new_attempt_clears_everything(db: sqlite3.Connection) -> None:
    """Whatever stood in an entry is gone in a new attempt."""
    commit(db, [plan("a"), move("a", S.SUBMITTING)])
    unsure = Transition("a", S.UNSURE, NOW, REF, RESULT, LOST, FILES)
    commit(db, [record(unsure), record(Transition("a", S.PLANNED, NOW))])
    assert entries(db) == [Entry("a", {"prompt": 1}, S.PLANNED, 2, NOW)]
    assert read_history(db, "a")[2] == unsure


def test_a_failure_explains_the_last_move(db: sqlite3.Connection) -> None:
    """A refusal is stored while the item waits to be sent again, and no longer."""
    refused = Failure("RateLimitError", "slowly")
    commit(db, [plan("a"), move("a", S.SUBMITTING)])
    commit(db, [record(Transition("a", S.PLANNED, NOW, failure=refused))])
    assert (entries(db)[0].failure, entries(db)[0].attempt) == (refused, 1)
    commit(db, [move("a", S.SUBMITTING)])
    assert entries(db)[0].failure is None


def test_verdicts_of_one_commit(db: sqlite3.Connection) -> None:
    """Each call has a verdict of its own; one that is refused writes nothing, the others all."""
    commit(db, [plan("a", "b", "c")])
    good, half, unknown, after, illegal = commit(
        db,
        [
            move("a", S.SUBMITTING),
            record(Transition("b", S.SUBMITTING, NOW), Transition("c", S.SAVED, NOW)),
            record(Transition("b", S.SUBMITTING, NOW), Transition("d", S.SUBMITTING, NOW)),
            move("b", S.SUBMITTING, S.PLANNED),
            move("a", S.SUBMITTING),
        ],
    )
    assert (good, after) == (None, None)
    assert "'c' is planned" in str(half)
    assert "no item 'd'" in str(unknown)
    assert "'a' is submitting" in str(illegal)
    assert all(isinstance(error, JournalError) for error in (half, unknown, illegal))
    states = [(entry.key, entry.state) for entry in entries(db)]
    assert states == [("a", S.SUBMITTING), ("b", S.PLANNED), ("c", S.PLANNED)]
    assert [len(read_history(db, key)) for key in "abc"] == [2, 3, 1]


def test_a_call_that_is_wrong(db: sqlite3.Connection) -> None:
    """A mistake of one caller is an error for that caller only."""
    commit(db, [plan("a", "b")])
    wrong = record(Transition("a", S.SUBMITTING, None))  # type: ignore[arg-type] # on purpose
    error, fine = commit(db, [wrong, move("b", S.SUBMITTING)])
    assert isinstance(error, AttributeError)
    assert fine is None
    assert keys(db, S.SUBMITTING) == ["b"]


def test_many_calls(db: sqlite3.Connection) -> None:
    """A commit of many calls does them all, in their order."""
    names = [str(number) for number in range(3 * CALLS_PER_PAUSE)]
    answers = commit(db, [plan(*names), *(move(name, S.SUBMITTING) for name in names)])
    assert answers[1:] == [None] * len(names)
    assert keys(db, S.SUBMITTING) == names


def test_sending_is_given_up(db: sqlite3.Connection) -> None:
    """What was being sent becomes unsure, with its history, and nothing else does."""
    commit(db, [plan("a", "b", "c"), move("a", S.SUBMITTING), move("b", S.SUBMITTING, S.SUBMITTED)])
    before = datetime.now(UTC)
    mark_interrupted(db)
    assert [entry.state for entry in entries(db)] == [S.UNSURE, S.SUBMITTED, S.PLANNED]
    last = read_history(db, "a")[-1]
    assert before <= last.at <= datetime.now(UTC)
    assert last.state is S.UNSURE
    assert last.failure is not None
    assert last.failure.kind == "AnswerLostError"
    assert last.failure.may_have_charged
    assert entries(db)[0].failure == last.failure
    assert [len(read_history(db, key)) for key in "abc"] == [3, 3, 1]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_pages(db: sqlite3.Connection, size: int) -> None:
    """Pages of any size give each entry once, in the order planned, in the states asked for."""
    names = [f"{number * 7 % 10}" for number in range(10)]
    commit(db, [plan(*names), *(move(name, S.SUBMITTING) for name in names[::2])])
    commit(db, [move(name, S.SUBMITTED) for name in names[::4]])
    assert keys(db, size=size) == names
    assert keys(db, S.PLANNED, size=size) == names[1::2]
    assert keys(db, S.SUBMITTED, S.SUBMITTING, size=size) == names[::2]
    assert keys(db, *S, size=size) == names
    assert keys(db, S.SAVED, size=size) == []


def test_pages_are_read_through_the_index(db: sqlite3.Connection) -> None:
    """A page in some states neither reads the items in others nor sorts."""
    asked: list[str] = []
    db.set_trace_callback(asked.append)
    read_page(db, [S.SUBMITTED, S.UNSURE], 0, 10)
    db.set_trace_callback(None)
    plan = str(db.execute(f"EXPLAIN QUERY PLAN {asked[-1]}").fetchall())
    assert plan.count("SEARCH items USING INDEX items_by_state (state=? AND rowid>?)") == 2
    assert "SCAN" not in plan
    assert "TEMP B-TREE" not in plan


def test_summary(db: sqlite3.Connection) -> None:
    """All states are counted."""
    assert read_summary(db).counts == dict.fromkeys(S, 0)
    commit(db, [plan("a", "b", "c"), move("a", S.SUBMITTING)])
    assert read_summary(db).counts == {**dict.fromkeys(S, 0), S.PLANNED: 2, S.SUBMITTING: 1}


@pytest.mark.parametrize(
    ("states", "attempts"),
    [
        ([], 0),
        ([S.FAILED], 0),
        ([S.SUBMITTING], 1),
        ([S.SUBMITTING, S.PLANNED], 0),
        ([S.SUBMITTING, S.FAILED], 0),
        ([S.SUBMITTING, S.PLANNED, S.SUBMITTING], 1),
        ([S.SUBMITTING, S.UNSURE], 1),
        ([S.SUBMITTING, S.SUBMITTED], 1),
        ([S.SUBMITTING, S.SUBMITTED, S.FINISHED, S.SAVED, S.SAVED], 1),
        ([S.SUBMITTING, S.UNSURE, S.PLANNED], 1),
        ([S.SUBMITTING, S.UNSURE, S.PLANNED, S.SUBMITTING], 2),
        ([S.SUBMITTING, S.SUBMITTED, S.FAILED, S.PLANNED, S.SUBMITTING, S.SUBMITTED], 2),
    ],
)
def test_attempts(db: sqlite3.Connection, states: list[ItemState], attempts: int) -> None:
    """Attempts are counted once each, if they may have cost money."""
    commit(db, [plan("a", "b"), move("a", *states), move("b", S.SUBMITTING, S.SUBMITTED)])
    assert read_summary(db).attempts == attempts + 1


def test_history_of_nothing(db: sqlite3.Connection) -> None:
    """An item that is not there has no history."""
    with pytest.raises(JournalError, match="no item 'a'"):
        read_history(db, "a")


@pytest.mark.parametrize(
    "damage",
    ["state = 'lost'", "input = '{'", "ref = 'x'", "result = '{}'", "files = '5'", "failure = '5'"],
)
def test_rows_that_make_no_sense(db: sqlite3.Connection, damage: str) -> None:
    """A row that cannot be understood is damage like any other; other rows can be read."""
    commit(db, [plan("a", "b")])
    db.execute(f"UPDATE items SET {damage} WHERE key = 'a'")  # noqa: S608 - our own words
    with pytest.raises(DamageError, match="cannot be read"):
        entries(db)
    with pytest.raises(DamageError, match="cannot be read"):
        commit(db, [plan("c", "a")])
    assert not db.in_transaction
    assert [entry.key for entry in read_page(db, [], 1, 10)[1]] == ["b"]


@pytest.mark.parametrize("table", ["items", "history"])
def test_a_history_that_makes_no_sense(db: sqlite3.Connection, table: str) -> None:
    """The same holds for the history, and for recording what follows it."""
    commit(db, [plan("a")])
    db.execute(f"UPDATE {table} SET state = 'lost'")  # noqa: S608 - our own words
    with pytest.raises(DamageError, match="cannot be read"):
        read_history(db, "a")
    if table == "items":
        with pytest.raises(DamageError, match="cannot be read"):
            commit(db, [move("a", S.SUBMITTING)])


def test_what_is_remembered_is_bounded(db: sqlite3.Connection) -> None:
    """How items stand is remembered for very many, and then forgotten; it is looked up again."""
    standing = {str(number): (number, S.PLANNED, 1) for number in range(10_001)}
    commit(db, [plan("a"), move("a", S.SUBMITTING)], standing)
    assert list(standing) == ["a"]
    standing.clear()
    assert commit(db, [move("a", S.SUBMITTED)], standing) == [None]
