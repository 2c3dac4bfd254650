"""All exceptions of this package, and what each one says about cause, repetition and cost.

::

    KlingError                    .may_have_charged .retryable .ref
      ConfigurationError          the client or command was set up wrongly; also ValueError
      InputError                  the input breaks a rule; .problems; also ValueError
      ClientClosedError           the client was closed before the request was sent
      RequestError                no usable answer from the service
        ConnectError              the request was not sent
        AnswerLostError           the request was sent, but its answer was not received
        ContractError             the answer is not from the service, or cannot be parsed;
                                  .status .body
      APIError                    the service rejected the request;
                                  .status .code .message .retry_after
        BadRequestError           400 and other 4xx
        AuthenticationError       401
        BalanceError              402, or 400 with a message about credits
        RefusedError              403
        NotFoundError             404
        RateLimitError            429
        ServerError               5xx
      TaskError                   .ref .snapshot
        TaskFailedError           the task ended without a video; .fail_code .fail_message .reason
        TaskTimeoutError          the wait ended before the task; also TimeoutError
      DownloadError               a file could not be downloaded; .url
        ResultExpiredError        the result URL is no longer valid
      JournalError                a batch's journal cannot be used
      LimiterError                the backend of shared limits cannot be reached
      StorageError                an object store cannot be used
      MissingExtraError           an optional package is not installed; also ImportError

The class says what went wrong. ``retryable`` says whether the same call may succeed later.
``may_have_charged`` says whether a task may have been started and billed: then check the account
before you submit the same input again. Messages never contain the API key. All errors can be
pickled.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, TypeVar

from kling_async._base import InputError as InputError  # noqa: PLC0414 - public names of this module
from kling_async._base import KlingError as KlingError  # noqa: PLC0414
from kling_async._base import Problem as Problem  # noqa: PLC0414

if TYPE_CHECKING:
    from typing import Unpack

    from kling_async._base import ErrorFacts
    from kling_async.results import FailReason, Snapshot

_E = TypeVar("_E", bound=BaseException)

# Characters of an unexpected answer: enough to recognise it, and few enough for a log.
BODY_EXCERPT = 200


class ConfigurationError(KlingError, ValueError):
    """The client or command was set up wrongly. Nothing was sent."""


class ClientClosedError(KlingError):
    """The client was closed before a request was sent, or while a task was awaited.

    The interrupted request cost nothing. If ``ref`` is set, the remote task continues and can be
    attached again. The client may be used again.
    """

    retryable = True


class RequestError(KlingError):
    """The service gave no usable answer."""


class ConnectError(RequestError):
    """No connection was made, so nothing was sent. Sending the request again costs nothing.

    ``retryable`` is false if waiting does not help, for example if the server's certificate
    cannot be verified.
    """

    retryable = True
    verdict = "not sent"


class AnswerLostError(RequestError):
    """The request was sent, but its answer was not received completely.

    For a submit, ``may_have_charged`` is true and ``retryable`` is false: the service may have
    started a task whose reference is unknown. Status and balance requests may be repeated.
    """


class ContractError(RequestError):
    """The answer is not from the service, or does not follow the API's contract.

    An answer without the service's envelope comes from a gateway, a firewall or another server
    at the base URL, whatever its status. It says nothing about the input or the task.

    Attributes:
        status: The HTTP status.
        body: The first 200 characters of the answer.
    """

    def __init__(
        self, message: str = "", *, status: int = 0, body: str = "", **facts: Unpack[ErrorFacts]
    ) -> None:
        super().__init__(message, **facts)
        self.status = status
        self.body: str = body[:BODY_EXCERPT]


class APIError(KlingError):
    """The service rejected the request.

    Attributes:
        status: The HTTP status.
        code: The ``code`` of the envelope, or the HTTP status if the answer has none.
        message: The service's message, at most 200 characters.
        retry_after: The number of seconds that the service asks to wait, or None.
    """

    def __init__(
        self,
        text: str = "",
        *,
        status: int = 0,
        code: int = 0,
        message: str = "",
        retry_after: float | None = None,
        **facts: Unpack[ErrorFacts],
    ) -> None:
        super().__init__(text, **facts)
        self.status = status
        self.code = code
        self.message: str = message[:BODY_EXCERPT]
        self.retry_after = retry_after


class BadRequestError(APIError):
    """The request is invalid (400 and other 4xx). Change it before you send it again.

    For 409 and other statuses that the contract does not name, ``may_have_charged`` is true.
    """


class AuthenticationError(APIError):
    """The API key is missing or invalid (401)."""


class BalanceError(APIError):
    """The account's balance is too low (402, or 400 with a message about credits)."""


class RefusedError(APIError):
    """The content was refused, or the key lacks a permission (403).

    The vendor's documentation gives both meanings.
    """


class NotFoundError(APIError):
    """There is no such model or task (404). A task is found only under its own model."""


class RateLimitError(APIError):
    """Too many requests or too many concurrent tasks (429). No task was started."""


class ServerError(APIError):
    """The service failed (5xx). For a submit, ``may_have_charged`` is true except for 503."""


class TaskError(KlingError):
    """The service accepted a task, but there is no result.

    Attributes:
        snapshot: The last known state of the task, or None.
    """

    may_have_charged = True

    def __init__(
        self,
        message: str = "",
        *,
        snapshot: Snapshot | None = None,
        **facts: Unpack[ErrorFacts],
    ) -> None:
        super().__init__(message, **facts)
        self.snapshot = snapshot


class TaskFailedError(TaskError):
    """The task ended without a video. Whether it was billed is not known.

    Attributes:
        fail_code: The vendor's code, such as ``NSFW_DETECTED``. New codes may appear.
        fail_message: The vendor's message.
        reason: The category of the code.
    """

    def __init__(
        self,
        message: str = "",
        *,
        fail_code: str = "",
        fail_message: str = "",
        reason: FailReason | None = None,
        snapshot: Snapshot | None = None,
        **facts: Unpack[ErrorFacts],
    ) -> None:
        super().__init__(message, snapshot=snapshot, **facts)
        self.fail_code = fail_code
        self.fail_message = fail_message
        self.reason = reason


class TaskTimeoutError(TaskError, TimeoutError):
    """The task did not end in time. It continues remotely: attach ``ref`` to wait again."""


class DownloadError(KlingError):
    """A file could not be downloaded completely. The result is not affected: download it again.

    Attributes:
        url: The URL of the file.
    """

    retryable = True

    def __init__(self, message: str = "", *, url: str = "", **facts: Unpack[ErrorFacts]) -> None:
        super().__init__(message, **facts)
        self.url = url


class ResultExpiredError(DownloadError):
    """The result URL is no longer valid. URLs are valid for at most 15 days, perhaps for one.

    If ``retryable`` is true, the task has just ended, and the file may still appear.
    """


class JournalError(KlingError):
    """A batch's journal cannot be read or written. Its content is not lost."""


class LimiterError(KlingError):
    """The backend of shared limits cannot be reached. Nothing was sent; try again later."""

    retryable = True


class StorageError(KlingError):
    """An object store, such as an S3 bucket, cannot be used.

    Nothing was submitted, or the error has the ``ref`` of the task whose videos are not archived.
    ``retryable`` is false if waiting does not help, for example if access is denied.
    """


class MissingExtraError(KlingError, ImportError):
    """An optional package is not installed. The message names the extra to install."""


def copy_for_waiter(error: _E) -> _E:
    """Return a copy of an error for one of several waiters, which may add a note to it."""
    try:
        return copy(error)
    except Exception:  # noqa: BLE001 - the class cannot be copied
        return error
