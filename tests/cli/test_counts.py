from __future__ import annotations

from collections import Counter

import pytest

from kling_async.cli.counts import WORDS, Tally, standing
from kling_async.errors import AnswerLostError, ConnectError, ServerError
from kling_async.events import Paused, Polled, Retrying, SubmitFailed
from kling_async.inputs.kling_2_1 import MasterTextToVideo
from kling_async.journal.base import ItemState
from kling_async.results import Snapshot, TaskRef, TaskState

REF = TaskRef("kling-2-1", "task_1")
FOX = MasterTextToVideo("a fox")


class Watch:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _tally(
    watch: Watch, *, rows: int = 10, saving: bool = False, **counts: int
) -> tuple[Tally, Counter[ItemState]]:
    tally = Tally(rows, saving=saving, expected=600.0, clock=watch)
    counted = Counter({ItemState[name.upper()]: count for name, count in counts.items()})
    tally.counts = lambda: counted
    return tally, counted


def _end(tally: Tally, times: int) -> None:
    for _ in range(times):
        tally.hook(Polled(Snapshot(REF, TaskState.SUCCESS)))
        tally.hook(Polled(Snapshot(REF, TaskState.PROCESSING)))


def test_standing_names_what_there_is() -> None:
    """Only states that some stand in are told, the good ones first."""
    counts = {ItemState.UNSURE: 1, ItemState.SAVED: 1200, ItemState.FAILED: 0}
    assert standing(counts) == "1,200 saved, 1 unsure"
    assert standing({}) == "nothing"


def test_every_state_has_a_word() -> None:
    """No state is forgotten."""
    assert set(WORDS) == set(ItemState)


def test_before_anything_has_ended() -> None:
    """At first there is the vendor's word on how long it takes, and no rate."""
    watch = Watch()
    tally, _ = _tally(watch, submitted=2, submitting=1, planned=1)
    watch.now += 30
    assert tally.words() == (
        "0 of 10 done, 2 running, 8 queued, 0 failed, 0 unsure, about 9 min 30 s left"
    )
    watch.now += 600
    assert "left" not in tally.words()


def test_rate_and_time_left() -> None:
    """Tasks that end make a rate, and that tells how long the rest takes."""
    watch = Watch()
    tally, _ = _tally(watch, rows=60, finished=8, failed=1, unsure=1, submitted=20)
    _end(tally, 10)
    watch.now += 60
    assert tally.words() == (
        "8 of 60 done, 20 running, 30 queued, 1 failed, 1 unsure, 10 a minute, about 5 min left"
    )
    assert tally.share() == pytest.approx(10 / 60)


def test_rate_is_that_of_late() -> None:
    """What ended long ago tells nothing of the rate any more."""
    watch = Watch()
    tally, _ = _tally(watch, submitted=1)
    _end(tally, 1000)
    words = tally.words()
    for _ in range(11):
        watch.now += 30
        words = tally.words()
    assert "a minute" not in words


def test_results_that_are_not_saved_yet() -> None:
    """With downloads, a finished item is not done; it needs no more generating, either."""
    watch = Watch()
    tally, counts = _tally(watch, rows=5, saving=True, finished=2, saved=3)
    assert tally.words() == "3 of 5 done, 0 running, 0 queued, 2 to save, 0 failed, 0 unsure"
    assert tally.share() == 0.6
    counts[ItemState.SAVED] += 2
    del counts[ItemState.FINISHED]
    assert tally.share() == 1.0


def test_tasks_that_the_file_does_not_name() -> None:
    """Tasks of the journal beyond the rows are counted, too."""
    tally, _ = _tally(Watch(), rows=2, finished=2, submitted=1)
    assert tally.words().startswith("2 of 3 done, 1 running, 0 queued")


def test_trouble_is_told_once() -> None:
    """Repeated requests are counted, with the last reason, when there were new ones."""
    tally, _ = _tally(Watch())
    tally.hook(Retrying("status", ServerError("first"), 1, 2.0))
    tally.hook(Retrying("status", ServerError("second"), 1, 2.0))
    assert tally.words().endswith(", sent again so far: 2, the last after: second")
    assert "sent again" not in tally.words()


def test_lost_submits_are_kept() -> None:
    """Submits that may have been charged are kept, and no others."""
    tally, _ = _tally(Watch())
    lost = AnswerLostError("lost", may_have_charged=True)
    for event in (SubmitFailed(FOX, lost), SubmitFailed(FOX, ConnectError("no")), Paused(1.0)):
        tally.hook(event)
    assert tally.unsure == [lost]


def test_nothing_drawn_yet() -> None:
    """Before there are counts, everything is queued."""
    watch = Watch()
    tally = Tally(3, saving=False, expected=5.0, clock=watch)
    assert tally.words().startswith("0 of 3 done, 0 running, 3 queued")
    watch.now += 7
    assert tally.elapsed == 7
