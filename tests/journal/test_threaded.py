"""What every engine of a journal does, tested with each of them."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from attrs import evolve

from kling_async.errors import ConfigurationError, JournalError
from kling_async.journal.base import (
    Claim,
    ConflictError,
    Entry,
    Failure,
    ItemState,
    Journal,
    Planned,
    Transition,
)
from kling_async.journal.sqlite.journal import SqliteJournal
from kling_async.journal.threaded import CALLERS_PER_ITERATION, PAGE
from kling_async.results import Result, SavedFile
from tests.journal.examples import (
    FILES,
    LOST,
    NOW,
    REF,
    RESULT,
    S,
    planned,
    read_entries,
    sending,
    transitions,
)

if TYPE_CHECKING:
    from pathlib import Path

    from kling_async.journal.calls import Call
    from kling_async.journal.sqlite._rows import SqliteChanges
    from tests.journal.conftest import MakeJournal


async def states(journal: Journal) -> dict[str, str]:
    """Read how the items stand."""
    return {entry.key: str(entry.state) for entry in await read_entries(journal)}


async def test_what_is_written_is_there(journal_here: MakeJournal) -> None:
    """Items, moves, counts and history are there after the journal was opened again."""
    async with journal_here() as journal:
        answer = await journal.plan(planned("a", "b"))
        assert [entry.key for entry in answer] == ["a", "b"]
        await journal.record(sending("a"), Transition("a", S.SUBMITTED, NOW, ref=REF))
    async with journal_here() as again:
        first, second = await read_entries(again)
        assert (first.state, first.ref, first.changed_at) == (S.SUBMITTED, REF, NOW)
        assert second == answer[1]
        assert await read_entries(again, S.PLANNED, S.PLANNED) == [second]
        assert (await again.summary()).attempts == 1
        assert [move.state for move in await again.history("a")] == list(S)[:3]


async def test_errors_come_to_the_caller(journal_here: MakeJournal) -> None:
    """What is refused is raised where it was asked for."""
    async with journal_here() as journal:
        await journal.plan(planned("a"))
        with pytest.raises(JournalError, match="another input"):
            await journal.plan([Planned("a", {})])
        with pytest.raises(JournalError, match="'a' is planned"):
            await journal.record(Transition("a", S.SAVED, NOW))
        with pytest.raises(JournalError, match="no item 'b'"):
            await journal.history("b")


async def test_verdicts_in_a_shared_commit(journal_here: MakeJournal) -> None:
    """Of the calls that share a commit only the one that is wrong raises."""
    async with journal_here() as journal:
        await journal.plan(planned("a", "b"))
        answers = await asyncio.gather(
            *(journal.record(sending(key)) for key in ("a", "unknown", "b")),
            journal.plan(planned("c")),
            return_exceptions=True,
        )
        assert [type(answer) for answer in answers] == [type(None), JournalError, type(None), list]
        assert await states(journal) == {"a": "submitting", "b": "submitting", "c": "planned"}


async def test_a_caller_that_is_cancelled(journal_here: MakeJournal) -> None:
    """What a cancelled caller has handed in is written, be its commit under way or yet to come."""
    async with journal_here() as journal:
        await journal.plan(planned("a", "b", "c"))
        tasks = [asyncio.create_task(journal.record(sending(key))) for key in "abc"]
        await asyncio.sleep(0)
        for task in tasks[:2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * 2 + [type(None)]
        assert set((await states(journal)).values()) == {"submitting"}


async def test_closing_waits(journal_here: MakeJournal) -> None:
    """Calls that were made before closing are written, and return."""
    names = [str(number) for number in range(3 * CALLERS_PER_ITERATION)]
    async with journal_here() as journal:
        await journal.plan(planned(*names))
        tasks = [
            asyncio.create_task(journal.record(*transitions(name, S.SUBMITTING, S.SUBMITTED)))
            for name in names
        ]
        await asyncio.sleep(0)
    assert await asyncio.gather(*tasks) == [None] * len(names)
    async with journal_here(read_only=True) as reader:
        assert set((await states(reader)).values()) == {"submitted"}


async def test_closing_is_not_cut_short(journal_here: MakeJournal) -> None:
    """A caller that is cancelled while closing leaves a closed journal, and is cancelled."""
    journal = await journal_here().__aenter__()
    await journal.plan(planned("a"))
    move = asyncio.create_task(journal.record(sending("a")))
    closing = asyncio.create_task(journal.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await move
    async with journal_here() as again:
        assert await states(again) == {"a": "unsure"}


async def test_opening_is_not_cut_short(journal_here: MakeJournal) -> None:
    """A caller that is cancelled while opening leaves nothing open."""
    opening = asyncio.create_task(journal_here().__aenter__())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    async with journal_here() as journal:
        assert await read_entries(journal) == []


async def test_no_thread_stays(journal_here: MakeJournal) -> None:
    """A journal has one thread while it is open, and none before, after, or when it is refused."""

    def threads() -> int:
        return sum("kling-journal" in thread.name for thread in threading.enumerate())

    with pytest.raises(JournalError):
        await journal_here(read_only=True).__aenter__()
    journal = journal_here()
    assert threads() == 0
    async with journal:
        await asyncio.gather(journal.plan(planned("a")), journal.summary(), journal.summary())
        assert threads() == 1
    assert threads() == 0


async def test_only_while_it_is_open(journal_here: MakeJournal) -> None:
    """Before it is opened and after it is closed a journal says so; closing twice is fine."""
    journal = journal_here()
    for _ in range(2):
        for use in (journal.plan([]), journal.record(), journal.summary(), read_entries(journal)):
            with pytest.raises(JournalError, match="is not open"):
                await use
        async with journal:
            with pytest.raises(JournalError, match="is open already"):
                await journal.__aenter__()
            assert await journal.plan([]) == []
            await journal.record()
        await journal.close()


async def test_a_reader(journal_here: MakeJournal) -> None:
    """A reader sees the changes of a running batch, and cannot write."""
    async with journal_here() as journal, journal_here(read_only=True) as reader:
        await journal.plan(planned("a"))
        assert await states(reader) == {"a": "planned"}
        await journal.record(sending("a"))
        assert await states(reader) == {"a": "submitting"}
        assert await reader.summary() == await journal.summary()
        assert await reader.history("a") == await journal.history("a")
        for use in (reader.plan([]), reader.record()):
            with pytest.raises(JournalError, match="for reading only"):
                await use


async def test_a_reader_of_nothing(journal_here: MakeJournal) -> None:
    """A reader says at once that there is no journal."""
    with pytest.raises(JournalError, match="there is no journal"):
        await journal_here(read_only=True).__aenter__()
    async with journal_here() as journal:  # and has made none
        assert await read_entries(journal) == []


@pytest.mark.parametrize("number", [0, 1, PAGE - 1, PAGE, PAGE + 1])
async def test_pages(journal_here: MakeJournal, number: int) -> None:
    """However many items there are, each comes once and in order."""
    names = [str(n) for n in range(number)]
    async with journal_here() as journal:
        await journal.plan(planned(*names))
        assert list(await states(journal)) == names
        assert [entry.key for entry in await read_entries(journal, *S)] == names


async def test_moves_between_pages(journal_here: MakeJournal) -> None:
    """Items that move while they are read come once at most, as they stand by then."""
    names = [str(n) for n in range(2 * PAGE + 1)]
    seen: list[Entry] = []
    async with journal_here() as journal:
        await journal.plan(planned(*names))
        async for entry in journal.entries(S.PLANNED, S.SUBMITTING):
            if not seen:
                await journal.record(sending(names[0]), sending(names[-1]))
                await journal.record(Transition(names[PAGE], S.FAILED, NOW))
            seen.append(entry)
    assert [entry.key for entry in seen] == names[:PAGE] + names[PAGE + 1 :]
    assert [entry.key for entry in seen if entry.state is S.SUBMITTING] == [names[-1]]


async def test_planned(journal_here: MakeJournal) -> None:
    """What is planned is returned as it will be read, in the order given; twice, as it stands."""
    before = datetime.now(UTC)
    async with journal_here() as journal:
        answer = await journal.plan(planned("b", "a"))
        assert answer == await read_entries(journal)
        first = answer[0]
        assert before <= first.changed_at <= datetime.now(UTC)
        assert first == Entry("b", {"prompt": "a fox"}, S.PLANNED, 1, first.changed_at)
        assert await journal.history("b") == [Transition("b", S.PLANNED, first.changed_at)]
        await journal.record(sending("b"))
        again = await journal.plan(planned("c", "b", "a", "b"))
        assert [(entry.key, entry.state) for entry in again] == [
            ("c", S.PLANNED),
            ("b", S.SUBMITTING),
            ("a", S.PLANNED),
            ("b", S.SUBMITTING),
        ]
        assert list(await states(journal)) == ["b", "a", "c"]
        assert len(await journal.history("a")) == 1


@pytest.mark.parametrize("known", [["a"], []])
async def test_another_input(journal_here: MakeJournal, known: list[str]) -> None:
    """A key that has another input is refused by name, and nothing of its call is written."""
    async with journal_here() as journal:
        await journal.plan([Planned(key, {"prompt": 1}) for key in known])
        items = [Planned("new", {}), Planned("a", {"prompt": 1}), Planned("a", {"prompt": 2})]
        error, _ = await asyncio.gather(
            journal.plan(items), journal.plan(planned("other")), return_exceptions=True
        )
        assert isinstance(error, JournalError)
        assert "'a' is in the journal with another input" in str(error)
        assert list(await states(journal)) == [*known, "other"]


async def test_two_who_plan_at_once(journal_here: MakeJournal) -> None:
    """Two calls may plan one new key at the same time, with the same input."""
    async with journal_here() as journal:
        first, second, other = await asyncio.gather(
            journal.plan(planned("a", "b")),
            journal.plan(planned("b", "c")),
            journal.plan([Planned("b", {})]),
            return_exceptions=True,
        )
        assert isinstance(first, list)
        assert isinstance(second, list)
        assert first[1] == second[0]
        assert isinstance(other, JournalError)
        assert list(await states(journal)) == ["a", "b", "c"]


async def test_the_same_input(journal_here: MakeJournal) -> None:
    """The order of an input's fields does not make it another."""
    async with journal_here() as journal:
        one = await journal.plan([Planned("a", {"x": 1, "y": [2]})])
        assert await journal.plan([Planned("a", {"y": (2,), "x": 1})]) == one


@pytest.mark.parametrize("bad", [object(), {1, 2}, {"a": 1, 2: 3}])
async def test_an_input_that_is_not_json(journal_here: MakeJournal, bad: object) -> None:
    """An input that cannot be written is refused by its key."""
    async with journal_here() as journal:
        with pytest.raises(JournalError, match="item 'a' is not JSON"):
            await journal.plan([Planned("b", {}), Planned("a", {"x": bad})])
        assert await read_entries(journal) == []


@pytest.mark.parametrize("key", ["", "ü", "a'b", "{a}", "%s", "\\", "x" * 1_000, "\U0001f98a"])
async def test_odd_keys(journal_here: MakeJournal, key: str) -> None:
    """Any text is a key, and any is an input."""
    async with journal_here() as journal:
        await journal.plan([Planned("a", {}), Planned(key, {"prompt": f"{key}\0\ud800"})])
        await journal.record(sending(key))
        assert await states(journal) == {"a": "planned", key: "submitting"}
        (entry,) = await read_entries(journal, S.SUBMITTING)
        assert entry.input == {"prompt": f"{key}\0\ud800"}
        assert len(await journal.history(key)) == 2


async def test_half_a_character(journal_here: MakeJournal) -> None:
    """What is no text is no key, and is known nowhere."""
    async with journal_here() as journal:
        with pytest.raises(JournalError, match=r"'\\ud800' cannot be a key"):
            await journal.plan(planned("b", "\ud800"))
        for use in (journal.record(sending("\ud800")), journal.history("\ud800")):
            with pytest.raises(JournalError, match=r"'\\ud800'"):
                await use
        assert await read_entries(journal) == []


async def test_a_whole_life(journal_here: MakeJournal) -> None:
    """The reference, the result and the files stay once they are there."""
    life = [
        Transition("a", S.SUBMITTING, NOW),
        Transition("a", S.SUBMITTED, NOW, ref=REF),
        Transition("a", S.FINISHED, NOW, result=RESULT),
        Transition("a", S.SAVED, NOW, files=FILES),
        Transition("a", S.SAVED, NOW),
    ]
    async with journal_here() as journal:
        await journal.plan(planned("a"))
        for one in life:
            await journal.record(one)
        assert (await journal.history("a"))[1:] == life
        assert await read_entries(journal) == [
            Entry("a", {"prompt": "a fox"}, S.SAVED, 1, NOW, ref=REF, result=RESULT, files=FILES)
        ]


async def test_moves_in_one_call(journal_here: MakeJournal) -> None:
    """Several moves of one item in one call are made one after another."""
    async with journal_here() as journal:
        await journal.plan(planned("a"))
        again = (SavedFile("https://example.com/a.mp4", "b.mp4", 10, "00"),)
        life = transitions("a", S.SUBMITTING, S.SUBMITTED, S.FINISHED)
        saved = [Transition("a", S.SAVED, NOW, files=files) for files in (FILES, again)]
        await journal.record(*life, *saved)
        assert (await journal.history("a"))[1:] == [*life, *saved]
        assert (await read_entries(journal))[0].files == again


async def test_a_new_attempt_is_empty(journal_here: MakeJournal) -> None:
    """A new attempt has nothing of the one before, which stays in the history."""
    async with journal_here() as journal:
        await journal.plan(planned("a"))
        unsure = Transition("a", S.UNSURE, NOW, REF, RESULT, LOST, FILES)
        await journal.record(sending("a"), unsure)
        assert (await read_entries(journal))[0].failure == LOST
        await journal.record(Transition("a", S.PLANNED, NOW))
        assert await read_entries(journal) == [Entry("a", {"prompt": "a fox"}, S.PLANNED, 2, NOW)]
        assert (await journal.history("a"))[2] == unsure


async def test_a_failure_explains_the_last_move(journal_here: MakeJournal) -> None:
    """A refusal is stored while the item waits to be sent again, and no longer."""
    refused = Failure("RateLimitError", "slowly")
    async with journal_here() as journal:
        await journal.plan(planned("a"))
        await journal.record(sending("a"), Transition("a", S.PLANNED, NOW, failure=refused))
        (entry,) = await read_entries(journal)
        assert (entry.failure, entry.attempt) == (refused, 1)
        await journal.record(sending("a"))
        assert (await read_entries(journal))[0].failure is None


async def test_a_call_that_is_wrong(journal_here: MakeJournal) -> None:
    """A mistake of one caller is an error for that caller only."""
    async with journal_here() as journal:
        await journal.plan(planned("a", "b", "c"))
        wrong = Transition("a", S.SUBMITTING, None)  # type: ignore[arg-type] # on purpose
        _, error, fine = await asyncio.gather(
            journal.record(sending("c")),
            journal.record(sending("a"), wrong),
            journal.record(sending("b")),
            return_exceptions=True,
        )
        assert isinstance(error, JournalError)
        with pytest.raises(AttributeError):
            await journal.record(wrong)
        assert fine is None
        assert await states(journal) == {"a": "planned", "b": "submitting", "c": "submitting"}


async def test_what_was_being_sent(journal_here: MakeJournal) -> None:
    """What is being sent when a journal is closed is unsure in the next, and nothing else is."""
    async with journal_here() as journal:
        await journal.plan(planned("a", "b", "c"))
        await journal.record(sending("a"), *transitions("b", S.SUBMITTING, S.SUBMITTED))
    before = datetime.now(UTC)
    async with journal_here() as journal:
        assert await states(journal) == {"a": "unsure", "b": "submitted", "c": "planned"}
        last = (await journal.history("a"))[-1]
        assert abs((last.at - before).total_seconds()) < 60
        assert last.state is S.UNSURE
        assert last.failure is not None
        assert last.failure.kind == "AnswerLostError"
        assert last.failure.may_have_charged
        assert (await read_entries(journal))[0].failure == last.failure
        assert [len(await journal.history(key)) for key in "abc"] == [3, 3, 1]


@pytest.mark.parametrize(
    ("life", "attempts"),
    [
        ([], 0),
        ([S.FAILED], 0),
        ([S.SUBMITTING], 1),
        ([S.SUBMITTING, S.PLANNED, S.SUBMITTING], 1),
        ([S.SUBMITTING, S.FAILED], 0),
        ([S.SUBMITTING, S.UNSURE], 1),
        ([S.SUBMITTING, S.SUBMITTED, S.FINISHED, S.SAVED, S.SAVED], 1),
        ([S.SUBMITTING, S.UNSURE, S.PLANNED, S.SUBMITTING], 2),
        ([S.SUBMITTING, S.SUBMITTED, S.FAILED, S.PLANNED, S.SUBMITTING, S.SUBMITTED], 2),
    ],
)
async def test_summary(journal_here: MakeJournal, life: list[ItemState], attempts: int) -> None:
    """All states are counted, and the attempts that may have cost money, once each."""
    async with journal_here() as journal:
        assert (await journal.summary()).counts == dict.fromkeys(S, 0)
        await journal.plan(planned("a", "b", "c"))
        await journal.record(*transitions("a", *life), *transitions("b", S.SUBMITTING, S.SUBMITTED))
        summary = await journal.summary()
        assert summary.attempts == attempts + 1
        assert summary.counts.keys() == set(S)
        assert sum(summary.counts.values()) == 3
        assert summary.counts[life[-1] if life else S.PLANNED] >= 1


async def test_alone(journal_here: MakeJournal) -> None:
    """A worker that is alone can claim and release every item."""
    async with journal_here() as journal:
        first, second = await journal.plan(planned("a", "b"))
        claims = [Claim(first), Claim(second)]
        assert [c.entry for c in await journal.peek(first, second)] == [first, second]
        for _ in range(2):
            answer = await journal.claim(first, second)
            assert [(c.entry, c.ownership) for c in answer] == [
                (c.entry, c.ownership) for c in claims
            ]
            await journal.release("a", ended=True)
            await journal.release("b", "unknown")
        await journal.record(sending("a"))
        await journal.release("a")
        assert await journal.claim() == await journal.peek() == []


def expecting(move: Transition, state: ItemState, attempt: int) -> Transition:
    """Give a move with what its caller believes of the item."""
    return evolve(move, expected=state, attempt=attempt)


async def test_two_who_believe_the_same(journal_here: MakeJournal) -> None:
    """Of two transitions from the same state at once, one is refused with the reason."""
    async with journal_here() as journal:
        await journal.plan(planned("a"))
        move = expecting(sending("a"), S.PLANNED, 1)
        answers = await asyncio.gather(
            journal.record(move), journal.record(move), return_exceptions=True
        )
        first, second = answers
        assert first is None
        assert isinstance(second, ConflictError)
        assert str(second).startswith("item 'a' is submitting (attempt 1), not planned (attempt 1)")
        assert (second.state, second.attempt) == (S.SUBMITTING, 1)
        assert [one.state for one in await journal.history("a")] == [S.PLANNED, S.SUBMITTING]


async def test_a_belief_that_is_out_of_date(journal_here: MakeJournal) -> None:
    """Nothing of a call is written if one of its items is in another state, or another attempt."""
    async with journal_here() as journal:
        await journal.plan(planned("a", "b"))
        await journal.record(Transition("a", S.FAILED, NOW), Transition("a", S.PLANNED, NOW))
        for state, attempt in ((S.PLANNED, 1), (S.FAILED, 2)):
            with pytest.raises(ConflictError, match=r"is planned \(attempt 2\)"):
                await journal.record(sending("b"), expecting(sending("a"), state, attempt))
        assert await states(journal) == {"a": "planned", "b": "planned"}
        await journal.record(sending("b"), expecting(sending("a"), S.PLANNED, 2))
        assert await states(journal) == {"a": "submitting", "b": "submitting"}


async def test_beliefs_within_one_call(journal_here: MakeJournal) -> None:
    """Each move of an item expects what the one before it in the same call has made of it."""
    async with journal_here() as journal:
        await journal.plan(planned("a"))
        submitted = Transition("a", S.SUBMITTED, NOW, ref=REF, expected=S.SUBMITTING, attempt=1)
        await journal.record(expecting(sending("a"), S.PLANNED, 1), submitted)
        assert await states(journal) == {"a": "submitted"}


async def test_a_reference_that_is_learned_later(journal_here: MakeJournal) -> None:
    """What was unsure is submitted, in the same attempt, and counts as one that was paid for."""
    async with journal_here() as journal:
        await journal.plan(planned("a", "b"))
        lost = Transition("a", S.UNSURE, NOW, failure=LOST)
        await journal.record(sending("a"), lost, *transitions("b", S.SUBMITTING, S.SUBMITTED))
        await journal.record(expecting(Transition("a", S.SUBMITTED, NOW, ref=REF), S.UNSURE, 1))
        (entry, _) = await read_entries(journal)
        assert (entry.state, entry.attempt, entry.ref, entry.failure) == (S.SUBMITTED, 1, REF, None)
        assert (await journal.summary()).attempts == 2
        with pytest.raises(JournalError, match="without the task's reference"):
            await journal.record(
                *(Transition("a", S.FAILED, NOW), Transition("a", S.PLANNED, NOW)),
                *(sending("a"), lost, Transition("a", S.SUBMITTED, NOW)),
            )


async def test_fresh_links(journal_here: MakeJournal) -> None:
    """The result of a finished item, and of one that is saved, may be replaced by a newer one."""
    fresh, fresher = (Result(REF, (f"https://example.com/{name}.mp4",)) for name in "bc")
    async with journal_here() as journal:
        await journal.plan(planned("a"))
        await journal.record(*transitions("a", S.SUBMITTING, S.SUBMITTED, S.FINISHED))
        await journal.record(Transition("a", S.FINISHED, NOW, result=fresh))
        assert [entry.result for entry in await read_entries(journal)] == [fresh]
        await journal.record(
            *(Transition("a", S.SAVED, NOW, result=one) for one in (None, fresher))
        )
        assert [entry.result for entry in await read_entries(journal)] == [fresher]
        with pytest.raises(JournalError, match="cannot become finished"):
            await journal.record(Transition("a", S.FINISHED, NOW, result=fresh))


async def test_what_was_rejected(journal_here: MakeJournal) -> None:
    """An item that failed without a task is known to be free, and may be planned again."""
    rejected = Failure("RefusedError", "no", status=403)
    async with journal_here() as journal:
        await journal.plan(planned("a", "b", "c"))
        await journal.record(
            *(sending("a"), Transition("a", S.FAILED, NOW, failure=rejected)),
            *(
                *transitions("b", S.SUBMITTING, S.SUBMITTED),
                Transition("b", S.FAILED, NOW, failure=rejected),
            ),
            *(sending("c"), Transition("c", S.FAILED, NOW, failure=LOST)),
        )
        a, b, c = await read_entries(journal)
        assert a.failure == rejected
        assert [one.was_rejected for one in (a, b, c)] == [True, False, False]
        await journal.record(expecting(Transition("a", S.PLANNED, NOW), S.FAILED, 1))
        (again,) = await read_entries(journal, S.PLANNED)
        assert (again.attempt, again.was_rejected) == (2, False)


def test_two_loops(journal_here: MakeJournal) -> None:
    """A journal that is open on a running loop cannot be used, nor opened, on another one."""
    refused: list[BaseException] = []

    async def elsewhere(journal: Journal) -> None:
        for use in (journal.summary(), journal.plan([]), journal.__aenter__()):
            with pytest.raises(ConfigurationError, match="one loop at a time") as caught:
                await use
            refused.append(caught.value)

    async def here() -> None:
        async with journal_here() as journal:
            await asyncio.to_thread(lambda: asyncio.run(elsewhere(journal)))
            assert await journal.plan([]) == []

    asyncio.run(here())
    assert len(refused) == 3


def test_one_loop_after_another(journal_here: MakeJournal) -> None:
    """A journal that was left open, in the middle of commits, may be used and closed later."""
    journal = journal_here()

    async def begin() -> None:
        await journal.__aenter__()
        await journal.plan(planned("a", "b"))
        for key in "ab":
            task = asyncio.create_task(journal.record(sending(key)))
            await asyncio.sleep(0)
            task.cancel()

    async def resume() -> None:
        await journal.plan(planned("c"))
        assert await states(journal) == {"a": "submitting", "b": "submitting", "c": "planned"}
        await journal.close()

    asyncio.run(begin())
    asyncio.run(resume())


# -------------------------------------------------------------------------------- failed commits


class OddError(Exception):
    """An error of another library that cannot be copied."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code


class FailingJournal(SqliteJournal):
    """A journal whose commits raise an error."""

    def __init__(self, path: Path, error: Exception) -> None:
        super().__init__(path)
        self.error = error

    def _commit(self, calls: list[Call[SqliteChanges]]) -> list[object]:
        raise self.error


async def test_an_error_for_all(tmp_path: Path) -> None:
    """Every caller gets an error that cannot be copied."""
    async with FailingJournal(tmp_path / "a", OddError(3, "the driver stumbled")) as journal:
        async with asyncio.timeout(10):
            calls = (journal.plan(planned(key)) for key in "abc")
            answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [str(error) for error in answers] == ["the driver stumbled"] * 3


async def test_a_copy_for_each(tmp_path: Path) -> None:
    """What one caller adds to the error of a shared commit is not in the others' errors."""
    async with FailingJournal(tmp_path / "a", ValueError("the disk is full")) as journal:
        first = asyncio.ensure_future(journal.plan(planned("a")))
        calls = (journal.plan(planned(key)) for key in "bc")
        answers = await asyncio.gather(*calls, return_exceptions=True)
        with pytest.raises(ValueError, match="full"):
            await first
    assert answers[0] is not answers[1]
