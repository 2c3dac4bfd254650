"""The meaning of a response: a value, or one of our errors.

A response is successful if both the HTTP status and the envelope's ``code`` are. Unknown states
count as running. Whatever cannot be understood raises a :class:`ContractError`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from attrs import field, frozen

from kling_async._utils.text import redact
from kling_async._utils.urls import split_web_url
from kling_async.errors import (
    BODY_EXCERPT,
    APIError,
    AuthenticationError,
    BadRequestError,
    BalanceError,
    ContractError,
    InputError,
    NotFoundError,
    RateLimitError,
    RefusedError,
    ServerError,
    TaskFailedError,
)
from kling_async.protocol.converter import StatusData, structure_status
from kling_async.protocol.failures import advice_for, reason_for
from kling_async.protocol.verdicts import CONSEQUENCES, Verdict, envelope_code, judge_response
from kling_async.results import FailReason, Result, Snapshot, TaskRef, TaskState

if TYPE_CHECKING:
    from kling_async.protocol.requests import Request

_SUCCESS = 200
_OK = range(200, 300)
_REDIRECTS = range(300, 400)
_FAILURES = range(400, 600)
_SERVER = range(500, 600)
_TOO_MANY = 429

_NO_ENVELOPE = (
    "it is not the service's JSON envelope, but comes from a gateway, a firewall or another server"
    " (check the base URL: its scheme, host and port, and that only /api/v1 follows them)"
)

# The messages of servers for a path that they do not know.
_NO_ROUTE = re.compile(
    r"(error |http )?(404:? ?)?((the )?(requested )?(route|path|page|url|endpoint|resource)"
    r"( was)? )?(not found|does not exist)?[.!]?|cannot (get|post) /.*|no route.*"
    r"|no handler found.*",
    re.IGNORECASE,
)
_WRONG_URL = (
    "nothing was found at this address: check the base URL, and that only /api/v1 follows its host"
    " and port; if it is right, the model or the task is not known"
)
_CHARGED = "a task may have been started and charged"

_ERRORS: dict[int, type[APIError]] = {
    401: AuthenticationError,
    402: BalanceError,
    403: RefusedError,
    404: NotFoundError,
    429: RateLimitError,
}
_ADVICE: dict[type[APIError], str] = {
    AuthenticationError: "check the API key",
    BadRequestError: "change the request",
    BalanceError: "top up the account",
    RefusedError: "the content was refused, or the key lacks a permission",
    NotFoundError: "no such model or task; a task is found only under its own model",
    RateLimitError: "too many requests or tasks; wait, then repeat",
    ServerError: "trouble at the service",
}

_STATES = {state.value: state for state in TaskState}


@frozen
class Response:
    """A complete HTTP response.

    Attributes:
        status: The HTTP status.
        body: The decompressed body.
        headers: Names to values; looked up by lower-case names.
        secret: The API key, which is never shown if the response contains it.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = {}
    secret: str = field(default="", repr=False)

    @property
    def excerpt(self) -> str:
        """The first 200 characters of the body, without the API key."""
        # The key is replaced first: an excerpt could end in a part of it.
        return redact(self.body.decode("utf-8", "replace"), self.secret)[:BODY_EXCERPT]


def parse_submit(request: Request, response: Response, model: str, now: datetime) -> TaskRef:
    """Return the reference of the task that a submit has started.

    Raises:
        APIError: The service rejected the submit.
        ContractError: The response has no task id. A task may have been started and charged.
    """
    data = _parse_envelope(request, response, now)
    task_id = data.get("taskId") if isinstance(data, dict) else None
    if isinstance(task_id, int) and not isinstance(task_id, bool):
        task_id = str(task_id)
    try:
        return TaskRef(model, task_id if isinstance(task_id, str) else "")
    except InputError:
        raise _contract_error(request, response, "it names no task") from None


def parse_status(request: Request, response: Response, ref: TaskRef, now: datetime) -> Snapshot:
    """Return the state of a task.

    Raises:
        APIError: The service rejected the request.
        ContractError: The response cannot be understood.
    """
    data = _parse_envelope(request, response, now)
    try:
        return parse_snapshot(data, ref.model, ref=ref, secret=response.secret)
    except ValueError as error:
        raise _contract_error(request, response, str(error)) from None


def parse_balance(request: Request, response: Response, now: datetime) -> float:
    """Return the balance in US dollars.

    Raises:
        APIError: The service rejected the request.
        ContractError: The response has no number.
    """
    data = _parse_envelope(request, response, now)
    if isinstance(data, int | float) and not isinstance(data, bool):
        with suppress(OverflowError):  # an integer of hundreds of digits
            if math.isfinite(dollars := float(data)):
                return dollars
    raise _contract_error(request, response, "its data is not a number")


def parse_snapshot(
    data: object, model: str, *, ref: TaskRef | None = None, secret: str = ""
) -> Snapshot:
    """Return the state of a task from the ``data`` of a status answer or callback.

    Args:
        data: The ``data``.
        model: The model of the task.
        ref: The task that the status was requested of; otherwise ``data`` must name the task.
        secret: The API key, which is not shown.

    Raises:
        ValueError: The data cannot be understood.
    """
    if not isinstance(data, dict):
        raise ValueError("its data is not an object")  # noqa: TRY004 - malformed data
    read = structure_status(data, StatusData)
    if not read.state:
        raise ValueError("it names no state")
    if ref is None:
        try:
            ref = TaskRef(model, read.task_id)
        except InputError:
            raise ValueError("it names no task") from None
    if read.task_id not in ("", ref.task_id):
        raise ValueError("it is about another task")
    state, urls = _STATES.get(read.state, TaskState.PROCESSING), read.result_urls
    if state is not TaskState.SUCCESS:
        urls = ()
    for url in urls:
        if split_web_url(url.replace(" ", "%20")) is None:  # spaces are quoted for the download
            raise ValueError("a result URL is not an absolute http(s) URL")
    return Snapshot(
        ref=ref,
        state=state,
        vendor_state=read.state if read.state in _STATES else _printable(read.state, secret),
        created_at=read.created_at,
        completed_at=read.completed_at,
        cost_time=read.cost_time,
        result_urls=urls,
        fail_code=_printable(read.fail_code, secret) if read.fail_code else "",
        fail_message=_printable(read.fail_message, secret) if read.fail_message else "",
        reason=reason_for(read.fail_code) if state is TaskState.FAILED else None,
    )


def result_from(snapshot: Snapshot) -> Result:
    """Return the result of a task that has ended.

    Raises:
        TaskFailedError: The task failed.
        ContractError: The task succeeded, but has no result URLs.
    """
    ref = snapshot.ref
    if snapshot.state is TaskState.FAILED:
        reason = snapshot.reason or FailReason.UNKNOWN
        failure = ": ".join(filter(None, (snapshot.fail_code or "no code", snapshot.fail_message)))
        raise TaskFailedError(
            f"{ref} failed with {failure[:BODY_EXCERPT]} ({advice_for(reason)})",
            fail_code=snapshot.fail_code,
            fail_message=snapshot.fail_message,
            reason=reason,
            ref=ref,
            snapshot=snapshot,
        )
    if not snapshot.result_urls:
        raise ContractError(
            f"{ref} succeeded, and the answer has no result URLs; attach it and ask again later",
            status=200,
            may_have_charged=True,
            ref=ref,
            verdict=Verdict.ANSWERED,
        )
    return Result(
        ref=ref,
        result_urls=snapshot.result_urls,
        created_at=snapshot.created_at,
        completed_at=snapshot.completed_at,
        cost_time=snapshot.cost_time,
    )


def parse_retry_after(response: Response, now: datetime) -> float | None:
    """Return the seconds to wait according to ``Retry-After``, in either of its two forms."""
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # the latter for a time zone of twenty digits
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())


def _parse_envelope(request: Request, response: Response, now: datetime) -> object:
    """Return the ``data`` of a successful response, or raise the error for its status or code."""
    try:
        envelope = json.loads(response.body)
    except (ValueError, RecursionError):
        envelope = None
    fields = envelope if isinstance(envelope, dict) else {}
    if response.status == _SUCCESS == fields.get("code"):
        return fields.get("data")
    message = _printable(_message(fields), response.secret)
    submitting = request.kind == "submit"
    verdict = judge_response(response.status, fields, message, submitting=submitting)
    if verdict is Verdict.ANSWERED:
        return fields.get("data")
    code = envelope_code(fields, response.status)
    said = code if code is not None and response.status in _OK else response.status
    from_gateway = code is None and response.status != _TOO_MANY
    if said not in _FAILURES or (from_gateway and said not in _SERVER):
        reason = _NO_ENVELOPE if code is None else f"it has the code {code}"
        if response.status in _REDIRECTS:
            reason = f"it is a redirect, and those are not followed; {reason}"
        raise _contract_error(request, response, reason, verdict)
    kind = _ERRORS.get(said, ServerError if said in _SERVER else BadRequestError)
    if kind is BadRequestError and "insufficient" in message.casefold():
        kind = BalanceError
    charged, retryable = _cost_and_repetition(request, verdict)
    advice = _ADVICE[kind]
    if kind is NotFoundError and (request.kind == "balance" or _NO_ROUTE.fullmatch(message)):
        advice = _WRONG_URL
    advice = _CHARGED if charged else advice
    message = message[:BODY_EXCERPT]
    raise kind(
        f"{request.kind} answered {said}{message and f': {message}'} ({advice})",
        status=response.status,
        code=response.status if code is None else code,
        message=message,
        retry_after=parse_retry_after(response, now),
        may_have_charged=charged,
        retryable=retryable,
        ref=request.ref,
        verdict=verdict,
    )


def _contract_error(
    request: Request, response: Response, reason: str, verdict: Verdict = Verdict.UNKNOWN
) -> ContractError:
    charged, retryable = _cost_and_repetition(request, verdict)
    return ContractError(
        f"{request.kind} answered HTTP {response.status} against the contract: {reason}"
        f"{f'; {_CHARGED}' if charged else ''}; the answer begins {response.excerpt!r}",
        status=response.status,
        body=response.excerpt,
        may_have_charged=charged,
        retryable=retryable,
        ref=request.ref,
        verdict=verdict,
    )


def _cost_and_repetition(request: Request, verdict: Verdict) -> tuple[bool, bool]:
    """Return whether a request may have cost money, and whether it may be repeated."""
    consequence = CONSEQUENCES[verdict]
    if request.kind == "submit":
        return consequence.may_have_charged, consequence.repeated
    return False, consequence.read_repeated


def _message(fields: Mapping[str, object]) -> str:
    """Return the service's message and the detail that may be beside it in a 400."""
    data = fields.get("data")
    detail = data.get("error") if isinstance(data, dict) else None
    texts = (text for text in (fields.get("message"), detail) if isinstance(text, str) and text)
    return ": ".join(texts)


def _printable(text: str, secret: str) -> str:
    """Return a text as one printable line without the API key."""
    # Lone surrogates cannot be printed, and terminals interpret escape sequences.
    line = text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
    return redact(line, secret)
