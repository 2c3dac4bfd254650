from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kling_async.protocol.callbacks import Callback, write_token
from kling_async.results import FailReason, Snapshot, TaskRef, TaskState
from kling_async.webhooks.relay._message import MAX_LENGTH, format_line, parse_line

REF = TaskRef("kling-2-1", "task_1")
NONCE = "n" * 16
ID = "0" * 24


@pytest.mark.parametrize(
    "snapshot",
    [
        Snapshot(REF, TaskState.PROCESSING, "processing"),
        Snapshot(
            REF,
            TaskState.SUCCESS,
            "success",
            result_urls=("https://example.com/a.mp4",),
            created_at=datetime(2026, 1, 1, 0, 0, 0, 1000, UTC),
            completed_at=datetime(2026, 1, 1, 0, 1, 1, 234_500, UTC),
            cost_time=60.001,
        ),
        Snapshot(
            REF,
            TaskState.FAILED,
            "failed",
            fail_code="NSFW",
            fail_message="n\u00f6 \U0001f98a",
            reason=FailReason.CONTENT,
        ),
    ],
)
def test_round_trip(snapshot: Snapshot) -> None:
    """Parsing a line gives the snapshot and the nonce that it was formatted from."""
    line = format_line(Callback(snapshot, NONCE))
    assert line.isascii()
    assert "\n" not in line
    parsed = parse_line(line)
    assert parsed == (line[:24], snapshot, NONCE)


def test_ids_differ() -> None:
    """Each line has an id of its own."""
    callback = Callback(Snapshot(REF, TaskState.FAILED, "failed"), NONCE)
    assert format_line(callback) != format_line(callback)


def test_no_proof() -> None:
    """A line does not contain what proves that a URL is ours."""
    line = format_line(Callback(Snapshot(REF, TaskState.FAILED, "failed"), NONCE))
    assert write_token(REF.model, NONCE, b"a secret of the tests").rpartition("~")[2] not in line


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{}",
        f"{ID} {REF.model} {NONCE} {{}}",
        f"{ID} {REF.model} {NONCE} {{\xe4}}",
        f"{ID} {REF.model} {NONCE} [1, 2]",
        f"{ID} ../{REF.model} {NONCE} " + '{"data": {"taskId": "a", "state": "failed"}}',
        f"{ID} {REF.model} {NONCE[1:]} " + '{"data": {"taskId": "a", "state": "failed"}}',
        f"{ID[1:]} {REF.model} {NONCE} " + '{"data": {"taskId": "a", "state": "failed"}}',
        f"{ID} {REF.model} {NONCE} "
        + '{"data": {"taskId": "a", "state": "failed"}}'.ljust(MAX_LENGTH),
    ],
)
def test_invalid_lines(line: str) -> None:
    """A line that no relay has formatted is not parsed."""
    assert parse_line(line) is None
