from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import pytest

from kling_async import (
    AnswerLostError,
    ConnectError,
    DownloadError,
    MasterTextToVideo,
    Outcome,
    Result,
    TaskFailedError,
    TaskRef,
    TaskTimeoutError,
)
from kling_async.batch.options import BatchOptions
from kling_async.cli.outcomes import (
    STATE_NAMES,
    batch_options_from,
    format_counts,
    format_states,
    outcome_name,
    print_outcome,
    print_outcome_or_error,
    state_lines,
)
from kling_async.cli.output import Output
from kling_async.journal.base import ItemState

FOX = MasterTextToVideo("a fox")
REF = TaskRef("kling-2-1", "task_1")
RESULT = Result(REF, ("https://example.com/a.mp4",))
LOST = AnswerLostError("no", may_have_charged=True)


@pytest.mark.parametrize(
    ("outcome", "name"),
    [
        (Outcome(0, FOX, REF, RESULT), "finished"),
        (Outcome(0, FOX, REF, RESULT, files=(Path("a.mp4"),)), "saved"),
        (Outcome(0, FOX, REF, RESULT, archived=("s3://bucket/a.mp4",)), "saved"),
        (Outcome(0, FOX, REF, RESULT, DownloadError("no")), "not saved"),
        (Outcome(0, FOX, REF, error=TaskFailedError("no")), "failed"),
        (Outcome(0, FOX, REF, error=TaskTimeoutError("no")), "not ended"),
        (Outcome(0, FOX, error=ConnectError("no")), "failed"),
        (Outcome(0, FOX, error=LOST), "unsure"),
    ],
)
def test_names_of_outcomes(outcome: Outcome, name: str) -> None:
    """Every outcome has one name."""
    assert outcome_name(outcome) == name


def test_outcomes_for_a_reader(capsys: pytest.CaptureFixture[str]) -> None:
    """Results are lines with the key and the files or URLs; errors are printed elsewhere."""
    output = Output(json=False)
    print_outcome(output, Outcome(0, FOX, REF, RESULT, key="a\x1b"))
    print_outcome(output, Outcome(0, FOX, REF, RESULT, files=(Path("b.mp4"),), key="b"))
    print_outcome(output, Outcome(0, FOX, error=LOST, key="c"))
    assert capsys.readouterr() == ("a\\x1b\thttps://example.com/a.mp4\nb\tb.mp4\n", "")


def test_errors_for_a_reader(capsys: pytest.CaptureFixture[str]) -> None:
    """An error is on stderr with its key; with JSON, it is in the object of its outcome."""
    failed = Outcome(0, FOX, error=LOST, key="a")
    print_outcome_or_error(Output(json=False), failed)
    assert capsys.readouterr() == ("", "kling-async: a: no\n")
    print_outcome_or_error(Output(json=True), failed)
    assert capsys.readouterr().err == ""


def test_options_of_a_batch() -> None:
    """Options that a command has replace the defaults."""
    args = argparse.Namespace(max_tasks=3, download_to=Path("v"), journal="other")
    assert batch_options_from(args) == BatchOptions(max_tasks=3, download_to=Path("v"))


def test_states_that_occur() -> None:
    """Only states with items are listed, the good ones first."""
    counts = {ItemState.UNSURE: 1, ItemState.SAVED: 1200, ItemState.FAILED: 0}
    assert format_states(counts) == "1,200 saved, 1 unsure"
    assert format_states({}) == "nothing"
    assert state_lines(Counter(counts)) == ["saved          1,200", "unsure             1"]
    assert format_counts({"saved": 2, "failed": 0}) == "2 saved"


def test_every_state_has_a_name() -> None:
    """No state is missing."""
    assert set(STATE_NAMES) == set(ItemState)
