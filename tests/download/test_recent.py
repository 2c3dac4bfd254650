from __future__ import annotations

from datetime import UTC, datetime

from kling_async import TaskRef
from kling_async.download import recent
from kling_async.download.recent import Recent


def ref(number: int) -> TaskRef:
    """Make the reference of a task."""
    return TaskRef("kling-2-1", f"task_{number}")


def test_the_last_moment_counts() -> None:
    """What is remembered is when the end of a task was noticed last."""
    tasks = Recent()
    assert tasks.ended_at(ref(1)) is None
    tasks.note(ref(1))
    between = datetime.now(UTC)
    tasks.note(ref(1))
    seen = tasks.ended_at(ref(1))
    assert seen is not None
    assert between <= seen <= datetime.now(UTC)


def test_the_latest_are_remembered() -> None:
    """A process that lives long does not remember all tasks."""
    tasks = Recent()
    tasks.note(ref(0))
    for number in range(1, recent._MOST):  # noqa: SLF001 - the number is nobody else's
        tasks.note(ref(number))
    tasks.note(ref(0))
    assert tasks.ended_at(ref(1)) is not None
    tasks.note(ref(-1))
    assert tasks.ended_at(ref(1)) is None
    assert tasks.ended_at(ref(0)) is not None
