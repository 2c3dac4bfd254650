"""What your own backend answers when this package raised: one table, and RFC 9457 bodies.

Whose fault it is decides. An input that cannot become a video is the caller's (4xx). A bad key
of yours, a missing package or a wrong setting is not: it is a 500, and a stranger learns nothing
of it. Trouble at the video service is 502, 503 or 504. Whatever may have cost money says so.

The edges do this for you (``answer_errors``); :func:`answer` is for any other framework.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Final

from attrs import frozen

from kling_async import errors
from kling_async.errors import APIError, InputError, KlingError, TaskFailedError
from kling_async.results import FailReason

MEDIA_TYPE: Final = "application/problem+json"

# A longer wait tells a caller no more than this one does: come back some other time.
_LONGEST_WAIT: Final = 86_400.0


@frozen
class Row:
    """What is answered to one kind of error.

    Attributes:
        type: The end of the problem's ``type``, after ``urn:kling-async:``.
        status: The HTTP status.
        detail: What any caller may know.
        quotes: The words of the error, or of the service, follow: they are about the caller's
            own input.
        retry_after: Seconds to name in ``Retry-After`` where the service named none.
    """

    type: str
    status: int
    detail: str
    quotes: bool = False
    retry_after: float | None = None


@frozen
class Answer:
    """A whole answer: status, headers, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


# Rows that several errors share, so that a stranger cannot tell those apart.
_INTERNAL = Row("internal-error", 500, "The server met an error of its own.")
_UNAVAILABLE = Row("unavailable", 503, "No videos can be made at the moment.")
_SERVICE = Row("service-error", 502, "The video service gave no usable answer.")
_NO_ANSWER = Row("no-answer", 504, "The video service did not answer.")
_INVALID = Row("invalid-input", 422, "No video can be made of this input.", quotes=True)
_REFUSED = Row("refused", 422, "The video service refuses this input.", quotes=True)

TABLE: Final[Mapping[type[KlingError], Row]] = {
    KlingError: _INTERNAL,
    errors.ConfigurationError: _INTERNAL,
    InputError: _INVALID,
    errors.ClientClosedError: _UNAVAILABLE,  # the backend is being stopped
    errors.RequestError: _SERVICE,
    errors.ConnectError: _SERVICE,
    errors.AnswerLostError: _NO_ANSWER,
    errors.ContractError: _SERVICE,
    APIError: _SERVICE,
    errors.BadRequestError: _INVALID,
    # Never 401: that would be about the caller's own key or login.
    errors.AuthenticationError: _INTERNAL,
    errors.BalanceError: _UNAVAILABLE,
    # Also what a key without permission meets, but that is met once, and content every day.
    errors.RefusedError: _REFUSED,
    errors.NotFoundError: Row("not-found", 404, "No such model or video."),
    # Never 429: it is the account that is too busy, not this caller. Its limits count a minute.
    errors.RateLimitError: Row("busy", 503, "Too many videos are being made.", retry_after=60.0),
    errors.ServerError: _SERVICE,
    errors.TaskError: _SERVICE,
    TaskFailedError: Row("task-failed", 502, "The video could not be made.", quotes=True),
    errors.TaskTimeoutError: Row("still-running", 504, "The video is not ready yet; it goes on."),
    errors.DownloadError: Row("download-failed", 502, "The video could not be fetched."),
    errors.ResultExpiredError: Row("result-expired", 410, "The video is no longer kept."),
    errors.JournalError: _INTERNAL,
    errors.LimiterError: _UNAVAILABLE,
    errors.MissingExtraError: _INTERNAL,
}
"""The row of each class of :mod:`kling_async.errors`; a subclass of yours has its parent's."""

FAILED: Final[Mapping[FailReason, int]] = {
    FailReason.CONTENT: 422,
    FailReason.CONTENT_OUTPUT: 502,
    FailReason.PROMPT: 422,
    FailReason.IMAGE: 422,
    FailReason.MEDIA: 422,
    FailReason.TIMEOUT: 504,
    FailReason.UNAVAILABLE: 503,
    FailReason.GENERATION: 502,
    FailReason.BALANCE: 503,
    FailReason.UNKNOWN: 502,
}
"""The status of a task that failed, by its reason."""


def row_of(error: KlingError) -> Row:
    """Return the row of an error's class, or of the nearest one above it."""
    return next(TABLE[cls] for cls in type(error).__mro__ if cls in TABLE)


def answer(error: KlingError) -> Answer:
    """Say what to answer to the caller of a backend in which an error was raised.

    The body is an ``application/problem+json`` object (RFC 9457) with ``type``, ``title``,
    ``status``, ``detail``, ``may_have_charged`` and ``retryable``; and, where they exist,
    ``ref``, ``reason`` and ``problems``.
    """
    row = row_of(error)
    status = row.status
    fields: dict[str, object] = {
        "type": f"urn:kling-async:{row.type}",
        "title": row.type.replace("-", " ").capitalize(),
        "detail": _detail(row, error),
        "may_have_charged": error.may_have_charged,
        "retryable": error.retryable,
    }
    if error.ref is not None:
        fields["ref"] = str(error.ref)
    if isinstance(error, TaskFailedError):
        reason = error.reason or FailReason.UNKNOWN
        fields["reason"] = reason.value
        status = FAILED[reason]
    if isinstance(error, InputError):
        fields["problems"] = [
            {"field": problem.field, "rule": problem.rule, "seen": problem.seen}
            for problem in error.problems
        ]
    headers = {"Content-Type": MEDIA_TYPE}
    if (wait := _wait(row, error)) is not None:
        headers["Retry-After"] = str(wait)
    return Answer(status, headers, json.dumps({**fields, "status": status}).encode())


def _detail(row: Row, error: KlingError) -> str:
    detail = row.detail
    if row.quotes and (words := _words(error).strip()):
        detail = f"{detail.removesuffix('.')}: {words}"
    if error.may_have_charged and error.ref is None:
        detail += " One may have been started and charged: look before you send this again."
    return detail


def _words(error: KlingError) -> str:
    if isinstance(error, TaskFailedError):
        return error.fail_message
    return error.message if isinstance(error, APIError) else str(error)


def _wait(row: Row, error: KlingError) -> int | None:
    """Return the whole seconds to wait, unless sending it again may cost money twice."""
    named = error.retry_after if isinstance(error, APIError) else None
    wait = row.retry_after if named is None else named
    if wait is None or not wait >= 0 or error.may_have_charged:
        return None
    return math.ceil(min(wait, _LONGEST_WAIT))
