from __future__ import annotations

import pytest

from kling_async.limits.shared._learned_cap import LearnedCap, parse_learned_cap
from kling_async.limits.shared.backend import LeaseStatus
from kling_async.limits.task_cap import TaskCap


def status(learned: str = "", *, held: int = 0, confirmed: int = 0) -> LeaseStatus:
    """Return an answer of the backend."""
    return LeaseStatus((), "epoch", learned, held, confirmed)


@pytest.mark.parametrize(("text", "cap"), [("", 7), ("3 abc", 3), ("5 ", 5)])
def test_parse_learned_cap(text: str, cap: int) -> None:
    """Without a text the cap is the limit."""
    assert parse_learned_cap(text, 7) == cap


def test_tasks_of_other_processes_count() -> None:
    """What other processes hold is not asked for, and what they run is not lost by a refusal."""
    cap = TaskCap(10)
    learned = LearnedCap(cap)
    learned.apply(status(held=8, confirmed=8), 2, 0.0)
    assert learned.elsewhere == 6
    assert learned.try_admit(5, 0.0) == 5  # the backend grants no more than `most`
    assert learned.most(5, 2) == 10
    learned.refused(0.0, 2, 0.0)
    assert cap.cap == 8
    learned.apply(status(held=4, confirmed=2), 2, 1.0)
    assert learned.elsewhere == 0
    learned.apply(status(held=9, confirmed=9), None, 2.0)  # tasks of ours have begun or ended
    assert learned.elsewhere == 0


def test_nothing_is_asked_for_too_early() -> None:
    """Before `acquire_at` no slot is asked for."""
    learned = LearnedCap(TaskCap(10))
    learned.acquire_at = 5.0
    assert learned.try_admit(1, 4.0) == 0
    assert learned.try_admit(1, 5.0) == 1


def test_a_refusal_is_reported_until_the_backend_has_it() -> None:
    """The text replaces the one that the backend has; a lost answer changes nothing."""
    learned = LearnedCap(TaskCap(10))
    assert learned.unreported() is None
    learned.refused(0.0, 3, 1.0)
    first = learned.unreported()
    assert first is not None
    assert first[0] == ""
    assert parse_learned_cap(first[1], 10) == 3
    assert learned.unreported() == first
    learned.apply(status(first[1]), 3, 2.0)
    assert learned.unreported() is None
    learned.report_again()
    assert learned.unreported() == first


def test_the_refusal_of_another_process() -> None:
    """Another mark lowers the cap; the same mark with a higher cap raises it."""
    cap = TaskCap(10)
    learned = LearnedCap(cap)
    learned.apply(status("4 abc"), 0, 0.0)
    assert cap.cap == 4
    learned.apply(status("6 abc"), 0, 1.0)
    assert cap.cap == 6
    assert learned.unreported() is None


def test_two_refusals_at_the_same_time() -> None:
    """If another process was faster, the lower cap counts, for both."""
    cap = TaskCap(10)
    learned = LearnedCap(cap)
    learned.refused(0.0, 5, 1.0)
    learned.unreported()
    learned.apply(status("7 abc"), 5, 1.1)
    again = learned.unreported()
    assert again is not None
    assert again[0] == "7 abc"
    assert again[1].startswith("5 ")
    assert "abc" not in again[1]  # another refusal: the other process lowers its cap
    learned.apply(status("3 abc"), 5, 1.2)
    assert cap.cap == 3
    assert learned.unreported() is None
