"""The errors of responses that are not successful.

What a response proves is decided in :mod:`kling_async.protocol.verdicts`. Here the error is chosen
by the HTTP status and the envelope's ``code``, and its message is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from kling_async._utils.text import one_line
from kling_async.errors import (
    BODY_EXCERPT,
    APIError,
    AuthenticationError,
    BadRequestError,
    BalanceError,
    ContractError,
    NotFoundError,
    RateLimitError,
    RefusedError,
    ServerError,
)
from kling_async.protocol.verdicts import CONSEQUENCES, Verdict, envelope_code, judge_response

if TYPE_CHECKING:
    from kling_async.protocol.requests import Request, Response

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


def check_envelope(
    request: Request, response: Response, envelope: Mapping[str, object], now: datetime
) -> None:
    """Raise the error for a response, unless it is successful.

    Args:
        request: The request.
        response: The response.
        envelope: The JSON object of its body; empty if the body is anything else.
        now: The present moment, for ``Retry-After``.

    Raises:
        APIError: The service rejected the request.
        ContractError: The response is neither a success nor a rejection.
    """
    message = one_line(_message(envelope), response.secret)
    submitting = request.kind == "submit"
    verdict = judge_response(response.status, envelope, message, submitting=submitting)
    if verdict is Verdict.ANSWERED:
        return
    code = envelope_code(envelope, response.status)
    said = code if code is not None and response.status in _OK else response.status
    from_gateway = code is None and response.status != _TOO_MANY
    if said not in _FAILURES or (from_gateway and said not in _SERVER):
        reason = _NO_ENVELOPE if code is None else f"it has the code {code}"
        if response.status in _REDIRECTS:
            reason = f"it is a redirect, and those are not followed; {reason}"
        raise contract_error(request, response, reason, verdict)
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


def contract_error(
    request: Request, response: Response, reason: str, verdict: Verdict = Verdict.UNKNOWN
) -> ContractError:
    """Return the error for a response that cannot be understood."""
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


def _cost_and_repetition(request: Request, verdict: Verdict) -> tuple[bool, bool]:
    """Return whether a request may have cost money, and whether it may be repeated."""
    consequence = CONSEQUENCES[verdict]
    if request.kind == "submit":
        return consequence.may_have_charged, consequence.repeated
    return False, consequence.read_repeated


def _message(envelope: Mapping[str, object]) -> str:
    """Return the service's message and the detail that may be beside it in a 400."""
    data = envelope.get("data")
    detail = data.get("error") if isinstance(data, dict) else None
    texts = (text for text in (envelope.get("message"), detail) if isinstance(text, str) and text)
    return ": ".join(texts)
