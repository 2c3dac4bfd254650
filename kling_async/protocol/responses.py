"""What an answer means: bytes to a value or to one of our errors.

The contract asks for tolerance: HTTP status and the envelope's ``code`` are both checked, a
state that is not known is still running, a gateway's HTML page is trouble of that status. What
cannot be understood is a :class:`ContractError`, never an accident in our own code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from attrs import define, field

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
from kling_async.protocol import verdicts
from kling_async.protocol.converter import read_json, read_status
from kling_async.protocol.failures import advice_on, reason_of
from kling_async.protocol.verdicts import Verdict
from kling_async.results import FailReason, Result, Snapshot, TaskRef, TaskState

if TYPE_CHECKING:
    from kling_async.protocol.converter import StatusData
    from kling_async.protocol.requests import Request

_SUCCESS = 200
_OK = range(200, 300)
_FAILURES = range(400, 600)
_SERVER = range(500, 600)
_TOO_MANY = 429
_REDIRECTS = range(300, 400)

_NO_ENVELOPE = (
    "it is not the service's JSON envelope, but comes from a gateway, a firewall or another server"
    " (check the base URL: its scheme, host and port, and that only /api/v1 follows them)"
)

# How servers answer for a path that they do not know: with these words and no more.
_NO_ROUTE = re.compile(
    r"(error |http )?(404:? ?)?((the )?(requested )?(route|path|page|url|endpoint|resource)"
    r"( was)? )?(not found|does not exist)?[.!]?|cannot (get|post) /.*|no route.*"
    r"|no handler found.*",
    re.IGNORECASE,
)
_WRONG_ADDRESS = (
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

# The advice of each error: whose fault it is and what to do next.
_ADVICE: dict[type[APIError], str] = {
    AuthenticationError: "check the API key",
    BadRequestError: "change the request",
    BalanceError: "top up the account",
    RefusedError: "the content was refused, or the key lacks a permission",
    NotFoundError: "no such model or task; a task is found only under its own model",
    RateLimitError: "too many requests or tasks; wait, then repeat",
    ServerError: "trouble at the service",
}

# What result URLs look like. Such a one is proven at a glance; to take it apart would be a third
# of the time that it takes to read an answer.
_PLAIN_URL = re.compile(r"https?://[a-z0-9][a-z0-9.-]*/[!-~]*")

# An attribute of an enum takes as long to look up as a small function does to run.
_RUNNING, _SUCCEEDED, _FAILED = TaskState.PROCESSING, TaskState.SUCCESS, TaskState.FAILED
_STATES = {state.value: state for state in TaskState}


@define  # a frozen one would take twice as long to make
class Response:
    """One HTTP answer, read to its end.

    Attributes:
        status: The HTTP status.
        body: The bytes of the body, decompressed.
        headers: Names to values; looked up by lower-case names.
        secret: The API key, so that an answer that echoes it is not quoted with it.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = {}
    secret: str = field(default="", repr=False)

    @property
    def excerpt(self) -> str:
        """The first 200 characters of the body, fit to be quoted in an error."""
        # The key goes first: what is cut before could end in a part of it.
        return redact(self.body.decode("utf-8", "replace"), self.secret)[:BODY_EXCERPT]


def _quotable(text: str, secret: str) -> str:
    """Make the service's words fit to be shown: one line, nothing unprintable, no API key."""
    if not text or text in _STATES:
        return text
    # Lone surrogates cannot be printed at all, and a terminal obeys escape sequences.
    shown = text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
    return redact(shown, secret)


def submit(request: Request, response: Response, model: str, now: datetime) -> TaskRef:
    """Read the answer to a submit.

    Raises:
        APIError: The service said no.
        ContractError: No task id can be found; a task may have been started and charged.
    """
    data = _data(request, response, now)
    task_id = data.get("taskId") if isinstance(data, dict) else None
    if isinstance(task_id, int) and not isinstance(task_id, bool):
        task_id = str(task_id)
    try:
        return TaskRef(model, task_id if isinstance(task_id, str) else "")
    except InputError:
        raise _broken(request, response, "it names no task") from None


def status(request: Request, response: Response, ref: TaskRef, now: datetime) -> Snapshot:
    """Read the answer to a status call.

    Raises:
        APIError: The service said no.
        ContractError: The answer cannot be understood.
    """
    data = _data(request, response, now)
    try:
        read = task_data(data)
        if read.task_id not in ("", ref.task_id):
            raise ValueError("it speaks of another task")  # noqa: TRY301 - and is told as one of ours
        return snapshot(ref, read, response.secret)
    except ValueError as error:
        raise _broken(request, response, str(error)) from None


def task_data(data: object) -> StatusData:
    """Read the ``data`` that says how a task stands.

    Raises:
        ValueError: It does not.
    """
    if not isinstance(data, dict):
        raise ValueError("its data is not an object")  # noqa: TRY004 - whatever is wrong with it
    read = read_status(data)
    if not read.state:
        raise ValueError("it names no state")
    return read


def snapshot(ref: TaskRef, read: StatusData, secret: str = "") -> Snapshot:
    """Say what was read in our own words.

    Raises:
        ValueError: A result URL is none.
    """
    state = _STATES.get(read.state, _RUNNING)
    succeeded, failed = state is _SUCCEEDED, state is _FAILED
    if succeeded and not all(map(_is_web_url, read.result.result_urls)):
        raise ValueError("a result URL is not an absolute http(s) URL")
    return Snapshot(
        ref=ref,
        state=state,
        vendor_state=_quotable(read.state, secret),
        created_at=read.created_at,
        completed_at=read.completed_at,
        cost_time=read.cost_time,
        result_urls=read.result.result_urls if succeeded else (),
        fail_code=_quotable(read.fail_code, secret),
        fail_message=_quotable(read.fail_message, secret),
        reason=reason_of(read.fail_code) if failed else None,
    )


def balance(request: Request, response: Response, now: datetime) -> float:
    """Read the balance, in US dollars.

    Raises:
        APIError: The service said no.
        ContractError: The answer holds no number.
    """
    data = _data(request, response, now)
    if isinstance(data, int | float) and not isinstance(data, bool):
        with suppress(OverflowError):  # an integer of hundreds of digits
            if math.isfinite(dollars := float(data)):
                return dollars
    raise _broken(request, response, "its data is not a number")


def result(ended: Snapshot) -> Result:
    """Turn the snapshot of a task that has ended into its result.

    Raises:
        TaskFailedError: The task failed.
        ContractError: The task succeeded and has no result URLs.
    """
    ref = ended.ref
    if ended.state is TaskState.FAILED:
        reason = ended.reason or FailReason.UNKNOWN
        code = ended.fail_code or "no code"
        said = f"{code}: {ended.fail_message}" if ended.fail_message else code
        raise TaskFailedError(
            f"{ref} failed with {said[:BODY_EXCERPT]} ({advice_on(reason)})",
            fail_code=ended.fail_code,
            fail_message=ended.fail_message,
            reason=reason,
            ref=ref,
            snapshot=ended,
        )
    if not ended.result_urls:
        raise ContractError(
            f"{ref} succeeded, and the answer has no result URLs; attach it and ask again later",
            status=200,
            may_have_charged=True,
            ref=ref,
            verdict=Verdict.ANSWERED,
        )
    return Result(
        ref=ref,
        result_urls=ended.result_urls,
        created_at=ended.created_at,
        completed_at=ended.completed_at,
        cost_time=ended.cost_time,
    )


def retry_after(response: Response, now: datetime) -> float | None:
    """Return the seconds that ``Retry-After`` asks for, in either of its two forms."""
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


def _data(request: Request, response: Response, now: datetime) -> object:
    """Open the envelope, or raise what its status or code means."""
    try:
        envelope = read_json(response.body)
    except (ValueError, RecursionError):
        envelope = None
    fields = envelope if isinstance(envelope, dict) else {}
    if response.status == _SUCCESS == fields.get("code"):
        return fields.get("data")
    words = _quotable(_words(fields), response.secret)
    submitting = request.kind == "submit"
    verdict = verdicts.of_answer(response.status, fields, words, submitting=submitting)
    if verdict is Verdict.ANSWERED:
        return fields.get("data")
    raise _refusal(request, response, fields, verdict, now)


def _refusal(
    request: Request,
    response: Response,
    fields: dict[str, object],
    verdict: Verdict,
    now: datetime,
) -> APIError | ContractError:
    """Return the error for an answer that is not a success."""
    code = verdicts.envelope_code(fields, response.status)
    status = response.status
    said = code if code is not None and status in _OK else status
    page = code is None and status != _TOO_MANY
    if said not in _FAILURES or (page and said not in _SERVER):
        why = _NO_ENVELOPE if code is None else f"it has the code {code}"
        if status in _REDIRECTS:
            why = f"it is a redirect, and those are not followed; {why}"
        return _broken(request, response, why, verdict)
    words = _quotable(_words(fields), response.secret)
    kind = _ERRORS.get(said, ServerError if said in _SERVER else BadRequestError)
    if kind is BadRequestError and "insufficient" in words.casefold():
        kind = BalanceError
    advice = _ADVICE[kind]
    if kind is NotFoundError and (request.kind == "balance" or _NO_ROUTE.fullmatch(words)):
        advice = _WRONG_ADDRESS
    words = words[:BODY_EXCERPT]  # after the key is out, so that no part of it is left
    spoken = f": {words}" if words else ""
    charged, retryable = _facts(request, verdict)
    return kind(
        f"{request.kind} answered {said}{spoken} ({_CHARGED if charged else advice})",
        status=status,
        code=status if code is None else code,
        message=words,
        retry_after=retry_after(response, now),
        may_have_charged=charged,
        retryable=retryable,
        ref=request.ref,
        verdict=verdict,
    )


def _facts(request: Request, verdict: Verdict) -> tuple[bool, bool]:
    """Return whether a request may have cost money, and whether it may be repeated."""
    follows = verdicts.CONSEQUENCES[verdict]
    if request.kind == "submit":
        return follows.may_have_charged, follows.repeated
    return False, follows.read_repeated


def _words(fields: Mapping[str, object]) -> str:
    """Return the service's own words: the message and, for a 400, the detail beside it."""
    data = fields.get("data")
    detail = data.get("error") if isinstance(data, dict) else None
    said = [text for text in (fields.get("message"), detail) if isinstance(text, str) and text]
    return ": ".join(said)


def _broken(
    request: Request, response: Response, why: str, verdict: Verdict = Verdict.UNKNOWN
) -> ContractError:
    charged, retryable = _facts(request, verdict)
    return ContractError(
        f"{request.kind} answered HTTP {response.status} against the contract: {why}"
        f"{f'; {_CHARGED}' if charged else ''}; the answer begins {response.excerpt!r}",
        status=response.status,
        body=response.excerpt,
        may_have_charged=charged,
        retryable=retryable,
        ref=request.ref,
        verdict=verdict,
    )


def _is_web_url(url: str) -> bool:
    # A space is quoted when the file is downloaded.
    return bool(_PLAIN_URL.fullmatch(url)) or split_web_url(url.replace(" ", "%20")) is not None
