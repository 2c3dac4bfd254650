"""Events for logging, metrics and tracing.

A hook is a function of one event. Hooks run on the event loop and must not block. An exception
in a hook is logged and otherwise ignored.

A hook with an attribute ``detailed`` that is true also receives what only logs, metrics and traces
need, such as every request: see :class:`DetailedHook`.

``submit_id`` is the same number in all events of one submit, from :class:`SubmitStarted` until its
end: :class:`Submitted`, :class:`SubmitFailed` or :class:`SubmitWithdrawn`. Events of tasks have the
task's reference instead. It is 0 where the submit is not known, and does not count when events are
compared.

Nothing is created, and this module is not imported, if there are no hooks.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Literal, Protocol

from attrs import field, frozen

from kling_async.errors import KlingError
from kling_async.inputs.base import Input
from kling_async.results import SavedFile, Snapshot, TaskRef


@frozen
class SubmitStarted:
    """A submit began: it waits for a slot next. The hook runs in the context of its caller."""

    input: Input
    submit_id: int = field(default=0, eq=False, repr=False, kw_only=True)


@frozen
class SlotAcquired:
    """A submit has its slot, after ``waited`` seconds.

    One that is repeated after a 429 may need another slot.
    """

    input: Input
    waited: float
    submit_id: int = field(default=0, eq=False, repr=False, kw_only=True)


@frozen
class RequestAnswered:
    """A request to the API was answered, or has failed.

    Attributes:
        kind: What it is for.
        method: The HTTP method.
        url: The URL. It has no secrets.
        path: Its path, relative to the base URL and without the query.
        attempt: The number of the attempt, from 1.
        waited: Seconds that it waited for a connection and the request limit.
        seconds: Seconds from its sending until the answer or the failure.
        status: The HTTP status; None if no answer came.
        error: Why it failed, if it did. It may be sent again: see :class:`Retrying`.
        limit: The request limit of the client, in requests per minute.
        ref: The task, if the request is about one.
    """

    kind: Literal["submit", "status", "balance"]
    method: str
    url: str
    path: str
    attempt: int
    waited: float
    seconds: float
    status: int | None
    error: KlingError | None
    limit: int
    ref: TaskRef | None = None
    submit_id: int = field(default=0, eq=False, repr=False, kw_only=True)


@frozen
class Submitted:
    """The service accepted an input and may charge for it. Store ``ref``."""

    ref: TaskRef
    input: Input
    submit_id: int = field(default=0, eq=False, repr=False, kw_only=True)


@frozen
class SubmitFailed:
    """A submit failed. ``error.may_have_charged`` says whether it may be billed."""

    input: Input
    error: KlingError
    submit_id: int = field(default=0, eq=False, repr=False, kw_only=True)


@frozen
class SubmitWithdrawn:
    """A submit was given up: its caller was cancelled, or a part of the program has failed.

    The service has not accepted it, and nothing was charged.
    """

    input: Input
    submit_id: int = field(default=0, eq=False, repr=False, kw_only=True)


@frozen
class TaskAttached:
    """A client began to follow a task that another process, or an earlier call, has submitted.

    Attributes:
        ref: The task.
        input: Its input, if the caller knows it.
        submitted_at: When the service accepted it, if the caller knows it.
        traceparent: The trace context that the caller has passed; see
            :meth:`kling_async.KlingClient.traceparent`.
        holds_slot: It is presumed to run, so that its end is reported. Without, it may never be
            asked for.
    """

    ref: TaskRef
    input: Input | None = None
    submitted_at: datetime | None = None
    traceparent: str = ""
    holds_slot: bool = field(default=False, kw_only=True)


@frozen
class Polled:
    """A status request was answered."""

    snapshot: Snapshot


@frozen
class CalledBack:
    """A callback for a running task was received. Its content is not confirmed yet."""

    snapshot: Snapshot


@frozen
class CallbackReceived:
    """An inbox received a callback, of a task of this or of another process.

    Only the hooks of an :class:`~kling_async.webhooks.Inbox` receive it, on the thread of the
    inbox's caller.

    Attributes:
        snapshot: The state of the task according to the callback. It is not confirmed.
        outcome: The field of :class:`~kling_async.webhooks.inbox.Counts` that counts it.
        traceparent: The trace context of the submit, from the callback's token, if it has one.
    """

    snapshot: Snapshot
    outcome: str
    traceparent: str = ""


@frozen
class Retrying:
    """A request failed and is sent again in ``delay`` seconds. ``attempt`` counts from 1."""

    what: str
    error: KlingError
    attempt: int
    delay: float
    ref: TaskRef | None = field(default=None, eq=False, kw_only=True)
    submit_id: int = field(default=0, eq=False, repr=False, kw_only=True)


@frozen
class Paused:
    """The service answered 429: all requests of this client wait for ``delay`` seconds."""

    delay: float


@frozen
class TaskEnded:
    """A task that this client submitted or awaited has ended. Each task is reported once."""

    snapshot: Snapshot


@frozen
class TasksAbandoned:
    """Tasks continue remotely, but nothing waits for them any more. Store the references.

    Reported when a waiting caller is cancelled, when a fan-out or batch is left early, when a
    callback names the task of a submit whose answer was lost, and when the client is closed. Each
    task is reported once.
    """

    refs: tuple[TaskRef, ...]


@frozen
class TaskDropped:
    """A client does not follow a task any more whose end it has not seen.

    Attributes:
        ref: The task.
        reason: ``"not_found"``: the service does not know it. ``"presumed_ended"``: it was not
            seen to be running for :attr:`Limits.presumed_lifetime`, and its slot has expired.
    """

    ref: TaskRef
    reason: Literal["not_found", "presumed_ended"]


@frozen
class DownloadEnded:
    """The download of a result has ended.

    Attributes:
        ref: The task.
        files: What was saved; empty if it failed.
        received_bytes: The bytes that were received, those of failed attempts included. Files that
            were complete already are not received again.
        seconds: How long it took.
        error: What it raised, if it failed or was cancelled.
        traceparent: The trace context that the caller has passed.
    """

    ref: TaskRef
    files: tuple[SavedFile, ...]
    received_bytes: int
    seconds: float
    error: BaseException | None = None
    traceparent: str = ""


@frozen
class TaskLimitChanged:
    """The number of concurrent tasks that the service is known to accept has changed.

    Attributes:
        tasks: The new maximum number of concurrent tasks.
        limit: The configured maximum.
    """

    tasks: int
    limit: int


Event = (
    Submitted
    | SubmitFailed
    | Polled
    | CalledBack
    | TaskEnded
    | TasksAbandoned
    | TaskLimitChanged
    | Retrying
    | Paused
)
Hook = Callable[[Event], object]

DetailedEvent = (
    Event
    | SubmitStarted
    | SlotAcquired
    | RequestAnswered
    | SubmitWithdrawn
    | TaskAttached
    | TaskDropped
    | DownloadEnded
    | CallbackReceived
)


class DetailedHook(Protocol):
    """A hook that also receives the events with details, since it has this attribute.

    If it has a method ``traceparent``, that is called with the number of a submit or the reference
    of a task, and returns the W3C trace context, or "". Callbacks and journals carry it.
    """

    @property
    def detailed(self) -> bool:
        """True."""

    def __call__(self, event: DetailedEvent) -> object:
        """Receive an event."""
