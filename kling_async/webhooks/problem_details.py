"""HTTP responses of your own backend to errors of this package: one table, and RFC 9457 bodies.

The status depends on whose fault the error is. An input that cannot become a video is the
caller's (4xx). A wrong key, a missing package or a wrong setting is the backend's: a 500 without
details. Failures of the video service are 502, 503 or 504. Every body has ``may_have_charged``.

The adapters do this with ``answer_errors``; :func:`to_response` is for any other framework.
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

# Seconds. A longer wait has no more meaning for a caller.
_MAX_WAIT: Final = 86_400.0


@frozen
class ProblemType:
    """The response to one kind of error.

    Attributes:
        name: The end of the problem's ``type``, after ``urn:kling-async:``.
        status: The HTTP status.
        detail: What any caller may know.
        quoted: The text of the error, or of the service, follows the detail: it is about the
            caller's own input.
        retry_after: Seconds for ``Retry-After`` if the service gave none.
    """

    name: str
    status: int
    detail: str
    quoted: bool = False
    retry_after: float | None = None


@frozen
class ProblemResponse:
    """A response: status, headers, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


# Shared by several errors, so that a stranger cannot distinguish them.
_INTERNAL = ProblemType("internal-error", 500, "The server has an internal error.")
_UNAVAILABLE = ProblemType("unavailable", 503, "No videos can be made at the moment.")
_SERVICE = ProblemType("service-error", 502, "The video service gave no usable answer.")
_NO_ANSWER = ProblemType("no-answer", 504, "The video service did not answer.")
_INVALID = ProblemType("invalid-input", 422, "No video can be made of this input.", quoted=True)
_REFUSED = ProblemType("refused", 422, "The video service refuses this input.", quoted=True)
_BUSY = ProblemType("busy", 503, "Too many videos are being made.", retry_after=60.0)
_FAILED = ProblemType("task-failed", 502, "The video could not be made.", quoted=True)

PROBLEM_TYPES: Final[Mapping[type[KlingError], ProblemType]] = {
    KlingError: _INTERNAL,
    errors.ConfigurationError: _INTERNAL,
    InputError: _INVALID,
    errors.ClientClosedError: _UNAVAILABLE,  # the backend is stopping
    errors.RequestError: _SERVICE,
    errors.ConnectError: _SERVICE,
    errors.AnswerLostError: _NO_ANSWER,
    errors.ContractError: _SERVICE,
    APIError: _SERVICE,
    errors.BadRequestError: _INVALID,
    # Never 401: that would be about the caller's own key or login.
    errors.AuthenticationError: _INTERNAL,
    errors.BalanceError: _UNAVAILABLE,
    # A key without permission gets this, too, but refused content is much more frequent.
    errors.RefusedError: _REFUSED,
    errors.NotFoundError: ProblemType("not-found", 404, "No such model or video."),
    # Never 429: the account has reached its limits, not this caller. They count a minute.
    errors.RateLimitError: _BUSY,
    errors.ServerError: _SERVICE,
    errors.TaskError: _SERVICE,
    TaskFailedError: _FAILED,
    errors.TaskTimeoutError: ProblemType(
        "still-running", 504, "The video is not ready yet; its task continues."
    ),
    errors.DownloadError: ProblemType("download-failed", 502, "The video could not be fetched."),
    errors.ResultExpiredError: ProblemType("result-expired", 410, "The video is no longer kept."),
    errors.JournalError: _INTERNAL,
    errors.LimiterError: _UNAVAILABLE,
    errors.StorageError: _UNAVAILABLE,
    errors.MissingExtraError: _INTERNAL,
}
"""By class of :mod:`kling_async.errors`; your own subclasses have that of their base class."""

FAILURE_STATUS: Final[Mapping[FailReason, int]] = {
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
"""The status of a failed task, by its reason."""


def to_response(error: KlingError) -> ProblemResponse:
    """Return the response to the caller of a backend that raised an error.

    The body is an ``application/problem+json`` object (RFC 9457) with ``type``, ``title``,
    ``status``, ``detail``, ``may_have_charged`` and ``retryable``; and, if known, ``ref``,
    ``reason`` and ``problems``.
    """
    problem = next(PROBLEM_TYPES[cls] for cls in type(error).__mro__ if cls in PROBLEM_TYPES)
    status = problem.status
    fields: dict[str, object] = {
        "type": f"urn:kling-async:{problem.name}",
        "title": problem.name.replace("-", " ").capitalize(),
        "detail": _format_detail(problem, error),
        "may_have_charged": error.may_have_charged,
        "retryable": error.retryable,
    }
    if error.ref is not None:
        fields["ref"] = str(error.ref)
    if isinstance(error, TaskFailedError):
        reason = error.reason or FailReason.UNKNOWN
        fields["reason"] = reason.value
        status = FAILURE_STATUS[reason]
    if isinstance(error, InputError):
        fields["problems"] = [
            {"field": broken.field, "rule": broken.rule, "seen": broken.seen}
            for broken in error.problems
        ]
    headers = {"Content-Type": MEDIA_TYPE}
    wait = error.retry_after if isinstance(error, APIError) else None
    wait = problem.retry_after if wait is None else wait
    # Not if the caller might pay twice. NaN is not >= 0.
    if wait is not None and wait >= 0 and not error.may_have_charged:
        headers["Retry-After"] = str(math.ceil(min(wait, _MAX_WAIT)))
    return ProblemResponse(status, headers, json.dumps({**fields, "status": status}).encode())


def _format_detail(problem: ProblemType, error: KlingError) -> str:
    detail, text = problem.detail, str(error)
    if isinstance(error, TaskFailedError):
        text = error.fail_message
    elif isinstance(error, APIError):
        text = error.message
    if problem.quoted and (text := text.strip()):
        detail = f"{detail.removesuffix('.')}: {text}"
    if error.may_have_charged and error.ref is None:
        detail += " One may have been started and charged: check before you send this again."
    return detail
