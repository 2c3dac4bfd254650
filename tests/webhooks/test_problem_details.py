from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from kling_async import errors
from kling_async.errors import (
    AnswerLostError,
    APIError,
    BadRequestError,
    ConnectError,
    InputError,
    KlingError,
    Problem,
    RateLimitError,
    RefusedError,
    ServerError,
    TaskFailedError,
    TaskTimeoutError,
)
from kling_async.results import FailReason, TaskRef
from kling_async.webhooks.problem_details import FAILURE_STATUS, PROBLEM_TYPES, to_response

REF = TaskRef("kling-2-1", "task_1")
CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, KlingError)
]
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "fastapi.md"


def read(error: KlingError) -> dict[str, object]:
    """Return the body that answers an error."""
    response = to_response(error)
    body: dict[str, object] = json.loads(response.body)
    assert body["status"] == response.status
    assert response.headers["Content-Type"] == "application/problem+json"
    return body


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_has_a_row(cls: type[KlingError]) -> None:
    """No class of the module is answered by its parent's row for want of one of its own."""
    assert cls in PROBLEM_TYPES
    body = read(cls("what went wrong"))
    assert body["status"] == PROBLEM_TYPES[cls].status
    assert 400 <= PROBLEM_TYPES[cls].status < 600
    assert body["type"] == f"urn:kling-async:{PROBLEM_TYPES[cls].name}"


@pytest.mark.parametrize("reason", FailReason)
def test_every_reason_has_a_status(reason: FailReason) -> None:
    """A failed task is answered by why it failed."""
    body = read(TaskFailedError("x", reason=reason, ref=REF))
    assert (body["status"], body["reason"]) == (FAILURE_STATUS[reason], reason.value)


def test_the_guide_has_the_table() -> None:
    """The tables in the guide are these tables."""
    rows = re.findall(r"^\| (`.+?) \| (\d{3}) \|", GUIDE.read_text("utf-8"), re.MULTILINE)
    table = {name: int(status) for names, status in rows for name in re.findall(r"`(\w+)`", names)}
    assert table == {
        **{
            cls.__name__: row.status
            for cls, row in PROBLEM_TYPES.items()
            if cls is not TaskFailedError
        },
        **{reason.name: status for reason, status in FAILURE_STATUS.items()},
    }


def test_errors_of_users() -> None:
    """A subclass that the table does not know is answered as the nearest class that it knows."""

    class MineError(RateLimitError):
        pass

    assert read(MineError()) == read(RateLimitError())


@pytest.mark.parametrize("cls", [cls for cls, row in PROBLEM_TYPES.items() if not row.quoted])
def test_strangers_learn_nothing(cls: type[KlingError]) -> None:
    """Of what is not the caller's, neither the message nor the service's text is shown."""
    error = cls("no connection to db-7.internal:5432")
    if isinstance(error, APIError):
        error.message = "the plan of db-7.internal ends"
    assert b"db-7" not in to_response(error).body


def test_the_server_itself_has_one_face() -> None:
    """A wrong key looks like a wrong setting, and is not the caller's 401."""
    ours = [cls for cls, row in PROBLEM_TYPES.items() if row.status == 500]
    assert errors.AuthenticationError in ours
    assert len({to_response(cls("x")).body for cls in ours}) == 1


def test_inputs() -> None:
    """The response to a wrong input has every broken rule."""
    problems = [Problem("prompt", "1 to 5000 characters", "''"), Problem("duration", "5", "7")]
    body = read(InputError(problems=problems))
    assert body["problems"] == [
        {"field": "prompt", "rule": "1 to 5000 characters", "seen": "''"},
        {"field": "duration", "rule": "5", "seen": "7"},
    ]
    assert body["detail"] == (
        "No video can be made of this input:"
        " prompt: 1 to 5000 characters (seen: ''); duration: 5 (seen: 7)"
    )


@pytest.mark.parametrize("cls", [BadRequestError, RefusedError])
def test_the_service_on_an_input(cls: type[APIError]) -> None:
    """The response to an input that the service refuses has the service's text, if any."""
    assert str(read(cls("400 from https://x", message="bad prompt"))["detail"]).endswith(
        "input: bad prompt"
    )
    assert str(read(cls("400 from https://x"))["detail"]).endswith("input.")


def test_failed_tasks() -> None:
    """The response to a failed task has its reference, its reason and the service's text."""
    error = TaskFailedError(
        "x", fail_code="NSFW", fail_message="not this", reason=FailReason.CONTENT, ref=REF
    )
    assert read(error) == {
        "type": "urn:kling-async:task-failed",
        "title": "Task failed",
        "status": 422,
        "detail": "The video could not be made: not this",
        "may_have_charged": True,
        "retryable": False,
        "ref": "kling-2-1/task_1",
        "reason": "content",
    }


def test_failures_without_a_reason() -> None:
    """A failed task of which nothing is known failed for an unknown reason."""
    assert read(TaskFailedError("x"))["reason"] == "unknown"


def test_possible_charges() -> None:
    """If a video may have been started and its reference is unknown, the detail says so."""
    lost = read(AnswerLostError("x", may_have_charged=True))
    assert lost["may_have_charged"] is True
    assert "may have been started and charged" in str(lost["detail"])
    for harmless in (AnswerLostError("x"), TaskTimeoutError("x", ref=REF)):
        assert "charged" not in str(read(harmless)["detail"])


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (RateLimitError(retry_after=0.0), "0"),
        (RateLimitError(retry_after=2.1), "3"),
        (RateLimitError(), "60"),
        (RateLimitError(retry_after=1e300), "86400"),
        (RateLimitError(retry_after=float("inf")), "86400"),
        (RateLimitError(retry_after=-1.0), None),
        (RateLimitError(retry_after=float("nan")), None),
        (RateLimitError(may_have_charged=True), None),
        (ServerError(retry_after=5.0), "5"),
        (ServerError(), None),
        (ServerError(retry_after=5.0, may_have_charged=True), None),
        (ConnectError(), None),
    ],
)
def test_retry_after(error: KlingError, wait: str | None) -> None:
    """Retry-After is the service's, or a minute; it is omitted where a caller might pay twice."""
    assert to_response(error).headers.get("Retry-After") == wait


def test_bodies_are_ascii() -> None:
    """A body can be sent whatever the words of the service are."""
    body = to_response(BadRequestError(message="caf\udce9 \N{FOX FACE}")).body
    assert body.isascii()
