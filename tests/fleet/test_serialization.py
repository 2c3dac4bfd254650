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
    RawInput,
    Result,
    TaskFailedError,
    TaskRef,
)
from kling_async.batch.decisions import plan_item
from kling_async.fleet.serialization import (
    dump_item,
    error_dict,
    load_item,
    outcome_dict,
    parse_item,
)

FOX = MasterTextToVideo("a fox", duration=10)
REF = TaskRef("kling-2-1", "task_1")


def test_round_trip() -> None:
    """The payload of a job is the whole item, in JSON that other programs can write."""
    item = Item("fox", FOX)
    payload = dump_item(plan_item(item))
    assert load_item(payload) == item
    assert json.loads(payload) == {"key": "fox", **FOX.to_dict()}


def test_raw_inputs() -> None:
    """An item with a raw input is a job like any other."""
    item = Item("fox", RawInput("kling-9", {"key": "its own", "deep": [1.0]}, provider="lab"))
    assert load_item(dump_item(plan_item(item))) == item


@pytest.mark.parametrize(
    ("payload", "message"),
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
def test_invalid_payloads(payload: bytes | None, message: str) -> None:
    """A payload that is not an item is an error that says why."""
    with pytest.raises(InputError, match=message):
        load_item(payload)


def test_parse_item() -> None:
    """An item is made from its key and the fields of its input."""
    assert parse_item("fox", FOX.to_dict()) == Item("fox", FOX)


def test_a_result_in_plain_values() -> None:
    """An outcome has the fields of its result, its key and files, and is valid JSON."""
    result = Result(REF, ("https://example.com/a.mp4",))
    outcome = Outcome(0, FOX, REF, result, key="fox", files=(Path("fox.mp4"),), done_by_other=True)
    fields = outcome_dict(outcome)
    assert fields == {
        **result.to_dict(),
        "key": "fox",
        "files": ["fox.mp4"],
        "archived": [],
        "media": [],
        "done_by_other": True,
    }
    json.dumps(fields)


def test_an_error_in_plain_values() -> None:
    """The fields of an error are beside those of the result, if there is one."""
    error = TaskFailedError("no", fail_code="NSFW_DETECTED", reason=FailReason.CONTENT, ref=REF)
    fields = outcome_dict(Outcome(0, FOX, REF, error=error, key="fox"))
    assert fields == {
        "key": "fox",
        "ref": str(REF),
        "files": [],
        "archived": [],
        "media": [],
        "done_by_other": False,
        "error": "TaskFailedError",
        "message": "no",
        "may_have_charged": True,
        "retryable": False,
        "fail_code": "NSFW_DETECTED",
        "reason": "content",
    }
    assert error_dict("fox", error) == fields
    lost = DownloadError("it broke off")
    fields = outcome_dict(Outcome(0, FOX, REF, Result(REF, ("https://example.com/a.mp4",)), lost))
    assert fields["result_urls"] == ["https://example.com/a.mp4"]
    assert fields["error"] == "DownloadError"
    assert fields["fail_code"] is fields["reason"] is None
    assert error_dict("fox", InputError("no"))["ref"] is None
    json.dumps(fields)
