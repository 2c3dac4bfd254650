import json
import pickle
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from attrs import evolve

from kling_async.results import (
    FailReason,
    MediaFacts,
    MediaProblem,
    Result,
    SavedFile,
    Snapshot,
    TaskRef,
    TaskState,
)


@pytest.mark.parametrize(
    ("state", "ended"),
    [("pending", False), ("processing", False), ("success", True), ("failed", True)],
)
def test_states(state: str, ended: bool) -> None:  # noqa: FBT001 - a fact from a table
    """Success and failure are the two final states."""
    assert TaskState(state).ended is ended
    assert str(TaskState(state)) == state


def test_no_other_states() -> None:
    """The contract has four states."""
    assert len(TaskState) == 4


def test_reasons_are_small_words() -> None:
    """In logs and JSON, a reason is its value."""
    assert json.dumps(list(FailReason)) == (
        '["content", "content_output", "prompt", "image", "media", "timeout", "unavailable",'
        ' "generation", "balance", "unknown"]'
    )


def test_snapshots_pickle_and_hash() -> None:
    """A snapshot is a value: it pickles, compares and hashes."""
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    ref = TaskRef("kling-2-1", "a")
    snapshot = Snapshot(ref, TaskState.SUCCESS, "success", moment, moment, 1.5, ("https://x/y",))
    again = pickle.loads(pickle.dumps(snapshot))  # noqa: S301 - our own bytes
    assert again == snapshot
    assert hash(again) == hash(snapshot)


def test_result_as_json() -> None:
    """`to_dict` returns plain values: the reference as text, times in ISO 8601, seconds."""
    result = Result(
        TaskRef("kling-2-1", "a"),
        ("https://example.com/a.mp4",),
        created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        completed_at=datetime(2026, 1, 2, 3, 5, 5, 500_000, tzinfo=UTC),
        cost_time=60.5,
    )
    assert json.loads(json.dumps(result.to_dict())) == {
        "ref": "kling-2-1/a",
        "result_urls": ["https://example.com/a.mp4"],
        "created_at": "2026-01-02T03:04:05+00:00",
        "completed_at": "2026-01-02T03:05:05.500000+00:00",
        "cost_time": 60.5,
    }


def test_result_without_times_as_json() -> None:
    """Values that the service did not send are null."""
    assert Result(TaskRef("kling-2-1", "a"), ()).to_dict() == {
        "ref": "kling-2-1/a",
        "result_urls": [],
        "created_at": None,
        "completed_at": None,
        "cost_time": None,
    }


def test_snapshot_as_json() -> None:
    """A snapshot is written with the values of its enums."""
    snapshot = Snapshot(
        TaskRef("kling-2-1", "a"),
        TaskState.FAILED,
        "failed",
        created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        fail_code="NSFW",
        reason=FailReason.CONTENT,
    )
    written = snapshot.to_dict()
    assert written == {
        "ref": "kling-2-1/a",
        "state": "failed",
        "vendor_state": "failed",
        "created_at": "2026-01-02T03:04:05+00:00",
        "completed_at": None,
        "cost_time": None,
        "result_urls": [],
        "fail_code": "NSFW",
        "fail_message": "",
        "reason": "content",
    }
    assert {type(value) for value in written.values()} == {str, list, type(None)}


def test_saved_file_as_json() -> None:
    """A saved file is written with all its fields."""
    saved = SavedFile("https://example.com/a.mp4", "a.mp4", 3, "0" * 64)
    assert saved.to_dict() == {
        "url": "https://example.com/a.mp4",
        "name": "a.mp4",
        "size_bytes": 3,
        "sha256": "0" * 64,
        "media": None,
        "archive": "",
    }
    problems = (MediaProblem.BLACK, MediaProblem.TRUNCATED)
    media = MediaFacts(5.0, 640, 360, 24.0, has_sound=False, problems=problems)
    assert evolve(saved, media=media).to_dict()["media"] == {
        "duration": 5.0,
        "width": 640,
        "height": 360,
        "frame_rate": 24.0,
        "has_sound": False,
        "problems": ["black", "truncated"],
    }


def test_text_of_a_result() -> None:
    """A result is printed as its reference and its URLs."""
    result = Result(TaskRef("kling-2-1", "a"), ("https://x/1.mp4", "https://x/2.mp4"))
    assert str(result) == "kling-2-1/a: https://x/1.mp4 https://x/2.mp4"
    assert repr(result).startswith("Result(ref=kling-2-1/a, result_urls=('https://x/1.mp4', ")


def test_url_of_a_result() -> None:
    """`url` is the first of the URLs."""
    result = Result(TaskRef("kling-2-1", "a"), ("https://x/1.mp4", "https://x/2.mp4"))
    assert result.url == "https://x/1.mp4"
    assert "url" not in result.to_dict()


def test_text_of_a_snapshot() -> None:
    """A snapshot begins with the reference and the state."""
    shown = repr(Snapshot(TaskRef("kling-2-1", "a"), TaskState.FAILED, "failed"))
    assert shown.startswith("Snapshot(ref=kling-2-1/a, state=failed, ")


def test_schemas_are_made_on_request() -> None:
    """Neither pydantic nor what speaks to it is imported before pydantic asks for a schema."""
    code = "import kling_async.results, sys; print('kling_async._utils.pydantic' in sys.modules)"
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, check=True, text=True)
    assert done.stdout == "False\n"
