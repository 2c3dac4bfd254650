from __future__ import annotations

import json
from pathlib import Path

import pytest

from kling_async import (
    DownloadError,
    FailReason,
    InputError,
    Item,
    MasterTextToVideo,
    Outcome,
    Result,
    TaskFailedError,
    TaskRef,
)
from kling_async.batch.decisions import item_of
from kling_async.fleet.serialization import error_dict, item_from, outcome_dict, read, write

FOX = MasterTextToVideo("a fox", duration=10)
REF = TaskRef("kling-2-1", "task_1")


def test_what_was_written_is_read() -> None:
    """A job's payload holds the whole item, and JSON that others can write, too."""
    item = Item("fox", FOX)
    assert read(write(item)) == item
    assert json.loads(write(item)) == {"key": "fox", **FOX.to_dict()}


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (None, "not JSON"),
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "key"),
        (b'{"prompt": "a fox"}', "key"),
        (b'{"key": 1, "mode": "master-text-to-video", "prompt": "a fox"}', "key"),
        (b'{"key": "fox", "mode": "no-such-mode"}', "mode"),
        (b'{"key": "fox", "mode": "master-text-to-video"}', "prompt"),
    ],
)
def test_nonsense_is_refused(payload: bytes | None, said: str) -> None:
    """A payload that is no item is an error that says why."""
    with pytest.raises(InputError, match=said):
        read(payload)


def test_an_input_has_its_content_for_a_key() -> None:
    """An input is an item by what it asks for, and an item is one already."""
    assert item_of(FOX) == item_of(MasterTextToVideo("a fox", duration=10))
    assert item_of(FOX).input == FOX
    assert item_of(Item("fox", FOX)).key == "fox"
    assert item_from("fox", FOX.to_dict()) == Item("fox", FOX)
    with pytest.raises(InputError, match="not an input"):
        item_of("a fox")  # type: ignore[arg-type]


def test_a_result_in_plain_values() -> None:
    """What a task gave is told as the result tells it, with key and files, and can be JSON."""
    result = Result(REF, ("https://example.com/a.mp4",))
    outcome = Outcome(0, FOX, REF, result, key="fox", files=(Path("fox.mp4"),), done_by_other=True)
    told = outcome_dict(outcome)
    assert told == {
        **result.to_dict(),
        "key": "fox",
        "files": ["fox.mp4"],
        "done_by_other": True,
    }
    json.dumps(told)


def test_an_error_in_plain_values() -> None:
    """What went wrong is told beside the result, where there is one."""
    error = TaskFailedError("no", fail_code="NSFW_DETECTED", reason=FailReason.CONTENT, ref=REF)
    told = outcome_dict(Outcome(0, FOX, REF, error=error, key="fox"))
    assert told == {
        "key": "fox",
        "ref": str(REF),
        "files": [],
        "done_by_other": False,
        "error": "TaskFailedError",
        "message": "no",
        "may_have_charged": True,
        "retryable": False,
        "fail_code": "NSFW_DETECTED",
        "reason": "content",
    }
    assert error_dict("fox", error) == told
    lost = DownloadError("it broke off")
    told = outcome_dict(Outcome(0, FOX, REF, Result(REF, ("https://example.com/a.mp4",)), lost))
    assert told["result_urls"] == ["https://example.com/a.mp4"]
    assert told["error"] == "DownloadError"
    assert told["fail_code"] is told["reason"] is None
    assert error_dict("fox", InputError("no"))["ref"] is None
    json.dumps(told)
