"""What happened, as frozen values, for those who log, count or trace.

A hook is a function of one event. Hooks run on the event loop: they must be quick and must
not block. An exception from a hook is logged and goes no further.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from kling_async.errors import KlingError
from kling_async.inputs import Input
from kling_async.results import Snapshot, TaskRef

__all__ = [
    "CalledBack",
    "Event",
    "Hook",
    "Paused",
    "Polled",
    "Retrying",
    "SubmitFailed",
    "Submitted",
    "TasksAbandoned",
]


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
class TasksAbandoned:
    """Nothing waits any more for these tasks, whose results were not returned to the caller.

    They are paid, and run on at the service: attach ``refs`` to get their results. A reference is
    reported once by the operation that abandons it; one whose submit is answered later follows in
    an event of its own.
    """

    refs: tuple[TaskRef, ...]


Event = Submitted | SubmitFailed | Polled | CalledBack | Retrying | Paused | TasksAbandoned
Hook = Callable[[Event], object]
