"""Every exception, and what each one says about fault, repetition and money.

::

    KlingError                    .may_have_charged .retryable .ref
      ConfigurationError          the client was set up wrongly; also ValueError
      InputError                  the input breaks a rule; .problems; also ValueError
      ClientClosedError           the client was closed before the request was sent
      RequestError                the service gave no usable answer
        ConnectError              nothing was sent
        AnswerLostError           it was sent, and no answer came
        ContractError             an answer that is not the service's, or that cannot be read;
                                  .status .body
      APIError                    the service said no; .status .code .message .retry_after
        BadRequestError           400 and other 4xx
        AuthenticationError       401
        BalanceError              402, or 400 that speaks of credits
        RefusedError              403
        NotFoundError             404
        RateLimitError            429
        ServerError               5xx
      TaskError                   .ref .snapshot
        TaskFailedError           the task ended without a video; .fail_code .fail_message .reason
        TaskTimeoutError          we stopped waiting, the task goes on; also TimeoutError
      DownloadError               the file did not arrive; .url
        ResultExpiredError        the result URL is dead
      JournalError                a batch's journal cannot be used
      LimiterError                what keeps shared limits cannot be reached
      MissingExtraError           an optional package is not installed; also ImportError

Each error answers three questions. *Whose fault* is its class. *May I repeat it* is
``retryable``: the same call may succeed later. *May it have cost money* is
``may_have_charged``: a task may have been started and billed; do not submit the same input
again without looking at the account. Messages never contain the API key, and every error
pickles.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, TypeVar

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kling_async.results import FailReason, Snapshot, TaskRef

_E = TypeVar("_E", bound=BaseException)

# Enough of an unexpected answer to recognise it, too little to flood a log.
BODY_EXCERPT = 200


class KlingError(Exception):
    """Anything that this package raises on purpose.

    Attributes:
        may_have_charged: A task may have been started and billed by the failed call.
        retryable: The same call may succeed later without any change.
        ref: The remote task concerned, where one exists. It can be attached again.
        verdict: What the outcome of the request proves, where a request failed: one of the
            values in ``docs/explanation/how-money-is-kept.md``, such as ``"busy"``.
    """

    def __init__(
        self,
        message: str = "",
        *,
        may_have_charged: bool = False,
        retryable: bool = False,
        ref: TaskRef | None = None,
        verdict: str = "",
    ) -> None:
        super().__init__(message)
        self.may_have_charged = may_have_charged
        self.retryable = retryable
        self.ref = ref
        self.verdict = verdict

    # Unpickling calls the class with the message alone and then restores the attributes:
    # that is why every keyword of every subclass has a default.


class ConfigurationError(KlingError, ValueError):
    """The client or command was set up wrongly. Nothing was sent."""


@frozen
class Problem:
    """One broken rule of an input: the field, the rule in words, and the value seen."""

    field: str
    rule: str
    seen: str

    def __str__(self) -> str:
        return f"{self.field}: {self.rule} (seen: {self.seen})"


class InputError(KlingError, ValueError):
    """An input breaks one or more rules. Nothing was sent; ``problems`` holds them all."""

    def __init__(self, message: str = "", *, problems: Iterable[Problem] = ()) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__(message or "; ".join(str(problem) for problem in self.problems))


class ClientClosedError(KlingError):
    """The client was closed before the request was sent, or while a task was waited for.

    The request that was interrupted cost nothing. With a ``ref``, the remote task continues and
    can be attached again. The client may be used again.
    """

    def __init__(
        self,
        message: str = "",
        *,
        may_have_charged: bool = False,
        retryable: bool = True,
        ref: TaskRef | None = None,
    ) -> None:
        super().__init__(message, may_have_charged=may_have_charged, retryable=retryable, ref=ref)


class RequestError(KlingError):
    """The service gave no usable answer."""


class ConnectError(RequestError):
    """No connection could be made, so nothing was sent. Repeating is free.

    ``retryable`` is false where waiting does not help, as with a certificate that fails
    verification.
    """

    def __init__(
        self, message: str = "", *, retryable: bool = True, ref: TaskRef | None = None
    ) -> None:
        super().__init__(message, retryable=retryable, ref=ref, verdict="not sent")


class AnswerLostError(RequestError):
    """The request was sent and its answer never arrived whole.

    For a submit ``may_have_charged`` is true and ``retryable`` false: the service may have
    started a task whose reference is lost. Reads (status, balance) may simply be repeated.
    """


class ContractError(RequestError):
    """An answer arrived that is not the service's, or that the contract does not know.

    Without the service's envelope, an answer comes from a gateway, a firewall or another server
    at the base URL, whatever its status: it says nothing about the input or the task.

    Attributes:
        status: The HTTP status.
        body: The first 200 characters of the answer.
    """

    def __init__(  # noqa: PLR0913 - every one is a keyword with a default
        self,
        message: str = "",
        *,
        status: int = 0,
        body: str = "",
        may_have_charged: bool = False,
        retryable: bool = False,
        ref: TaskRef | None = None,
        verdict: str = "",
    ) -> None:
        super().__init__(
            message,
            may_have_charged=may_have_charged,
            retryable=retryable,
            ref=ref,
            verdict=verdict,
        )
        self.status = status
        self.body: str = body[:BODY_EXCERPT]


class APIError(KlingError):
    """The service understood the request and said no.

    Attributes:
        status: The HTTP status.
        code: The ``code`` of the envelope; the HTTP status where the answer had none.
        message: The service's own words, at most 200 characters.
        retry_after: Seconds the service asks us to wait, if it says so.
    """

    def __init__(  # noqa: PLR0913 - every one is a keyword with a default
        self,
        text: str = "",
        *,
        status: int = 0,
        code: int = 0,
        message: str = "",
        retry_after: float | None = None,
        may_have_charged: bool = False,
        retryable: bool = False,
        ref: TaskRef | None = None,
        verdict: str = "",
    ) -> None:
        super().__init__(
            text,
            may_have_charged=may_have_charged,
            retryable=retryable,
            ref=ref,
            verdict=verdict,
        )
        self.status = status
        self.code = code
        self.message: str = message[:BODY_EXCERPT]
        self.retry_after = retry_after


class BadRequestError(APIError):
    """The service found the request invalid (400 and other 4xx). Change it.

    Of 409 and other statuses that the contract does not name, ``may_have_charged`` is true.
    """


class AuthenticationError(APIError):
    """The API key is missing or invalid (401)."""


class BalanceError(APIError):
    """The account's balance is too low (402, or 400 that speaks of credits). Top it up."""


class RefusedError(APIError):
    """Refused (403): the content, or the key lacks permission; the vendor's pages disagree."""


class NotFoundError(APIError):
    """No such model or task (404). A task is found only under the model it was submitted to."""


class RateLimitError(APIError):
    """Too many requests or too many concurrent tasks (429). Nothing was started."""


class ServerError(APIError):
    """Trouble at the service (5xx). After a submit, ``may_have_charged`` unless it was a 503."""


class TaskError(KlingError):
    """A task that the service accepted did not give a result.

    Attributes:
        snapshot: The last thing the service said of it, if it said anything.
    """

    def __init__(
        self,
        message: str = "",
        *,
        ref: TaskRef | None = None,
        snapshot: Snapshot | None = None,
        may_have_charged: bool = True,
        retryable: bool = False,
    ) -> None:
        super().__init__(message, may_have_charged=may_have_charged, retryable=retryable, ref=ref)
        self.snapshot = snapshot


class TaskFailedError(TaskError):
    """The task ended without a video. Whether it was billed is unknown.

    Attributes:
        fail_code: The vendor's code, such as ``NSFW_DETECTED``; the set is open.
        fail_message: The vendor's words.
        reason: Our small enum over the codes.
    """

    def __init__(  # noqa: PLR0913 - every one is a keyword with a default
        self,
        message: str = "",
        *,
        fail_code: str = "",
        fail_message: str = "",
        reason: FailReason | None = None,
        ref: TaskRef | None = None,
        snapshot: Snapshot | None = None,
    ) -> None:
        super().__init__(message, ref=ref, snapshot=snapshot)
        self.fail_code = fail_code
        self.fail_message = fail_message
        self.reason = reason


class TaskTimeoutError(TaskError, TimeoutError):
    """We stopped waiting. The remote task goes on: attach ``ref`` and wait again."""


class DownloadError(KlingError):
    """A result file did not arrive whole. The result itself is safe: download it again.

    Attributes:
        url: The file's address.
    """

    def __init__(
        self,
        message: str = "",
        *,
        url: str = "",
        retryable: bool = True,
        ref: TaskRef | None = None,
    ) -> None:
        super().__init__(message, retryable=retryable, ref=ref)
        self.url = url


class ResultExpiredError(DownloadError):
    """The result URL is dead. The contract says that URLs live for 15 days, perhaps one.

    If it is ``retryable``, the task has just ended and the file may still come.
    """


class JournalError(KlingError):
    """A batch's journal cannot be read or written. What it holds is not lost."""


class LimiterError(KlingError):
    """What keeps the shared limits cannot be reached. Nothing was sent; try again later."""

    def __init__(
        self, message: str = "", *, may_have_charged: bool = False, ref: TaskRef | None = None
    ) -> None:
        super().__init__(message, may_have_charged=may_have_charged, retryable=True, ref=ref)


class MissingExtraError(KlingError, ImportError):
    """A feature needs an optional package; the message names the extra to install."""


def copy_for_waiter(error: _E) -> _E:
    """Return a copy of an error for one of several waiters, which may add a note to it."""
    try:
        return copy(error)
    except Exception:  # noqa: BLE001 - of a class that cannot be copied
        return error
