"""Which tasks run: each with its slot, until its end is known or presumed."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary

from kling_async.download.recent import Recent
from kling_async.errors import KlingError, NotFoundError
from kling_async.events import Polled, TaskEnded, TasksAbandoned
from kling_async.policy.durations import Kind
from kling_async.protocol import requests, responses
from kling_async.tasks.abandoned import AbandonedTasks
from kling_async.tasks.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from kling_async.inputs.base import Input
    from kling_async.limits.base import Slot
    from kling_async.results import Snapshot, TaskRef
    from kling_async.tasks.abandoned import Report
    from kling_async.tasks.poll_scheduler import Polls
    from kling_async.tasks.request_executor import Calls

_log = logging.getLogger("kling_async")


class _Held(NamedTuple):
    task: Task
    slot: Slot
    on_expired: Callable[[], None]
    nonce: str = ""  # of the callback URL that its submit was given


class Running:
    """The tasks that a client knows of and has not seen end. Belongs to one client.

    A task leaves it when the service says that it has ended or that there is no such task, and
    when its slot expires: by then it is presumed to have ended.
    """

    def __init__(self, calls: Calls, polls: Polls) -> None:
        self._calls = calls
        self._polls = polls
        self.recent: Recent = Recent()
        self._held: dict[TaskRef, _Held] = {}
        # Attached, or presumed to have ended; and not yet seen to be running or to have ended.
        self._attached: WeakValueDictionary[TaskRef, Task] = WeakValueDictionary()

    @property
    def tasks(self) -> dict[TaskRef, Task]:
        """The tasks that hold a slot."""
        return {ref: held.task for ref, held in self._held.items()}

    def task(
        self, ref: TaskRef, kind: Kind, age: float | None = 0.0, *, called_back: bool = False
    ) -> Task:
        """Make a task that is ``age`` seconds old; None: its age is not known."""
        course = self._polls.course(kind, age, called_back=called_back)
        return Task(ref, kind, self, self._polls, course, age_known=age is not None)

    def check_loop(self) -> None:
        """Raise if another event loop that runs uses the client."""
        self._calls.loops.check()

    async def ask(self, ref: TaskRef) -> Snapshot:
        """Ask the service how a task is, and take note of the answer."""
        request = requests.build_status(ref)
        task = self.find(ref)
        try:
            snapshot = await self._calls.read(
                request,
                lambda response: responses.parse_status(request, response, ref, datetime.now(UTC)),
            )
        except NotFoundError:
            if task is None or not task.may_appear:
                self._forget(ref)
            raise
        self._calls.tell(Polled, snapshot)
        self.note(snapshot, known=task is not None)
        return snapshot

    def begin(self, task: Task, slot: Slot, nonce: str = "") -> None:
        """Note a task that the service has accepted."""
        held = _Held(task, slot, partial(self._expired, task), nonce)
        self._held[task.ref] = held
        self._confirm(held)

    def hold(self, task: Task, nonce: str = "") -> None:
        """Hold a slot for a task that was not known, and is found to be running already."""
        self._attached.pop(task.ref, None)
        on_expired = partial(self._expired, task)
        lifetime = self._polls.lifetime(task.kind, accepted=True)
        slot = self._calls.limiter.adopt(task.ref, lifetime, on_expired)
        self._held[task.ref] = _Held(task, slot, on_expired, nonce)

    def attach(self, task: Task) -> None:
        """Note a task that a caller holds, of which it is not known whether it runs."""
        self._attached[task.ref] = task

    def find(self, ref: TaskRef) -> Task | None:
        """Return the task, unless it is unknown or known to have ended."""
        held = self._held.get(ref)
        return self._attached.get(ref) if held is None else held.task

    def called(self, ref: TaskRef, nonce: str) -> Task | None:
        """Return the task that a callback to the URL with this nonce may speak of."""
        held = self._held.get(ref)
        # A task of an earlier process may have any nonce: this process does not know it.
        return None if held and held.nonce and held.nonce != nonce else self.find(ref)

    def gave(self, ref: TaskRef, nonce: str) -> bool:
        """Whether the task was submitted with the callback URL that has this nonce."""
        held = self._held.get(ref)
        return held is not None and held.nonce == nonce

    def note(self, snapshot: Snapshot, *, known: bool) -> None:
        """Give a slot back as soon as its task is known to have ended; hold one while it runs.

        A task that was only asked about once, and that this client does not wait for, holds no
        slot here: another process has submitted it.

        Args:
            snapshot: What the service says.
            known: Whether the task was found when the service was asked. If it is not any more,
                it has ended meanwhile, and an answer that says that it runs is older than that.
        """
        ref = snapshot.ref
        held = self._held.get(ref)
        if snapshot.state.ended:
            task = self._attached.pop(ref, None)
            if held is not None:
                del self._held[ref]
                held.slot.release()
            elif task is not None or not known:
                # A process that has died may have left its slot to it.
                self._calls.limiter.adopt(ref).release()
            task = held.task if held is not None else task
            if task is not None:
                if task.seen_running:
                    self.recent.note(ref)
                self._calls.tell(TaskEnded, snapshot)
        elif held is not None:
            self._confirm(held)
        elif (attached := self._attached.get(ref)) is not None:
            self.hold(attached)

    def _forget(self, ref: TaskRef) -> None:
        """Release the slot of a task that the service does not know."""
        held = self._held.pop(ref, None)
        if held is not None:
            held.slot.release()

    def abandon(self, *tasks: Task, error: BaseException | None = None) -> None:
        """Report tasks that nothing waits for any more, and that run at the service.

        Args:
            tasks: The tasks.
            error: The exception that the caller will see.
        """
        self.abandoned().report([task.ref for task in tasks], error)

    def abandoned(self, log: Report | None = None) -> AbandonedTasks:
        """Return what reports the tasks that one operation abandons; see `AbandonedTasks`."""
        return AbandonedTasks(
            lambda refs: self._calls.tell(TasksAbandoned, refs), log, claim=self._claim
        )

    def _claim(self, ref: TaskRef) -> bool:
        """Whether a task has not been reported as abandoned yet; from now on, it has."""
        task = self.find(ref)
        if task is None:  # it has ended
            return True
        first, task.reported = not task.reported, True
        return first

    def _confirm(self, held: _Held) -> None:
        lifetime = self._polls.lifetime(held.task.kind, accepted=True)
        held.slot.confirm(held.task.ref, lifetime, held.on_expired)

    def _expired(self, task: Task) -> None:
        """Forget a task whose slot has expired; one that a caller still holds may return."""
        held = self._held.get(task.ref)
        if held is not None and held.task is task:
            del self._held[task.ref]
            self._attached[task.ref] = task


def kind_of(sent: Input) -> Kind:
    """Return what an input has in common with those that take as long."""
    duration, provider = getattr(sent, "duration", None), getattr(sent, "provider", None)
    return Kind(sent.model, sent.mode, duration, provider)


async def attend(task: Task, *, once: bool = False) -> None:
    """Wait for a task that no caller waits for, so that its end is noticed.

    Args:
        task: The task.
        once: Ask once how it is, and do not wait.
    """
    try:
        await (task.status() if once else task.outcome())
    except KlingError:  # it is kept for those who wait for the task, or means nothing to them
        pass
    except Exception:  # noqa: BLE001 - of a transport or limiter of the user's
        _log.exception("watching %s failed", task.ref)
