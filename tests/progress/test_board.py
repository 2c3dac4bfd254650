from __future__ import annotations

import asyncio

import pytest

from kling_async import Snapshot, TaskRef, TaskState, TaskUpdate
from kling_async.progress.board import LEFT, Board, ProgressLine

REF = TaskRef("kling-2-1", "task_1")


class Shown:
    """A display that keeps what it is given."""

    def __init__(self, capacity: int = 2, total: int | None = None) -> None:
        self.board = Board(capacity, total)
        self.removed: list[str] = []
        self.states: list[str] = []

    def add(self, line: ProgressLine) -> None:
        self.removed += [removed.label for removed in self.board.add(line)]

    def show_state(self, line: ProgressLine, remark: str) -> None:
        self.states.append(f"{line.state} {remark}".strip())

    def show_end(self, line: ProgressLine, message: str) -> None:
        self.states.append(f"{line.state}: {message}")
        self.board.count_end(line)

    def labels(self) -> list[str]:
        return [line.label for line in self.board.rows]


async def test_a_line_has_the_age_of_its_task() -> None:
    """The seconds of a line pass until its task ends."""
    line = ProgressLine(Shown(), "a")
    await asyncio.sleep(61.5)
    assert line.seconds == pytest.approx(61.5)
    line.finish("done", "done")
    await asyncio.sleep(1)
    assert line.seconds == pytest.approx(61.5)


async def test_a_line_has_the_part_of_the_time_that_has_passed() -> None:
    """It is known from the submit until the expected time has passed, and then at the end."""
    line = ProgressLine(Shown(), "a", 60.0)
    await asyncio.sleep(15)
    assert line.fraction is None
    line.update("submitted")
    assert line.fraction == pytest.approx(0.25)
    await asyncio.sleep(46)
    assert line.fraction is None
    line.finish("done", "done")
    assert line.fraction == 1.0
    assert ProgressLine(Shown(), "a").fraction is None


def test_full_label() -> None:
    """The full label of a line is its label and its detail, printable."""
    assert ProgressLine(Shown(), "a\x1b", detail="a fox").full_label == "a\\x1b  a fox"
    assert ProgressLine(Shown(), "a").full_label == "a"


def test_states_are_shown_once() -> None:
    """A state that is not new is not shown."""
    shown = Shown()
    line = ProgressLine(shown, "a")
    line.update("submitted", "kling-2-1/task_1")
    line.update("submitted")
    line.update("processing")
    line.finish("failed", "NSFW")
    ProgressLine(shown, "b").finish(LEFT, LEFT)
    assert shown.states == [
        "submitted kling-2-1/task_1",
        "processing",
        "failed: NSFW",
        "left running: left running",
    ]


@pytest.mark.parametrize(
    ("snapshot", "states"),
    [
        (None, ["submitted"]),
        (Snapshot(REF, TaskState.PROCESSING, "processing\x1b"), ["processing\\x1b"]),
        (Snapshot(REF, TaskState.SUCCESS, "success"), []),
    ],
)
@pytest.mark.parametrize("elapsed", [1.0, None])
def test_updates(snapshot: Snapshot | None, states: list[str], elapsed: float | None) -> None:
    """An update is shown with the state's name at the service; the end is shown with its result."""
    shown = Shown()
    state = snapshot.state if snapshot else TaskState.PENDING
    ProgressLine(shown, "a").show_update(TaskUpdate(REF, state, elapsed, None, snapshot))
    assert shown.states == states


def test_age_in_an_update() -> None:
    """The seconds of a line are those since the service accepted its task."""
    line = ProgressLine(Shown(), "a")
    line.show_update(TaskUpdate(REF, TaskState.PENDING, 30.0, None))
    assert line.seconds == pytest.approx(30, abs=5)


def test_labels_are_bounded() -> None:
    """No more of a prompt is kept than can be shown."""
    assert len(ProgressLine(Shown(), "river " * 500).label) == 200


def test_ended_tasks_make_room() -> None:
    """While there is room, ended tasks have rows, too; the first of them makes room."""
    shown = Shown(capacity=2)
    one, two = ProgressLine(shown, "1"), ProgressLine(shown, "2")
    two.finish("done")
    assert shown.labels() == ["1", "2"]
    ProgressLine(shown, "3")
    assert shown.labels() == ["1", "3"]
    assert shown.removed == ["2"]
    assert (one.ended, shown.board.is_crowded) == (False, False)


def test_many_tasks_are_counted() -> None:
    """When more tasks run than there is room for, they have no rows any more."""
    shown = Shown(capacity=2)
    one = ProgressLine(shown, "1")
    one.finish("done")
    lines = [ProgressLine(shown, str(number)) for number in range(2, 5)]
    assert shown.board.is_crowded
    assert shown.labels() == []
    assert shown.removed == ["1"]
    lines[0].update("pending")
    lines[0].finish("failed")
    lines[1].finish(LEFT, LEFT)
    assert shown.board.summary() == "1 done, 1 failed, 1 left running, 1 waiting"


def test_a_million_tasks_need_no_memory() -> None:
    """A board has the same size after any number of tasks."""
    shown = Shown(capacity=2)
    for number in range(1000):
        ProgressLine(shown, str(number)).finish("done")
    assert len(shown.board.rows) == 2
    assert shown.board.summary() == "1,000 done"


def test_clear() -> None:
    """After the last task, the numbers begin again."""
    shown = Shown(capacity=1)
    for line in [ProgressLine(shown, "1"), ProgressLine(shown, "2")]:
        line.finish("done")
    shown.board.clear()
    assert (shown.board.is_crowded, shown.board.seconds, shown.board.ended) == (False, 0.0, 0)


async def test_total() -> None:
    """With a total, a board knows how much is left, and keeps the numbers when it is cleared."""
    shown = Shown(capacity=1, total=4)
    assert shown.board.is_crowded
    assert shown.board.fraction == 0.0
    lines = [ProgressLine(shown, str(number)) for number in range(2)]
    lines[1].update("pending")
    await asyncio.sleep(60)
    lines[0].finish("done")
    shown.board.clear()
    assert shown.board.fraction == 0.25
    assert shown.board.summary() == "1 of 4 done, 1 running, about 3 min left"
    assert shown.board.seconds == pytest.approx(60)


def test_more_tasks_than_expected() -> None:
    """More tasks than the total are all of it."""
    shown = Shown(total=1)
    for _ in range(2):
        ProgressLine(shown, "a").finish("done")
    assert shown.board.fraction == 1.0
    assert shown.board.summary() == "2 of 1 done"


def test_fraction_without_a_total() -> None:
    """Without a total, how much has ended is not known."""
    assert Shown().board.fraction is None
