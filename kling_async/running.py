"""Which tasks run: each with its slot, until its end is known."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary

from kling_async.errors import KlingError
from kling_async.policy.durations import Kind
from kling_async.task import Task

if TYPE_CHECKING:
    from kling_async.inputs import Input
    from kling_async.limits import Limiter, Slot
    from kling_async.polls import Polls
    from kling_async.results import Snapshot, TaskRef
    from kling_async.task import Ask

__all__ = ["Running", "attend", "kind_of"]


class _Held(NamedTuple):
    task: Task
    slot: Slot
    nonce: str = ""  # of the callback URL that its submit was given


class Running:
    """The tasks that a client knows of and has not seen end. Belongs to one client."""

    def __init__(self, limiter: Limiter, polls: Polls, ask: Ask) -> None:
        self._limiter = limiter
        self._polls = polls
        self._ask = ask
        self._held: dict[TaskRef, _Held] = {}
        # Attached, and not yet seen to be running or to have ended.
        self._attached: WeakValueDictionary[TaskRef, Task] = WeakValueDictionary()

    @property
    def tasks(self) -> dict[TaskRef, Task]:
        """The tasks that hold a slot."""
        return {ref: held.task for ref, held in self._held.items()}

    def task(
        self, ref: TaskRef, kind: Kind, age: float | None = 0.0, *, called_back: bool = False
    ) -> Task:
        """Make a task of so many seconds; None: nobody knows how many."""
        course = self._polls.course(kind, age, called_back=called_back)
        return Task(ref, self._ask, self._polls, course)

    def begin(self, task: Task, slot: Slot, nonce: str = "") -> None:
        """Note a task that the service has accepted."""
        slot.confirm(task.ref)
        self._held[task.ref] = _Held(task, slot, nonce)

    def hold(self, task: Task) -> None:
        """Hold a slot for a task that was not known, and is found to be running already."""
        self._attached.pop(task.ref, None)
        self.begin(task, self._limiter.adopt(task.ref))

    def attach(self, task: Task) -> None:
        """Note a task that somebody holds, of which it is not known whether it runs."""
        self._attached[task.ref] = task

    def find(self, ref: TaskRef) -> Task | None:
        """Return the task, unless it is unknown or known to have ended."""
        held = self._held.get(ref)
        return self._attached.get(ref) if held is None else held.task

    def called(self, ref: TaskRef, nonce: str) -> Task | None:
        """Return the task that a callback to the URL with this nonce may speak of."""
        held = self._held.get(ref)
        # A task of an earlier process may have any nonce, as far as anybody remembers.
        return None if held and held.nonce and held.nonce != nonce else self.find(ref)

    def gave(self, ref: TaskRef, nonce: str) -> bool:
        """Whether the task was submitted with the callback URL that has this nonce."""
        held = self._held.get(ref)
        return held is not None and held.nonce == nonce

    def note(self, snapshot: Snapshot, *, known: bool) -> None:
        """Give a slot back as soon as its task is known to have ended; hold one while it runs.

        Args:
            snapshot: What the service says.
            known: Whether the task was found when the service was asked. If it is not any more,
                it has ended meanwhile, and an answer that says that it runs is older than that.
        """
        ref = snapshot.ref
        held = self._held.get(ref)
        if snapshot.state.ended:
            if held is not None:
                del self._held[ref]
                held.slot.release()
            elif self._attached.pop(ref, None) is not None or not known:
                # A process that has died may have left its slot to it.
                self._limiter.adopt(ref).release()
        elif held is not None:
            held.slot.confirm(ref)
        elif (task := self._attached.get(ref)) is not None or not known:
            self.hold(task or self.task(ref, Kind(ref.model), None))


def kind_of(sent: Input) -> Kind:
    """Return what an input has in common with those that take as long."""
    duration, provider = getattr(sent, "duration", None), getattr(sent, "provider", None)
    return Kind(sent.model, sent.mode, duration, provider)


async def attend(task: Task) -> None:
    """Wait for a task on behalf of nobody, so that its end is noticed."""
    with suppress(KlingError):
        await task
