"""A client's callbacks: which task each one wakes, and which submits still expect one.

A callback may arrive before the answer to its own submit. It may also arrive where that answer
was lost: then it brings the reference of a task that would not be found otherwise.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Protocol

from attrs import define

from kling_async._utils.loops import PerLoop
from kling_async.errors import KlingError
from kling_async.inputs.base import Input
from kling_async.limits.base import Slot
from kling_async.protocol.callbacks import Callback, pack_traceparent
from kling_async.results import TaskRef, TaskState
from kling_async.tasks.task import poll_unattended
from kling_async.tasks.task_registry import kind_of

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from kling_async.tasks.poll_scheduler import PollScheduler
    from kling_async.tasks.request_executor import RequestExecutor
    from kling_async.tasks.task import Task
    from kling_async.tasks.task_registry import TaskRegistry

_log = logging.getLogger("kling_async")

_NONCE_BYTES = 12


class Listener(Protocol):
    """Handles the callbacks of an inbox: each of its clients is one."""

    def handle(self, callback: Callback) -> bool:
        """Handle a callback; return whether it is about a running task of this client."""


class CallbackSource(Protocol):
    """Where callbacks arrive, as a client sees it: :class:`kling_async.webhooks.Inbox`."""

    def callback_url(self, model: str, nonce: str) -> str:
        """Return the URL for one submit."""

    def join(self, listener: Listener) -> None:
        """Pass every callback to this listener, as long as it exists."""


@define(eq=False)
class PendingCallback:
    """A submit with a callback URL of its own, from its sending until its task is known."""

    sent: Input
    nonce: str
    url: str
    on_accepted: Callable[[TaskRef], Awaitable[None]] | None = None  # receives the reference
    submit_id: int = 0  # in events
    slot: Slot | None = None
    sent_at: float = 0.0
    callback: Callback | None = None  # that has come already
    lost: bool = False  # the answer to the submit


class CallbackRouter:
    """Routes the callbacks that arrive at the inbox of one client."""

    def __init__(
        self,
        inbox: CallbackSource,
        registry: TaskRegistry,
        executor: RequestExecutor,
        scheduler: PollScheduler,
    ) -> None:
        self._inbox = inbox
        self._registry = registry
        self._executor = executor
        self._scheduler = scheduler
        self._pending: dict[str, PendingCallback] = {}
        self._closed = False  # and not used since
        self._attendants: PerLoop[set[asyncio.Task[None]]] = PerLoop("client", lambda _: set())
        inbox.join(self)

    def expect(
        self, sent: Input, on_accepted: Callable[[TaskRef], Awaitable[None]] | None, submit_id: int
    ) -> PendingCallback:
        """Create the callback URL of a submit. It carries the trace context, if there is one.

        ``on_accepted`` gets the reference if the answer is lost and a callback has it.
        """
        nonce = token_urlsafe(_NONCE_BYTES)
        if self._executor.events is not None:
            nonce += pack_traceparent(self._executor.events.traceparent(submit_id))
        url = self._inbox.callback_url(sent.model, nonce)
        return PendingCallback(sent, nonce, url, on_accepted, submit_id)

    def start(self, pending: PendingCallback, slot: Slot) -> None:
        """Keep the callbacks for a submit that is being sent."""
        self._closed = False
        pending.slot, pending.sent_at = slot, asyncio.get_running_loop().time()
        self._pending[pending.nonce] = pending

    def accepted(self, pending: PendingCallback, task: Task) -> None:
        """Pass on the callback that arrived before the task was known."""
        del self._pending[pending.nonce]
        if pending.callback is not None and pending.callback.snapshot.ref == task.ref:
            self._wake(task, pending.callback)

    def failed(self, pending: PendingCallback, error: BaseException) -> Task | None:
        """Expect no callback any more, unless a task may have been started.

        Returns that task, if its callback has arrived already: it proves more than any answer.
        """
        free = isinstance(error, KlingError) and not error.may_have_charged
        if free and pending.callback is None:
            del self._pending[pending.nonce]
            return None
        pending.lost = True
        if not isinstance(error, Exception):  # the loop itself is ending
            self._closed = True
        # The presumed lifetime limits how long a lost submit is kept, and so how many are.
        oldest = pending.sent_at - self._executor.limits.presumed_lifetime
        for other in list(self._pending.values()):
            if other.lost and other.sent_at < oldest:
                del self._pending[other.nonce]
        return None if pending.callback is None else self._recover(pending, pending.callback)

    def handle(self, callback: Callback) -> bool:
        """Handle a callback, on any thread; return whether it is about a running task."""
        try:
            current = asyncio.get_running_loop()
        except RuntimeError:
            current = None
        loop = self._scheduler.queues.loop or current
        if loop is None:  # no loop runs on which a caller could wait
            return False
        snapshot = callback.snapshot
        pending = self._pending.get(callback.nonce)
        task = self._registry.find(snapshot.ref, callback.nonce) if pending is None else None
        known = pending is not None or task is not None
        if loop is not current:
            try:
                loop.call_soon_threadsafe(self.handle, callback)
            except RuntimeError:  # it was closed in this moment
                return False
            return known
        self._scheduler.record_callback()
        if pending is not None:
            # Callbacks may arrive out of order.
            if pending.callback is None or snapshot.state.ended:
                pending.callback = callback
            if pending.lost and (found := self._recover(pending, callback)) is not None:
                self._registry.abandon(found)  # its caller got an error, and does not wait for it
                self._start_attendant(_report_recovered(pending, snapshot.ref))
        elif task is not None:
            self._wake(task, callback)
        return known

    async def close(self) -> None:
        """Stop what runs without a caller, and start nothing more before the next submit."""
        attendants = self._attendants.get()
        self._closed = True
        for attendant in attendants:
            attendant.cancel()
        if attendants:
            await asyncio.wait(attendants)

    def _recover(self, pending: PendingCallback, callback: Callback) -> Task | None:
        """Adopt a task whose reference was lost with the answer to its submit."""
        assert pending.slot is not None  # noqa: S101 - it was sent
        ref, now = callback.snapshot.ref, asyncio.get_running_loop().time()
        if self._registry.find(ref) is not None:  # attached meanwhile, or another submit's
            return None
        task = self._registry.attach(ref, kind_of(pending.sent), now - pending.sent_at)
        self._registry.adopt(task, pending.nonce)
        # The slot of the lost submit may have expired; the task has one of its own now.
        pending.slot.release()
        if self._executor.events is not None:
            self._executor.events.submitted(ref, pending.sent, pending.submit_id)
        self.accepted(pending, task)
        return task

    def _wake(self, task: Task, callback: Callback) -> None:
        snapshot = callback.snapshot
        if self._executor.events is not None:
            self._executor.events.called_back(snapshot)
        # A relayed callback has no token that proves it. The nonce proves as much, if it is known.
        proven = not callback.relayed or self._registry.has_nonce(task.ref, callback.nonce)
        # A success without URLs is of no use: the status call may have them.
        useful = snapshot.result_urls or snapshot.state is TaskState.FAILED
        if callback.trusted and proven and useful:
            self._registry.update(snapshot, known=True)
            task.notify_ended(snapshot)
            return
        ended = snapshot.state.ended
        waited_for = task.notify_ended() if ended else task.notify_running()
        if not waited_for and not self._closed:
            self._start_attendant(poll_unattended(task, once=not ended))

    def _start_attendant(self, work: Coroutine[object, object, None]) -> None:
        attendants = self._attendants.get()
        attendant = asyncio.create_task(work)
        attendants.add(attendant)
        attendant.add_done_callback(attendants.discard)


async def _report_recovered(pending: PendingCallback, ref: TaskRef) -> None:
    """Report a task to the observer of its submit, whose caller got an error earlier."""
    if pending.on_accepted is not None:
        try:
            await pending.on_accepted(ref)
        except Exception:  # noqa: BLE001 - its caller has left
            _log.exception("the task %s of a lost submit could not be recorded", ref)
