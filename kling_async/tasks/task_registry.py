"""The tasks of a client: each holds its slot until it has ended, or is presumed to have ended."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary

from kling_async.errors import NotFoundError
from kling_async.policy.durations import Kind
from kling_async.protocol import requests, responses
from kling_async.tasks.abandoned import AbandonedTasks, log_warning
from kling_async.tasks.poll_scheduler import Age
from kling_async.tasks.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from kling_async.inputs.base import Input
    from kling_async.limits.base import Slot
    from kling_async.results import Snapshot, TaskRef
    from kling_async.tasks.abandoned import Report
    from kling_async.tasks.poll_scheduler import PollScheduler
    from kling_async.tasks.request_executor import RequestExecutor

# The latest ended tasks whose ends are remembered: their downloads begin in the next seconds.
_REMEMBERED = 500


class _Held(NamedTuple):
    task: Task
    slot: Slot
    on_expired: Callable[[], None]
    nonce: str = ""  # of the callback URL of its submit


class TaskRegistry:
    """The tasks that a client knows and has not seen end. Belongs to one client.

    A task leaves it when the service says that the task has ended or does not exist, and when its
    slot expires: the task is presumed to have ended then.
    """

    def __init__(self, executor: RequestExecutor, scheduler: PollScheduler) -> None:
        self._executor = executor
        self._scheduler = scheduler
        self._held: dict[TaskRef, _Held] = {}
        # Attached, or presumed to have ended; and not yet seen to be running or to have ended.
        self._attached: WeakValueDictionary[TaskRef, Task] = WeakValueDictionary()
        # By the hashes of the references, the latest last: these are kept for a long time.
        self._ended_at: dict[int, float] = {}

    @property
    def tasks(self) -> dict[TaskRef, Task]:
        """The tasks that hold a slot."""
        return {ref: held.task for ref, held in self._held.items()}

    def add(self, ref: TaskRef, sent: Input, slot: Slot, nonce: str = "") -> Task:
        """Add the task of a submit that the service has just accepted.

        It takes over the slot of the submit. The nonce is that of the callback URL, if any.
        """
        tracked = self._scheduler.track(kind_of(sent), expects_callback=bool(nonce))
        task = Task(ref, tracked, self, self._scheduler, seen_running=True)
        on_expired = partial(self._expire, task)
        self._held[ref] = _Held(task, slot, on_expired, nonce)
        known = tracked.history.durations
        slot.confirm(ref, None if known is None else known.lifetime, on_expired)
        return task

    def attach(self, ref: TaskRef, kind: Kind, age: float | None) -> Task:
        """Return a task that the service accepted ``age`` seconds ago, if that is known.

        It holds no slot until it is seen to be running.
        """
        tracked = self._scheduler.track(kind, age)
        task = Task(ref, tracked, self, self._scheduler, tracked.age is Age.EXACT)
        self._attached[ref] = task
        return task

    def adopt(self, task: Task, nonce: str = "") -> None:
        """Hold a slot for an attached task that is found to be running."""
        ref = task.ref
        self._attached.pop(ref, None)
        on_expired = partial(self._expire, task)
        slot = self._executor.limiter.adopt(ref, task.presumed_lifetime, on_expired)
        self._held[ref] = _Held(task, slot, on_expired, nonce)

    def find(self, ref: TaskRef, nonce: str | None = None) -> Task | None:
        """Return a task, unless it is unknown, has been seen to end, or has another nonce."""
        held = self._held.get(ref)
        if held is None:
            return self._attached.get(ref)
        # The task of an earlier process may have any nonce.
        return held.task if nonce is None or held.nonce in {"", nonce} else None

    def has_nonce(self, ref: TaskRef, nonce: str) -> bool:
        """Whether the task was submitted with the callback URL that has this nonce."""
        held = self._held.get(ref)
        return held is not None and held.nonce == nonce

    def ended_at(self, ref: TaskRef) -> datetime | None:
        """Return when a task was seen to end that had been seen running, if it was of late."""
        moment = self._ended_at.get(hash(ref))
        return None if moment is None else datetime.fromtimestamp(moment, UTC)

    async def read_status(self, ref: TaskRef) -> Snapshot:
        """Send a status call, and update the task with the answer."""
        request = requests.build_status(ref)
        parse = partial(responses.parse_status, request, ref=ref)
        held = self._held.get(ref)
        task = self._attached.get(ref) if held is None else held.task
        try:
            snapshot = await self._executor.execute(
                request, partial(self._executor.send, request, parse)
            )
        except NotFoundError:
            if task is None or not task.may_appear:
                held = self._held.pop(ref, None)
                if held is not None:
                    held.slot.release()
                if task is not None and self._executor.events is not None:
                    self._executor.events.task_dropped(ref, "not_found")
            raise
        if self._executor.events is not None:
            self._executor.events.polled(snapshot)
        self.update(snapshot, known=task is not None)
        return snapshot

    def update(self, snapshot: Snapshot, *, known: bool) -> None:
        """Release the slot of a task that has ended; confirm or adopt one while it runs.

        A task that this client only sent a status call for holds no slot here: another process
        has submitted it.

        Args:
            snapshot: The status.
            known: Whether the task was known when the status call was sent. If it is not any
                more, it has ended meanwhile, and an answer that says that it runs is older.
        """
        ref = snapshot.ref
        if snapshot.state.ended:
            held = self._held.pop(ref, None)
            task = self._attached.pop(ref, None) if held is None else held.task
            if held is not None:
                held.slot.release()
            elif task is not None or not known:
                # A process that has died may have left a slot for it.
                self._executor.limiter.adopt(ref).release()
            if task is not None:
                if task.seen_running:
                    key = hash(ref)
                    self._ended_at.pop(key, None)
                    self._ended_at[key] = time.time()
                    if len(self._ended_at) > _REMEMBERED:
                        del self._ended_at[next(iter(self._ended_at))]
                if self._executor.events is not None:
                    self._executor.events.task_ended(snapshot)
        elif (held := self._held.get(ref)) is not None:
            held.slot.confirm(ref, held.task.presumed_lifetime, held.on_expired)
        elif (attached := self._attached.get(ref)) is not None:
            self.adopt(attached)

    def abandon(self, task: Task, error: BaseException | None = None) -> None:
        """Report a running task for which nothing waits; ``error`` is what the caller will get."""
        self.abandoned_tasks().report([task.ref], error)

    def abandoned_tasks(self, log: Report | None = None) -> AbandonedTasks:
        """Return the reporter of one operation; see `AbandonedTasks`."""
        return AbandonedTasks(self._emit_abandoned, log or log_warning, claim=self._claim)

    def _claim(self, ref: TaskRef) -> bool:
        """Return whether a task has not been reported as abandoned before; it is reported now."""
        task = self.find(ref)
        if task is None:  # it has ended
            return True
        first, task.reported = not task.reported, True
        return first

    def _expire(self, task: Task) -> None:
        """Forget a task whose slot has expired; one that a caller still refers to may return."""
        held = self._held.get(task.ref)
        if held is not None and held.task is task:
            del self._held[task.ref]
            self._attached[task.ref] = task
            if self._executor.events is not None:
                self._executor.events.task_dropped(task.ref, "presumed_ended")

    def _emit_abandoned(self, refs: tuple[TaskRef, ...]) -> None:
        if self._executor.events is not None:
            self._executor.events.tasks_abandoned(refs)


def kind_of(sent: Input) -> Kind:
    """Return the kind of an input's task: tasks of one kind take about as long."""
    duration, provider = getattr(sent, "duration", None), getattr(sent, "provider", None)
    return Kind(sent.model, sent.mode, duration, provider)
