from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from kling_async.cli.callback_log import (
    LogEntry,
    describe_problem,
    entry_columns,
    entry_fields,
    read_callback,
    shorten_tokens,
)
from kling_async.errors import ContractError
from kling_async.protocol.callbacks import write_token

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TOKEN = write_token("kling-2-1", "nonce-of-sixteen", b"a secret of ours")
PATH = f"/kling/{TOKEN}"
URL = "https://cdn.example.com/a.mp4?Signature=abc~def"


def body(**data: object) -> bytes:
    """Write a callback."""
    return json.dumps({"code": 200, "message": "success", "data": data}).encode()


def success(path: str = PATH) -> LogEntry:
    """Return the log entry of a good callback."""
    said = body(taskId="task_1", state="success", resultJson=json.dumps({"resultUrls": [URL]}))
    return LogEntry(AT, "POST", path, len(said), 200, read_callback(path, said))


def test_a_success_in_columns() -> None:
    """A success has its task, its URLs in full, its size, its path and our answer."""
    entry = success()
    assert entry_columns(entry) == (
        "task_1",
        "success",
        URL,
        f"{entry.size_bytes} bytes, POST /kling/kling-2-1~nonc…, answered 200",
    )


@pytest.mark.parametrize(
    ("data", "state", "words"),
    [
        ({"state": "failed", "failCode": "NSFW", "failMsg": "no"}, "failed", "NSFW: no"),
        ({"state": "failed", "failCode": "NSFW"}, "failed", "NSFW"),
        ({"state": "failed"}, "failed", "no fail code"),
        ({"state": "success"}, "success", "no result URLs"),
        ({"state": "pending"}, "pending", "has not ended"),
        ({"state": "processing_r2"}, "processing_r2", "has not ended"),
    ],
)
def test_other_ends_in_columns(data: dict[str, object], state: str, words: str) -> None:
    """A failure has its code; what is missing or has not ended is named."""
    entry = evolve(success(), snapshot=read_callback(PATH, body(taskId="task_1", **data)))
    assert entry_columns(entry)[:3] == ("task_1", state, words)


def test_repeated_callbacks_are_counted() -> None:
    """From the second on, the number of callbacks of the task is shown."""
    assert entry_columns(evolve(success(), times=3))[3].endswith(", 3 times so far")
    assert entry_fields(evolve(success(), times=3))["times"] == 3


def test_no_callback_in_columns() -> None:
    """Anything but a callback has its problem; anything but a request has no method."""
    entry = LogEntry(AT, "GET", "/", status=405, problem="not a POST")
    assert entry_columns(entry) == (
        "-",
        "no callback",
        "not a POST",
        "0 bytes, GET /, answered 405",
    )
    assert entry_columns(LogEntry(AT, problem="too slow"))[3] == "0 bytes, not answered"


def test_a_success_as_fields() -> None:
    """For programs, a callback has the fields of a status, and those of the request."""
    fields = entry_fields(success())
    assert fields["at"] == "2026-01-02T03:04:05+00:00"
    assert fields["path"] == "/kling/kling-2-1~nonc…"
    assert (fields["method"], fields["answered"], fields["problem"]) == ("POST", 200, None)
    assert (fields["task_id"], fields["ref"]) == ("task_1", "kling-2-1/task_1")
    assert (fields["state"], fields["result_urls"]) == ("success", [URL])


def test_without_a_token_the_model_is_not_known() -> None:
    """A path without a token names no model, so the task has no reference."""
    fields = entry_fields(success("/anything"))
    assert (fields["task_id"], fields["ref"]) == ("task_1", None)


def test_no_callback_as_fields() -> None:
    """For programs, what is no callback has its problem and no task."""
    fields = entry_fields(LogEntry(AT, "GET", PATH, status=405, problem=f"not a POST to {PATH}"))
    assert fields == {
        "at": "2026-01-02T03:04:05+00:00",
        "method": "GET",
        "path": "/kling/kling-2-1~nonc…",
        "size_bytes": 0,
        "answered": 405,
        "problem": "not a POST to /kling/kling-2-1~nonc…",
    }


@given(st.text(), st.text(), st.binary(max_size=50))
def test_nothing_unprintable_and_no_token_is_shown(path: str, problem: str, sent: bytes) -> None:
    """Whatever came, columns are of one line, hold no control character and no token of ours."""
    try:
        entry = LogEntry(AT, "POST", path + PATH, snapshot=read_callback(path, sent))
    except ContractError as error:
        problem = f"{describe_problem(sent, error)} {problem} {TOKEN}"
        entry = LogEntry(AT, "POST", path + PATH, problem=problem)
    text = "".join(entry_columns(entry))
    assert text.isprintable()
    assert TOKEN[-32:] not in text
    assert TOKEN[-32:] not in json.dumps(entry_fields(entry))


@pytest.mark.parametrize(
    ("path", "short"),
    [
        (f"/{TOKEN}", "/kling-2-1~nonc…"),
        (f"/a/{TOKEN}/b", "/a/kling-2-1~nonc…/b"),
        (f"/{TOKEN[:-5]}%7E", "/kling-2-1~nonc…"),
        (f"x{TOKEN}x", "xkling-2-1~nonc…"),
        ("/kling-2-1~", "/kling-2-1~…"),
        ("/~user/kling", "/~user/kling"),
        ("/kling", "/kling"),
    ],
)
def test_tokens_are_shorten_tokens(path: str, short: str) -> None:
    """Whatever looks like a token, whole or not, is cut to the model and four letters."""
    assert shorten_tokens(path) == short


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"", "the body is empty"),
        (b" \n", "the body is empty"),
        (b"<html>\x1b[31m", r"the body is not JSON: Expecting value: line 1 column 1 (char 0); it"),
        (b"<html>\x1b[31m", r"begins '<html>\x1b[31m'"),
        (b"\xc3\x28", "the body is not JSON: "),
        (b"[" * 50_000, "the body is nested too deeply; it begins '[[[["),
        (b"[]", "it is not a JSON object; it begins '[]'"),
        (b'{"data": {"state": "success"}}', "it names no task"),
        (b'{"data": {"taskId": "a b", "state": "success"}}', "it names no task"),
        (b'{"data": {"taskId": "a"}}', "it names no state"),
        (b'{"taskId": "a", "state": "success"}', "its data is not an object"),
        (body(taskId="a", state="success", resultJson="{"), "against the contract"),
        (b"x" * 100, f"it begins '{'x' * 60}'"),
    ],
)
def test_problems(sent: bytes, words: str) -> None:
    """The problem of a body is described in a few words, with its start."""
    with pytest.raises(ContractError) as caught:
        read_callback(PATH, sent)
    assert words in describe_problem(sent, caught.value)


def test_a_long_column_is_cut() -> None:
    """A body of many kilobytes makes no line of many kilobytes."""
    fields = entry_columns(LogEntry(AT, problem="x" * 100_000))[2]
    assert fields == f"{'x' * 999}…"
    assert entry_columns(LogEntry(AT, problem="x" * 1000))[2] == "x" * 1000
