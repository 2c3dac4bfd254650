"""Requests, responses and envelopes for the tests of the protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from hypothesis import HealthCheck, settings

from kling_async.errors import (
    APIError,
    ContractError,
    KlingError,
)
from kling_async.inputs.kling_2_1 import MasterTextToVideo
from kling_async.protocol import requests, responses
from kling_async.protocol.requests import Response
from kling_async.results import TaskRef

# No property depends on how fast the machine is, or on luck.
FREELY = settings(
    deadline=None,
    derandomize=True,
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow],
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

FAR = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)

KEY = "sk-4f9aQ7xw2LmZ8vTb6RkY1cNd3HgJ5sPu0EiWqXoDyMz7KtVhBjUlAfGrCn9SeOp"

MODEL = "kling-2-1"

REF = TaskRef(MODEL, "task_12345678")

VIDEO = "https://cdn.example/a.mp4"

SUBMIT = requests.build_submit(MasterTextToVideo("a fox"))

STATUS = requests.build_status(REF)

BALANCE = requests.build_balance()

Reader = Callable[[Response], object]

READERS: dict[str, Reader] = {
    "submit": lambda answer: responses.parse_submit(SUBMIT, answer, MODEL, NOW),
    "status": lambda answer: responses.parse_status(STATUS, answer, REF, NOW),
    "balance": lambda answer: responses.parse_balance(BALANCE, answer, NOW),
}


def answer(
    body: object,
    status: int = 200,
    *,
    headers: Mapping[str, str] | None = None,
    secret: str = KEY,
) -> Response:
    """Make an answer of bytes as they are, or of the JSON of anything else."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status, raw, headers or {}, secret=secret)


def good(data: object) -> Response:
    """Make an answer that says yes."""
    return answer({"code": 200, "message": "success", "data": data})


def outcome(kind: str, response: Response) -> object:
    """Read an answer and give its value, or our error."""
    try:
        return READERS[kind](response)
    except KlingError as error:
        return error


def refusal(kind: str, response: Response) -> KlingError:
    """Return the error that an answer raises."""
    error = outcome(kind, response)
    assert isinstance(error, APIError | ContractError)
    return error


def envelope(code: int | str | None, **more: object) -> dict[str, object]:
    """Make an envelope that says no; a code of None is left out."""
    said: dict[str, object] = {"message": "the service's words", **more}
    return said if code is None else {"code": code, **said}
