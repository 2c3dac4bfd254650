from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.trace import NonRecordingSpan, SpanContext

from kling_async.results import TaskRef
from kling_async.telemetry import generations
from kling_async.telemetry.generations import Generation, Generations

if TYPE_CHECKING:
    import pytest


def generation(number: int = 1) -> Generation:
    """Return a generation whose span has a context with a number."""
    return Generation(NonRecordingSpan(SpanContext(number, number, is_remote=False)), {}, 0.0)


def test_a_generation_is_found_by_its_submit_and_then_by_its_task() -> None:
    """The number of the submit finds it until the task has a reference."""
    forgotten: list[Generation] = []
    followed, one, ref = Generations(forgotten.append), generation(), TaskRef("a", "1")
    followed.add(7, one)
    assert followed.find(7) is one
    assert followed.name(7, ref) is one
    assert followed.find(7) is None
    assert followed.find(ref) is one
    assert followed.context(ref) == one.span.get_span_context()
    assert followed.remove(ref) is one
    assert followed.remove(ref) is None
    assert followed.name(7, ref) is None
    assert followed.find(ref) is None
    assert followed.context(ref) == one.span.get_span_context()  # for its download
    assert followed.context(8) is None
    assert forgotten == []


def test_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of too many generations the oldest is forgotten, and of too many contexts."""
    monkeypatch.setattr(generations, "_REMEMBERED", 2)
    forgotten: list[Generation] = []
    followed = Generations(forgotten.append, limit=2)
    all_of_them = [generation(number) for number in range(1, 6)]
    for number, one in enumerate(all_of_them, 1):
        followed.add(number, one)
    assert forgotten == all_of_them[:3]
    assert [followed.context(number) is not None for number in range(1, 6)] == [
        False,
        True,
        True,
        True,
        True,
    ]
