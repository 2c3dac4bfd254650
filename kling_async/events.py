"""What happened, as frozen values, for those who log, count or trace.

A hook is a function of one event. Hooks run on the event loop: they must be quick and must
not block. An exception from a hook is logged and goes no further.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from kling_async.errors import KlingError
from kling_async.inputs.base import Input
from kling_async.results import Snapshot, TaskRef


@frozen
class Submitted:
    """The service accepted an input; from here on it costs money. Store ``ref``."""

    ref: TaskRef
    input: Input


@frozen
class SubmitFailed:
    """A submit ended without a reference; ``error.may_have_charged`` tells what it may cost."""

    input: Input
    error: KlingError


@frozen
class Polled:
    """A status call was answered."""

    snapshot: Snapshot


@frozen
class CalledBack:
    """A callback for a task that runs has come. What it says is not confirmed yet."""

    snapshot: Snapshot


@frozen
class Retrying:
    """A request failed and is sent again after ``delay`` seconds. ``attempt`` counts from 1."""

    what: str
    error: KlingError
    attempt: int
    delay: float


@frozen
class Paused:
    """The service answered 429: every request of this client waits ``delay`` seconds."""

    delay: float


@frozen
class TaskEnded:
    """The end of a task is known: once for each task that this client has waited for or submitted.

    ``snapshot.state`` says how it ended.
    """

    snapshot: Snapshot


@frozen
class TasksAbandoned:
    """Nothing waits for these tasks any more, and they run at the service: store the references.

    Reported when a caller that waited is cancelled, a fan-out or batch is left early, or the
    client is closed. Each task is reported once.
    """

    refs: tuple[TaskRef, ...]


@frozen
class TaskLimitChanged:
    """The service allows fewer running tasks than the limits say, or more than it seemed to.

    Attributes:
        tasks: How many may run at one time from now on.
        limit: How many the limits allow.
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
