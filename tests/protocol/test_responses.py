import json
import math
import pickle
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kling_async.errors import (
    APIError,
    ContractError,
    KlingError,
    TaskFailedError,
)
from kling_async.protocol import responses
from kling_async.protocol.requests import Response
from kling_async.results import FailReason, Result, Snapshot, TaskRef, TaskState
from tests.protocol.answers import (
    FREELY,
    KEY,
    MODEL,
    NOW,
    READERS,
    REF,
    STATUS,
    SUBMIT,
    VIDEO,
    answer,
    envelope,
    good,
    outcome,
    refusal,
)


def snapshot(data: object) -> Snapshot:
    """Read a good status answer."""
    return responses.parse_status(STATUS, good(data), REF, NOW)


# ------------------------------------------------------------------------------ good answers


def test_submit() -> None:
    """The answer to a submit gives the task's reference, under the model it was sent to."""
    read = responses.parse_submit(SUBMIT, good({"taskId": "task_12345678"}), MODEL, NOW)
    assert read == TaskRef(MODEL, "task_12345678")


@pytest.mark.parametrize("task_id", ["0123456789abcdef0123456789abcdef", "a/b?c", 12345678])
def test_opaque_ids(task_id: object) -> None:
    """Task ids are opaque: whatever can be stored is taken, also a number."""
    assert outcome("submit", good({"taskId": task_id})) == TaskRef(MODEL, str(task_id))


@pytest.mark.parametrize(
    ("envelope", "status"),
    [
        ({"code": 200, "data": {"taskId": "a"}}, 200),
        ({"code": "200", "data": {"taskId": "a"}}, 200),
        ({"code": None, "data": {"taskId": "a"}}, 200),
        ({"data": {"taskId": "a"}}, 200),
        ({"code": 201, "data": {"taskId": "a"}}, 200),
        ({"code": 200, "data": {"taskId": "a"}}, 202),
    ],
)
def test_tolerated_envelopes(envelope: object, status: int) -> None:
    """The code may be missing, null, or written as text, and any 2xx is good."""
    assert outcome("submit", answer(envelope, status)) == TaskRef(MODEL, "a")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings(encoding: str) -> None:
    """JSON is read in every encoding that it may have."""
    raw = json.dumps({"code": 200, "data": {"taskId": "ä"}}, ensure_ascii=False).encode(encoding)
    assert outcome("submit", answer(raw)) == TaskRef(MODEL, "ä")


@pytest.mark.parametrize("dollars", [74.87, 0, 0.0, -1.5, 12, 10**15])
def test_balance(dollars: float) -> None:
    """The balance is a bare number of dollars."""
    read = outcome("balance", good(dollars))
    assert read == dollars
    assert isinstance(read, float)


@pytest.mark.parametrize(
    "data", [None, True, "74.87", {}, [74.87], {"balance": 1}, math.nan, math.inf, 10**400]
)
def test_no_balance(data: object) -> None:
    """What is no finite number is no balance."""
    error = refusal("balance", good(data))
    assert isinstance(error, ContractError)
    assert "balance answered HTTP 200 against the contract: its data is not a number;" in str(error)


@pytest.mark.parametrize("state", ["pending", "processing"])
def test_running(state: str) -> None:
    """A task that runs has a state and the time it was accepted."""
    data = {"taskId": REF.task_id, "state": state, "createTime": 1_700_000_000_000}
    assert snapshot(data) == Snapshot(
        REF,
        TaskState(state),
        state,
        created_at=datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
    )


@pytest.mark.parametrize("state", ["processing_r2", "queued", "SUCCESS", "0", "🦊"])
def test_unknown_states_run(state: str) -> None:
    """A state that is not known is still running, and is kept in the service's own word."""
    read = snapshot({"taskId": REF.task_id, "state": state, "resultJson": None})
    assert (read.state, read.vendor_state) == (TaskState.PROCESSING, state)
    assert not read.state.ended


@pytest.mark.parametrize("result", [{"resultUrls": [VIDEO]}, json.dumps({"resultUrls": [VIDEO]})])
def test_success(result: object) -> None:
    """A finished task has URLs, times, and its cost in seconds."""
    data = {
        "taskId": REF.task_id,
        "state": "success",
        "resultJson": result,
        "costTime": 65_500,
        "createTime": 1_700_000_000_000,
        "completeTime": 1_700_000_065_500,
    }
    created = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert snapshot(data) == Snapshot(
        REF,
        TaskState.SUCCESS,
        "success",
        created_at=created,
        completed_at=created + timedelta(seconds=65.5),
        cost_time=65.5,
        result_urls=(VIDEO,),
    )


def test_success_without_cost() -> None:
    """A missing costTime is no error."""
    read = snapshot({"state": "success", "resultJson": {"resultUrls": [VIDEO]}})
    assert read.cost_time is None
    assert read.result_urls == (VIDEO,)


def test_failure() -> None:
    """A failed task has the vendor's code and words, and our reason."""
    read = snapshot({"state": "failed", "failCode": "NSFW", "failMsg": "no", "completeTime": 1})
    assert (read.state, read.fail_code, read.fail_message) == (TaskState.FAILED, "NSFW", "no")
    assert read.reason is FailReason.CONTENT
    assert snapshot({"state": "failed"}).reason is FailReason.UNKNOWN


@pytest.mark.parametrize("state", ["pending", "processing", "failed"])
def test_urls_and_reasons_only_where_due(state: str) -> None:
    """URLs belong to success and reasons to failure alone."""
    read = snapshot({"state": state, "resultJson": {"resultUrls": [VIDEO]}, "failCode": "NSFW"})
    assert read.result_urls == ()
    assert (read.reason is None) is (state != "failed")
    assert snapshot({"state": "success", "failCode": "NSFW"}).reason is None


# ----------------------------------------------------------------------- answers of other servers


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>502 Bad Gateway</body></html>",
        b'{"code": 200, "data": {"taskId": "task_1',
        b"null",
        b"[]",
        b"{}",
        b'"text"',
        b"200",
        b"\xff\xfe\xfd",
        b"\x00" * 300,
        b"[" * 200_000,
        b'{"code": ' + b"9" * 5000 + b"}",
    ],
)
@pytest.mark.parametrize("kind", READERS)
def test_no_envelope(kind: str, body: bytes) -> None:
    """HTML, cut JSON, or JSON that is no envelope, under a good status, breaks the contract."""
    error = refusal(kind, answer(body))
    assert isinstance(error, ContractError)
    assert "it is not the service's JSON envelope" in str(error)
    assert error.status == 200
    assert error.body == body.decode("utf-8", "replace")[:200]
    assert error.ref == (REF if kind == "status" else None)


@pytest.mark.parametrize("kind", READERS)
def test_a_broken_contract_and_money(kind: str) -> None:
    """An answer that cannot be read may hide a paid task after a submit, and no other time."""
    error = refusal(kind, answer(b"garbage"))
    assert error.may_have_charged is (kind == "submit")
    assert error.retryable is (kind != "submit")
    assert ("a task may have been started and charged" in str(error)) is (kind == "submit")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("kind", READERS)
def test_redirects(kind: str, status: int) -> None:
    """A redirect is not followed; without the envelope it is a gateway's, and costs nothing."""
    page = refusal(kind, answer(b"", status))
    assert (page.may_have_charged, page.retryable) == (False, True)
    error = refusal(kind, answer({"code": 200, "data": {"taskId": "a"}}, status))
    assert (error.may_have_charged, error.retryable) == ((kind == "submit"), (kind != "submit"))
    for one in (page, error):
        assert isinstance(one, ContractError)
        assert one.status == status
        assert "it is a redirect, and those are not followed" in str(one)


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        [],
        "task_1",
        5,
        {"taskId": None},
        {"taskId": ""},
        {"taskId": True},
        {"taskId": 1.5},
        {"taskId": "a b"},
        {"taskId": "\ud800"},
        {"taskId": "x" * 257},
        {"taskid": "a"},
        {"taskId": {"id": "a"}},
    ],
)
def test_submit_without_a_task(data: object) -> None:
    """A submit that was accepted without a usable task id may have been charged."""
    error = refusal("submit", good(data))
    assert isinstance(error, ContractError)
    assert "it names no task; a task may have been started and charged" in str(error)
    assert error.may_have_charged
    assert not error.retryable


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (None, "its data is not an object"),
        ([], "its data is not an object"),
        ("success", "its data is not an object"),
        (5, "its data is not an object"),
        ({}, "it names no state"),
        ({"state": None}, "it names no state"),
        ({"state": ""}, "it names no state"),
        ({"state": ["success"]}, "text expected, not list"),
        ({"state": "pending", "taskId": "another"}, "it is about another task"),
        ({"state": "success", "resultJson": "{"}, "Expecting property name"),
        ({"state": "success", "resultJson": "[1]"}, "resultJson is not an object"),
        ({"state": "success", "resultJson": {"resultUrls": "x"}}, "not a list of strings"),
        *(
            (
                {"state": "success", "resultJson": {"resultUrls": [VIDEO, url]}},
                "a result URL is not an absolute http(s) URL",
            )
            for url in (
                "",
                "a.mp4",
                "/a.mp4",
                "file:///a.mp4",
                "ftp://cdn.example/a.mp4",
                "https://",
                "https://cdn.example:99999/a.mp4",
                "https://cdn.example:0/a.mp4",
                "https://[::1/a.mp4",
                "https://cdn.example/\n",
                "https://cdn.example/\ud800",
            )
        ),
    ],
)
def test_wrong_status_data(data: object, why: str) -> None:
    """A status that cannot mean anything says why; it costs nothing to ask again."""
    error = refusal("status", good(data))
    assert isinstance(error, ContractError)
    assert why in str(error)
    assert (error.retryable, error.may_have_charged, error.ref) == (True, False, REF)


def test_wrong_urls_of_a_running_task() -> None:
    """URLs of a task that still runs are not looked at."""
    read = snapshot({"state": "processing", "resultJson": {"resultUrls": ["soon"]}})
    assert read.state is TaskState.PROCESSING


# ------------------------------------------------------------------------------- any answer

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(st.characters())
    | st.sampled_from(["success", "failed", "[" * 20_000, '{"resultUrls": ["http://x"]}', VIDEO]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
DATA = (
    st.fixed_dictionaries(
        {},
        optional={
            "taskId": st.just(REF.task_id) | JSON,
            "state": st.sampled_from([*TaskState, "processing_r2"]).map(str) | JSON,
            "resultJson": JSON,
            "costTime": JSON,
            "createTime": JSON,
            "completeTime": JSON,
            "failCode": JSON,
            "failMsg": JSON,
            "error": JSON,
        },
    )
    | JSON
)
ENVELOPES = st.fixed_dictionaries(
    {},
    optional={
        "code": st.sampled_from([200, 400, 401, 402, 429, 500, 503, "200"]) | JSON,
        "message": JSON,
        "data": DATA,
    },
)
BODIES = st.one_of(
    st.binary(),
    JSON.map(json.dumps).map(str.encode),
    ENVELOPES.map(json.dumps).map(str.encode),
    ENVELOPES.map(lambda said: json.dumps(said, ensure_ascii=False).encode("utf-8", "replace")),
    st.builds(lambda said, end: json.dumps(said).encode()[:end], ENVELOPES, st.integers(0, 200)),
)
STATUSES = st.sampled_from([200, 201, 302, 400, 401, 404, 429, 500, 503]) | st.integers(0, 999)
HEADERS = st.dictionaries(
    st.just("retry-after") | st.text(), st.text(st.characters()) | st.integers().map(str)
)
VALUES = {"submit": TaskRef, "status": Snapshot, "balance": float}


@pytest.mark.slow
@FREELY
@given(st.sampled_from(list(READERS)), STATUSES, BODIES, HEADERS)
@example("balance", 200, b'{"data": ' + b"9" * 400 + b"}", {})
@example("status", 503, b"", {"retry-after": "Mon, 1 Jan 2024 00:00:00 +99999999999999999999"})
def test_any_answer(kind: str, status: int, body: bytes, headers: dict[str, str]) -> None:
    """Any bytes, under any status and headers, give a value or one of our errors."""
    read = outcome(kind, Response(status, body, headers, secret=KEY))
    if isinstance(read, KlingError):
        assert isinstance(read, APIError | ContractError)
        assert str(read).isprintable()
        assert len(str(read)) < 3000
        assert not (read.retryable and read.may_have_charged)
        if kind == "submit" and status not in range(200, 300):
            assert read.may_have_charged or status in range(300, 500) or status == 503
        again = pickle.loads(pickle.dumps(read))  # noqa: S301 - our own bytes
        assert (type(again), str(again), vars(again)) == (type(read), str(read), vars(read))
    else:
        assert status in range(200, 300)
        assert type(read) is VALUES[kind]
        assert pickle.loads(pickle.dumps(read)) == read  # noqa: S301 - our own bytes


@pytest.mark.slow
@settings(FREELY, max_examples=100)
@given(DATA)
def test_any_snapshot_of_an_ended_task(data: object) -> None:
    """Whatever a status answer says of an ended task, it is a result or one of our errors."""
    read = outcome("status", good(data))
    if isinstance(read, Snapshot) and read.state.ended:
        try:
            ended = responses.result_from(read)
        except (TaskFailedError, ContractError) as error:
            said = str(error)
        else:
            said = str(ended.ref)
            assert all(url.startswith("http") for url in ended.result_urls)
        assert said.isprintable()
        assert len(said) < 1000


# ------------------------------------------------------------------------------ keys are kept


def parts_of_the_key(text: str) -> list[str]:
    """Return the parts of the key in a text that are long enough to reveal it."""
    return [KEY[at : at + 8] for at in range(len(KEY) - 7) if KEY[at : at + 8] in text]


def texts_of(error: BaseException) -> str:
    """Return all texts of an error."""
    return f"{error} {error!r} {vars(error)} {error.__cause__!r}"


@FREELY
@given(
    st.sampled_from(list(READERS)),
    STATUSES,
    st.integers(0, 420),
    st.sampled_from(["x", "é", "語", "🦊", "\x00", ' "'])
    | st.characters(exclude_categories=["Cs"]),
    st.integers(1, 30),
    st.sampled_from(["raw", "message", "error", "code", "data", "state", "failed", "url"]),
)
def test_no_error_shows_the_key(
    kind: str, status: int, before: int, filler: str, times: int, place: str
) -> None:
    """However an answer echoes the key, no error has it, nor a part of it where it was cut."""
    echo = filler * before + KEY * times + filler
    body: object = {
        "raw": echo.encode(),
        "message": envelope(401, message=echo),
        "error": envelope(400, data={"error": echo}),
        "code": {"code": echo},
        "data": envelope(200, data=echo),
        "state": envelope(200, data={"state": echo, "resultJson": echo}),
        "failed": envelope(200, data={"state": "failed", "failCode": echo, "failMsg": echo}),
        "url": envelope(200, data={"state": "success", "resultJson": {"resultUrls": [echo]}}),
    }[place]
    read = outcome(kind, answer(body, status))
    if isinstance(read, Snapshot):
        read = failure(read)
    assert isinstance(read, KlingError)
    assert parts_of_the_key(texts_of(read)) == []


def failure(read: Snapshot) -> KlingError:
    """Give the error that the snapshot of a failed task becomes."""
    with pytest.raises(TaskFailedError) as caught:
        responses.result_from(read)
    return caught.value


def test_snapshots_do_not_show_the_key() -> None:
    """The vendor's words in a snapshot are free of the key, and one printable line."""
    echo = f"a\x1b{KEY}\nb"
    read = snapshot({"state": "failed", "failCode": echo, "failMsg": echo})
    assert (read.fail_code, read.fail_message) == ("a [API key] b", "a [API key] b")
    assert snapshot({"state": echo}).vendor_state == "a [API key] b"


def test_an_answer_does_not_show_its_key() -> None:
    """The repr of an answer does not contain the key."""
    assert KEY not in repr(Response(200, b"", {}, secret=KEY))


def test_excerpt() -> None:
    """An excerpt has 200 characters, whatever the bytes, with the key taken out."""
    assert Response(200, "語".encode() * 300).excerpt == "語" * 200
    assert Response(200, b"\xff" * 300).excerpt == "\ufffd" * 200
    assert answer(b"a " + KEY.encode() + b" b").excerpt == "a [API key] b"
    assert answer(KEY.encode() * 100).excerpt == ("[API key]" * 100)[:200]
    assert answer(b"x" * 199 + KEY.encode()).excerpt == "x" * 199 + "["


# ----------------------------------------------------------------------------------- results


def test_result() -> None:
    """A successful snapshot becomes a result with all that it says."""
    ended = Snapshot(
        REF, TaskState.SUCCESS, "success", NOW, NOW + timedelta(seconds=60), 59.5, (VIDEO, VIDEO)
    )
    assert responses.result_from(ended) == Result(
        REF, (VIDEO, VIDEO), NOW, NOW + timedelta(seconds=60), 59.5
    )


def test_result_without_urls() -> None:
    """A success without URLs is an error that says so, of a task that was paid for."""
    empty = snapshot({"state": "success", "resultJson": '{"resultUrls": []}'})
    with pytest.raises(ContractError) as caught:
        responses.result_from(empty)
    error = caught.value
    assert "kling-2-1/task_12345678 succeeded, and the answer has no result URLs" in str(error)
    assert (error.ref, error.may_have_charged, error.retryable) == (REF, True, False)
    assert error.status == 200


def test_result_of_a_failed_task() -> None:
    """A failed task becomes an error with the vendor's words, our reason and advice."""
    ended = snapshot({"state": "failed", "failCode": "PROCESSING_TIMEOUT", "failMsg": "too slow"})
    error = failure(ended)
    assert isinstance(error, TaskFailedError)
    assert (error.fail_code, error.fail_message) == ("PROCESSING_TIMEOUT", "too slow")
    assert (error.reason, error.ref, error.snapshot) == (FailReason.TIMEOUT, REF, ended)
    assert error.may_have_charged
    assert str(error) == (
        "kling-2-1/task_12345678 failed with PROCESSING_TIMEOUT: too slow"
        " (the service took too long; submitting again may succeed and costs again)"
    )


def test_result_of_a_task_that_failed_silently() -> None:
    """A failed task without code, words or reason is an error all the same."""
    error = failure(Snapshot(REF, TaskState.FAILED))
    assert isinstance(error, TaskFailedError)
    assert error.reason is FailReason.UNKNOWN
    assert str(error) == (
        "kling-2-1/task_12345678 failed with no code (the code is not a known one)"
    )


@pytest.mark.parametrize("field", ["failCode", "failMsg"])
def test_long_failures_are_cut(field: str) -> None:
    """However much the service says of a failure, the error's text stays short."""
    error = failure(snapshot({"state": "failed", field: "x" * 100_000}))
    assert len(str(error)) < 400
