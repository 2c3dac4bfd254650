import pickle
from typing import get_args

import attrs
import pytest

from kling_async import events
from kling_async.errors import ServerError
from kling_async.events import (
    CalledBack,
    DetailedEvent,
    DetailedHook,
    Event,
    Hook,
    Paused,
    Polled,
    Retrying,
    SubmitFailed,
    Submitted,
    TaskEnded,
    TaskLimitChanged,
    TasksAbandoned,
)
from kling_async.inputs.kling_2_1 import MasterTextToVideo
from kling_async.results import Snapshot, TaskRef, TaskState

REF = TaskRef("kling-2-1", "task_1")
INPUT = MasterTextToVideo("a fox")
ERROR = ServerError("trouble")
EVENTS: list[Event] = [
    Submitted(REF, INPUT),
    SubmitFailed(INPUT, ERROR),
    Polled(Snapshot(REF, TaskState.PENDING)),
    CalledBack(Snapshot(REF, TaskState.SUCCESS)),
    Retrying("submit", ERROR, 1, 0.5),
    Paused(2.0),
    TaskEnded(Snapshot(REF, TaskState.FAILED)),
    TasksAbandoned((REF,)),
    TaskLimitChanged(20, 1000),
]


def test_events_are_all_named() -> None:
    """`Event` is the union of all classes that the module defines."""
    defined = {
        cls for cls in vars(events).values() if getattr(cls, "__module__", "") == events.__name__
    }
    every = set(get_args(DetailedEvent))
    assert every == defined - {DetailedHook}
    assert set(get_args(Event)) == {type(event) for event in EVENTS} < every


@pytest.mark.parametrize("event", EVENTS)
def test_events_are_frozen(event: Event) -> None:
    """A hook cannot change an event."""
    for field in attrs.fields(type(event)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(event, field.name, None)


@pytest.mark.parametrize("event", EVENTS)
def test_events_pickle(event: Event) -> None:
    """An event can be sent to another process."""
    again = pickle.loads(pickle.dumps(event))  # noqa: S301 - our own bytes
    assert type(again) is type(event)
    assert repr(again) == repr(event)


def test_events_are_values() -> None:
    """Events with the same fields are equal."""
    assert Submitted(REF, INPUT) == Submitted(REF, MasterTextToVideo("a fox"))
    assert Paused(1.0) != Paused(2.0)
    assert len({Submitted(REF, INPUT), Submitted(REF, INPUT)}) == 1


def test_a_hook_is_a_function_of_one_event() -> None:
    """Any function of one event is a hook, such as a list's append."""
    seen: list[Event] = []
    hook: Hook = seen.append
    for event in EVENTS:
        hook(event)
    assert seen == EVENTS
