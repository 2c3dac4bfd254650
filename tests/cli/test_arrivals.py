from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from kling_async.cli.arrivals import Arrival, Seen, columns, fields, problem_of, read, shortened
from kling_async.errors import ContractError
from kling_async.protocol.callbacks import write_token

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TOKEN = write_token("kling-2-1", "nonce-of-sixteen", b"a secret of ours")
PATH = f"/kling/{TOKEN}"
URL = "https://cdn.example.com/a.mp4?Signature=abc~def"


def body(**data: object) -> bytes:
    """Write a callback."""
    return json.dumps({"code": 200, "message": "success", "data": data}).encode()


def success(path: str = PATH) -> Arrival:
    """Give the arrival of a good callback."""
    said = body(taskId="task_1", state="success", resultJson=json.dumps({"resultUrls": [URL]}))
    return Arrival(AT, "POST", path, len(said), 200, read(path, said))


def test_a_success_in_columns() -> None:
    """A success is told with its task, its URLs in full, its size, its path and our answer."""
    arrival = success()
    assert columns(arrival) == (
        "task_1",
        "success",
        URL,
        f"{arrival.size_bytes} bytes, POST /kling/kling-2-1~nonc…, answered 200",
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
    """A failure is told by its code, and what is missing or has not ended is named."""
    arrival = evolve(success(), snapshot=read(PATH, body(taskId="task_1", **data)))
    assert columns(arrival)[:3] == ("task_1", state, words)


def test_repeated_callbacks_are_counted() -> None:
    """From the second on, it is told how often a task was called back."""
    assert columns(evolve(success(), times=3))[3].endswith(", 3 times so far")
    assert fields(evolve(success(), times=3))["times"] == 3


def test_no_callback_in_columns() -> None:
    """What is no callback is told with what is wrong; what was no request has no method."""
    arrival = Arrival(AT, "GET", "/", status=405, problem="not a POST")
    assert columns(arrival) == ("-", "no callback", "not a POST", "0 bytes, GET /, answered 405")
    assert columns(Arrival(AT, problem="too slow"))[3] == "0 bytes, not answered"


def test_a_success_as_fields() -> None:
    """For programs, a callback has the fields of a status, and those of the request."""
    told = fields(success())
    assert told["at"] == "2026-01-02T03:04:05+00:00"
    assert told["path"] == "/kling/kling-2-1~nonc…"
    assert (told["method"], told["answered"], told["problem"]) == ("POST", 200, None)
    assert (told["task_id"], told["ref"]) == ("task_1", "kling-2-1/task_1")
    assert (told["state"], told["result_urls"]) == ("success", [URL])


def test_without_a_token_the_model_is_not_known() -> None:
    """A path without a token names no model, so the task has no reference."""
    told = fields(success("/anything"))
    assert (told["task_id"], told["ref"]) == ("task_1", None)


def test_no_callback_as_fields() -> None:
    """For programs, what is no callback has its problem and no task."""
    told = fields(Arrival(AT, "GET", PATH, status=405, problem=f"not a POST to {PATH}"))
    assert told == {
        "at": "2026-01-02T03:04:05+00:00",
        "method": "GET",
        "path": "/kling/kling-2-1~nonc…",
        "size_bytes": 0,
        "answered": 405,
        "problem": "not a POST to /kling/kling-2-1~nonc…",
    }


@given(st.text(), st.text(), st.binary(max_size=50))
def test_nothing_unprintable_and_no_token_is_told(path: str, problem: str, sent: bytes) -> None:
    """Whatever came, columns are of one line, hold no control character and no token of ours."""
    try:
        arrival = Arrival(AT, "POST", path + PATH, snapshot=read(path, sent))
    except ContractError as error:
        problem = f"{problem_of(sent, error)} {problem} {TOKEN}"
        arrival = Arrival(AT, "POST", path + PATH, problem=problem)
    told = "".join(columns(arrival))
    assert told.isprintable()
    assert TOKEN[-32:] not in told
    assert TOKEN[-32:] not in json.dumps(fields(arrival))


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
def test_tokens_are_shortened(path: str, short: str) -> None:
    """Whatever looks like a token, whole or not, is cut to the model and four letters."""
    assert shortened(path) == short


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"", "the body is empty"),
        (b" \n", "the body is empty"),
        (b"<html>\x1b[31m", r"the body is no JSON: Expecting value: line 1 column 1 (char 0); it"),
        (b"<html>\x1b[31m", r"begins '<html>\x1b[31m'"),
        (b"\xc3\x28", "the body is no JSON: "),
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
    """What is wrong with a body is told in a few plain words, and how it begins."""
    with pytest.raises(ContractError) as caught:
        read(PATH, sent)
    assert words in problem_of(sent, caught.value)


def test_a_long_column_is_cut() -> None:
    """A body of many kilobytes makes no line of many kilobytes."""
    told = columns(Arrival(AT, problem="x" * 100_000))[2]
    assert told == f"{'x' * 999}…"
    assert columns(Arrival(AT, problem="x" * 1000))[2] == "x" * 1000


def test_old_tasks_are_forgotten() -> None:
    """Callbacks are counted by task, and the task that was longest not called is forgotten."""
    seen = Seen(remembered=2)
    assert [seen.count(task) for task in "ababacb"] == [1, 1, 2, 2, 3, 1, 1]
