"""What the outcome of a request proves, and what follows from it.

Every outcome of a request, a response or an exception, has one verdict. Only the service's own
response proves something about an input, an account or a task, and only a response with an
envelope (a JSON object with an integer ``code``) is the service's own: gateways, firewalls and
proxies respond in its place with pages of any status. Two questions decide about a submit:

- Is it certain that no task was started? Then sending it again costs nothing.
- Would the same request be refused again? Then sending it again is pointless.

A submit is never sent again if a task may have been started. Other requests (status, balance,
downloads) cost nothing and may always be repeated.

Nothing else in the package decides about repetition or cost: the errors' ``retryable`` and
``may_have_charged``, the retry loop, the batch and the table in the documentation use this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from attrs import frozen

from kling_async.errors import (
    AnswerLostError,
    AuthenticationError,
    BadRequestError,
    BalanceError,
    ConnectError,
    InputError,
    KlingError,
    NotFoundError,
    RateLimitError,
    RefusedError,
    ServerError,
)


class Verdict(StrEnum):
    """What the outcome of a request proves."""

    ANSWERED = "answered"
    INPUT_REFUSED = "input refused"
    ACCOUNT_REFUSED = "account refused"
    BUSY = "busy"
    NOT_SENT = "not sent"
    NOT_THE_SERVICE = "not the service"
    UNAVAILABLE = "unavailable"
    UNKNOWN = "unknown"


class ItemFate(StrEnum):
    """The state of a batch's item after its submit."""

    SUBMITTED = "submitted"
    FAILED = "failed"  # submitted again if resubmit_rejected is set
    STOP = "stays planned; the batch stops"
    PLANNED = "stays planned"
    UNSURE = "unsure"


@frozen
class Consequence:
    """What follows from a verdict on a submit.

    Attributes:
        proof: The outcomes that have the verdict, for the documentation.
        repeated: The submit may be sent again.
        may_have_charged: A task may have been started and billed.
        systemic: The next submit would fail in the same way, whatever its input.
        fate: The state of a batch's item when the submit is not repeated any more.
        read_repeated: A status request, a balance request or a download is repeated.
    """

    proof: str
    repeated: bool = False
    may_have_charged: bool = False
    systemic: bool = False
    fate: ItemFate = ItemFate.PLANNED
    read_repeated: bool = False


CONSEQUENCES: Final[Mapping[Verdict, Consequence]] = MappingProxyType(
    {
        Verdict.ANSWERED: Consequence(
            "the envelope, 2xx both as HTTP status and as code, with data in the expected form",
            may_have_charged=True,
            fate=ItemFate.SUBMITTED,
        ),
        Verdict.INPUT_REFUSED: Consequence(
            "the envelope says 400, 403 (content), 404, 413 or 422", fate=ItemFate.FAILED
        ),
        Verdict.ACCOUNT_REFUSED: Consequence(
            "the envelope says 401, 402, or mentions credits or a permission",
            fate=ItemFate.STOP,
        ),
        Verdict.BUSY: Consequence(
            "429, with or without the envelope", repeated=True, read_repeated=True
        ),
        Verdict.NOT_SENT: Consequence(
            "no connection was ever assigned to the request: name resolution, connecting, TLS,"
            " the proxy, or a timeout before that",
            repeated=True,
            systemic=True,
            read_repeated=True,
        ),
        Verdict.NOT_THE_SERVICE: Consequence(
            "no envelope; 3xx or 4xx other than 408, 429 and 499 (for a read: any status)",
            repeated=True,
            systemic=True,
            read_repeated=True,
        ),
        Verdict.UNAVAILABLE: Consequence(
            "the envelope says 503", repeated=True, systemic=True, read_repeated=True
        ),
        Verdict.UNKNOWN: Consequence(
            "everything else: the connection broke or timed out after the request was sent; 500,"
            " 502, 504 and other statuses; no envelope with 2xx, 408, 499 or 5xx; an answer that"
            " contradicts itself or cannot be read",
            may_have_charged=True,
            fate=ItemFate.UNSURE,
            read_repeated=True,
        ),
    }
)

_OK = range(200, 300)
_SERVER = range(500, 600)

# The verdict on each status with an envelope. Other statuses prove nothing.
_BY_STATUS: Final[Mapping[int, Verdict]] = MappingProxyType(
    {
        400: Verdict.INPUT_REFUSED,
        401: Verdict.ACCOUNT_REFUSED,
        402: Verdict.ACCOUNT_REFUSED,
        403: Verdict.INPUT_REFUSED,
        404: Verdict.INPUT_REFUSED,
        413: Verdict.INPUT_REFUSED,
        422: Verdict.INPUT_REFUSED,
        429: Verdict.BUSY,
        503: Verdict.UNAVAILABLE,
    }
)

# A 400 or 403 with one of these words is about the account: "Insufficient credits", or a key
# without the permission for a model.
_ACCOUNT_WORDS = ("insufficient", "permission")
_AMBIGUOUS = (400, 403)

# The verdict on errors that carry none: those of other transports, and those that are raised
# before anything is sent.
_BY_CLASS: Final[Mapping[type[KlingError], Verdict]] = MappingProxyType(
    {
        InputError: Verdict.INPUT_REFUSED,
        BadRequestError: Verdict.INPUT_REFUSED,
        RefusedError: Verdict.INPUT_REFUSED,
        NotFoundError: Verdict.INPUT_REFUSED,
        AuthenticationError: Verdict.ACCOUNT_REFUSED,
        BalanceError: Verdict.ACCOUNT_REFUSED,
        RateLimitError: Verdict.BUSY,
        ConnectError: Verdict.NOT_SENT,
        ServerError: Verdict.UNAVAILABLE,
        AnswerLostError: Verdict.UNKNOWN,
    }
)
_VALUES: Final = frozenset(verdict.value for verdict in Verdict)

# Without an envelope, statuses in this range come from a gateway that did not forward the request,
# except those that gateways use after they have forwarded it.
_NOT_FORWARDED = range(300, 500)
_FORWARDED = (408, 499)
_TOO_MANY = 429
_UNAVAILABLE = 503


def envelope_code(fields: Mapping[str, object], status: int) -> int | None:
    """Return the envelope's code, or None if ``fields`` is not the service's envelope.

    In some responses the code is a string. If a successful response has data but no code, its
    HTTP status is returned, since ignoring the reference in it would lose a paid task.
    """
    code = fields.get("code")
    if isinstance(code, str) and code.isascii() and code.isdigit():
        return int(code[:9])
    if isinstance(code, int) and not isinstance(code, bool):
        return code
    if code is None and status in _OK and fields.get("data") is not None:
        return status
    return None


def judge_response(
    status: int, fields: Mapping[str, object], message: str, *, submitting: bool
) -> Verdict:
    """Return the verdict on a complete response.

    Args:
        status: The HTTP status.
        fields: The JSON object of the body; empty if the body is anything else.
        message: The envelope's message.
        submitting: The request was a submit.
    """
    code = envelope_code(fields, status)
    if code is None:
        return _judge_page(status, submitting=submitting)
    if status in _OK and code in _OK:
        return Verdict.ANSWERED
    data = fields.get("data")
    names_task = submitting and isinstance(data, dict) and bool(data.get("taskId"))
    if names_task or code in _OK:  # it contradicts itself
        return Verdict.UNKNOWN
    # If both are failures, the HTTP status decides.
    said = code if status in _OK else status
    if any(one in _SERVER and one != _UNAVAILABLE for one in (status, code)):
        return Verdict.UNKNOWN
    folded = message.casefold()
    if said in _AMBIGUOUS and any(word in folded for word in _ACCOUNT_WORDS):
        return Verdict.ACCOUNT_REFUSED
    return _BY_STATUS.get(said, Verdict.UNKNOWN)


def _judge_page(status: int, *, submitting: bool) -> Verdict:
    """Return the verdict on a response without an envelope."""
    if status == _TOO_MANY:
        return Verdict.BUSY
    if not submitting or (status in _NOT_FORWARDED and status not in _FORWARDED):
        return Verdict.NOT_THE_SERVICE
    return Verdict.UNKNOWN


def judge_error(error: KlingError) -> Verdict:
    """Return the verdict that an error carries, or else the one of its class."""
    if error.verdict in _VALUES:
        return Verdict(error.verdict)
    if error.may_have_charged:
        return Verdict.UNKNOWN
    for kind, verdict in _BY_CLASS.items():
        if isinstance(error, kind):
            return verdict
    return Verdict.NOT_THE_SERVICE  # not the input's fault
