"""Events for logging, metrics and tracing.

A hook is a function of one event. Hooks run on the event loop and must not block. An exception
in a hook is logged and otherwise ignored.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from kling_async.errors import KlingError
from kling_async.inputs.base import Input
from kling_async.results import Snapshot, TaskRef


@frozen
class Submitted:
    """The service accepted an input and may charge for it. Store ``ref``."""

    ref: TaskRef
    input: Input


@frozen
class SubmitFailed:
    """A submit failed. ``error.may_have_charged`` says whether it may be billed."""

    input: Input
    error: KlingError


@frozen
class Polled:
    """A status request was answered."""

    snapshot: Snapshot


@frozen
class CalledBack:
    """A callback for a running task was received. Its content is not confirmed yet."""

    snapshot: Snapshot


@frozen
class Retrying:
    """A request failed and is sent again in ``delay`` seconds. ``attempt`` counts from 1."""

    what: str
    error: KlingError
    attempt: int
    delay: float


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

    Reported when a waiting caller is cancelled, when a fan-out or batch is left early, and when
    the client is closed. Each task is reported once.
    """

    refs: tuple[TaskRef, ...]


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
