from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from kling_async.cli.stats import BatchStats, show_stats
from kling_async.errors import AnswerLostError, ConnectError, ServerError
from kling_async.events import Paused, Polled, Retrying, SubmitFailed
from kling_async.inputs.kling_2_1 import MasterTextToVideo
from kling_async.journal.base import ItemState
from kling_async.results import Snapshot, TaskRef, TaskState

REF = TaskRef("kling-2-1", "task_1")
FOX = MasterTextToVideo("a fox")

Capture = pytest.CaptureFixture[str]


class ManualClock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _stats(
    watch: ManualClock, *, rows: int = 10, saving: bool = False, **counts: int
) -> tuple[BatchStats, Counter[ItemState]]:
    stats = BatchStats(rows, saving=saving, expected=600.0, clock=watch)
    counted = Counter({ItemState[name.upper()]: count for name, count in counts.items()})
    stats.counts = lambda: counted
    return stats, counted


def _end(stats: BatchStats, times: int) -> None:
    for _ in range(times):
        stats.on_event(Polled(Snapshot(REF, TaskState.SUCCESS)))
        stats.on_event(Polled(Snapshot(REF, TaskState.PROCESSING)))


def test_before_anything_has_ended() -> None:
    """At first there is the vendor's word on how long it takes, and no rate."""
    watch = ManualClock()
    stats, _ = _stats(watch, submitted=2, submitting=1, planned=1)
    watch.now += 30
    assert stats.to_text() == (
        "0 of 10 done, 2 running, 8 queued, 0 failed, 0 unsure, about 9 min 30 s left"
    )
    watch.now += 600
    assert "left" not in stats.to_text()


def test_rate_and_time_left() -> None:
    """Tasks that end have a rate, and from it follows how long the rest takes."""
    watch = ManualClock()
    stats, _ = _stats(watch, rows=60, finished=8, failed=1, unsure=1, submitted=20)
    _end(stats, 10)
    watch.now += 60
    assert stats.to_text() == (
        "8 of 60 done, 20 running, 30 queued, 1 failed, 1 unsure, 10 a minute, about 5 min left"
    )
    assert stats.fraction_done() == pytest.approx(10 / 60)


def test_rate_is_that_of_late() -> None:
    """What ended long ago no longer counts."""
    watch = ManualClock()
    stats, _ = _stats(watch, submitted=1)
    _end(stats, 1000)
    words = stats.to_text()
    for _ in range(11):
        watch.now += 30
        words = stats.to_text()
    assert "a minute" not in words


def test_results_that_are_not_saved_yet() -> None:
    """With downloads, a finished item is not done; it needs no more generating, either."""
    watch = ManualClock()
    stats, counts = _stats(watch, rows=5, saving=True, finished=2, saved=3)
    assert stats.to_text() == "3 of 5 done, 0 running, 0 queued, 2 to save, 0 failed, 0 unsure"
    assert stats.fraction_done() == 0.6
    counts[ItemState.SAVED] += 2
    del counts[ItemState.FINISHED]
    assert stats.fraction_done() == 1.0


def test_tasks_that_the_file_does_not_name() -> None:
    """Tasks of the journal beyond the rows are counted, too."""
    stats, _ = _stats(ManualClock(), rows=2, finished=2, submitted=1)
    assert stats.to_text().startswith("2 of 3 done, 1 running, 0 queued")


def test_retries_are_reported_once() -> None:
    """Repeated requests are counted, with the last reason, when there were new ones."""
    stats, _ = _stats(ManualClock())
    stats.on_event(Retrying("status", ServerError("first"), 1, 2.0))
    stats.on_event(Retrying("status", ServerError("second"), 1, 2.0))
    assert stats.to_text().endswith(", 2 retries, the last after: second")
    assert "retries" not in stats.to_text()


def test_lost_submits_are_kept() -> None:
    """Submits that may have been charged are kept, and no others."""
    stats, _ = _stats(ManualClock())
    lost = AnswerLostError("lost", may_have_charged=True)
    for event in (SubmitFailed(FOX, lost), SubmitFailed(FOX, ConnectError("no")), Paused(1.0)):
        stats.on_event(event)
    assert stats.unsure == [lost]


def test_nothing_drawn_yet() -> None:
    """Before there are counts, everything is queued."""
    watch = ManualClock()
    stats = BatchStats(3, saving=False, expected=5.0, clock=watch)
    assert stats.to_text().startswith("0 of 3 done, 0 running, 3 queued")
    watch.now += 7
    assert stats.elapsed == 7


def _running_batch() -> BatchStats:
    stats = BatchStats(4, saving=False, expected=60.0, clock=asyncio.get_running_loop().time)
    stats.counts = lambda: Counter({ItemState.FINISHED: 1, ItemState.SUBMITTED: 3})
    return stats


async def test_a_line_now_and_then(capsys: Capture) -> None:
    """Where stderr is no terminal, there is a line every half minute, and one at the end."""
    with show_stats(_running_batch(), "clips.jsonl"):
        await asyncio.sleep(29)
        assert capsys.readouterr() == ("", "")
        await asyncio.sleep(32)
        (first, _) = capsys.readouterr().err.splitlines()
    assert first == "1 of 4 done, 3 running, 0 queued, 0 failed, 0 unsure, about 30 s left"
    assert capsys.readouterr().err.startswith("1 of 4 done")


async def test_silence(capsys: Capture) -> None:
    """Silent, there is nothing."""
    with show_stats(_running_batch(), "clips.jsonl", silent=True):
        await asyncio.sleep(100)
    assert capsys.readouterr() == ("", "")


async def test_errors_pass_through() -> None:
    """What goes wrong meanwhile is not hidden, and nothing is left running."""

    async def fail() -> None:
        with show_stats(_running_batch(), "clips.jsonl"):
            await asyncio.sleep(1)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await fail()
    assert len(asyncio.all_tasks()) == 1
