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
    "Left",
    "Paused",
    "Polled",
    "Retrying",
    "SubmitFailed",
    "Submitted",
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
class Left:
    """A fan-out or batch has ended early; nobody was told what became of these tasks."""

    refs: tuple[TaskRef, ...]


Event = Submitted | SubmitFailed | Polled | CalledBack | Retrying | Paused | Left
Hook = Callable[[Event], object]
