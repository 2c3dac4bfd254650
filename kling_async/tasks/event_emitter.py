"""Emits the events of a client. This is imported only if there are hooks, or a log.

Each event is created in one place: here, from what the caller knows. Events with details are
created only for hooks that ask for them; see :class:`~kling_async.events.DetailedHook`.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import count
from typing import TYPE_CHECKING, Literal

from attrs import define

from kling_async import events
from kling_async.errors import AnswerLostError, KlingError
from kling_async.limits.base import Permit
from kling_async.protocol import requests
from kling_async.protocol.verdicts import Verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from kling_async.events import DetailedEvent, Hook
    from kling_async.images.preparer import ImagePreparer
    from kling_async.inputs.base import Input
    from kling_async.protocol.requests import Request
    from kling_async.results import SavedFile, Snapshot, TaskRef

_log = logging.getLogger("kling_async")

# The numbers of submits, of all clients of this process.
_submit_ids = count(1)


@define(eq=False)
class ObservedPermit:
    """A permit that knows the attempt that it is for; see `kling_async.limits.Permit`.

    Attributes:
        attempt: The number of the attempt, from 1.
        waited: Seconds that it was waited for.
    """

    _permit: Permit
    attempt: int
    waited: float

    @property
    def granted_at(self) -> float:
        """The loop's time at which it was granted."""
        return self._permit.granted_at

    def answered(self) -> None:
        """Note that the request has been answered or has failed."""
        self._permit.answered()


class EventEmitter:
    """Emits the events of one client.

    Args:
        hooks: Receive the events.
        base_url: The URL that the paths of requests are relative to, if it is known.
        limit: Requests per minute.
    """

    def __init__(self, hooks: tuple[Hook, ...], base_url: str, limit: int) -> None:
        self.hooks = hooks
        self._detailed = tuple(hook for hook in hooks if getattr(hook, "detailed", False))
        self._base_url = base_url
        self._limit = limit

    def traceparent(self, subject: int | TaskRef) -> str:
        """Return the trace context of a submit or a task, from the hook that traces it, if any."""
        for hook in self._detailed:
            find = getattr(hook, "traceparent", None)
            try:
                if find is not None and (found := find(subject)):
                    return str(found)
            except (Exception, asyncio.CancelledError):  # noqa: BLE001 - a hook is the user's code
                _log.exception("the traceparent of a hook failed")
        return ""

    # Submits.

    def submit_started(
        self, sent: Input, callback_url: str | None, images: ImagePreparer | None
    ) -> int:
        """Emit that a submit began, and return its number."""
        if not self._detailed:
            return 0
        if callback_url is not None:
            requests.build_submit(sent, callback_url)  # raises if it is invalid
        if images is None and sent.local_images:
            from kling_async.images.reading import no_store_error

            raise no_store_error(sent)
        submit_id = next(_submit_ids)
        self._emit_detail(events.SubmitStarted(sent, submit_id=submit_id))
        return submit_id

    def slot_acquired(self, request: Request, sent: Input, waited: float) -> None:
        """Emit that a submit has a slot."""
        self._emit_detail(events.SlotAcquired(sent, waited, submit_id=request.submit_id))

    def submitted(self, ref: TaskRef, sent: Input, submit_id: int) -> None:
        """Emit that the service has accepted a submit."""
        self._deliver(events.Submitted(ref, sent, submit_id=submit_id))

    def submit_concluded(
        self,
        request: Request,
        sent: Input,
        error: BaseException | None = None,
        *,
        may_run: bool = False,
    ) -> None:
        """Emit that a submit has failed, or was given up without an error of ours, at no cost."""
        if may_run and not isinstance(error, KlingError):
            text = f"a submit ended with {type(error).__name__}: a task may have been charged"
            lost = AnswerLostError(text, may_have_charged=True, verdict=Verdict.UNKNOWN)
            lost.__cause__, error = error, lost
        if isinstance(error, KlingError):
            self._deliver(events.SubmitFailed(sent, error, submit_id=request.submit_id))
        else:
            self._emit_detail(events.SubmitWithdrawn(sent, submit_id=request.submit_id))

    # Requests.

    def observe(self, permit: Permit, attempt: int, waited: float) -> Permit:
        """Return a permit that knows what the event of its request needs."""
        return ObservedPermit(permit, attempt, waited) if self._detailed else permit

    def request_answered(
        self,
        request: Request,
        permit: Permit,
        sent_at: float,
        status: int | None,
        error: KlingError | None,
    ) -> None:
        """Emit that a request was answered, or has failed."""
        if not isinstance(permit, ObservedPermit):
            return
        event = events.RequestAnswered(
            kind=request.kind,
            method=request.method,
            url=f"{self._base_url}{request.path}",
            path=request.path.partition("?")[0],
            attempt=permit.attempt,
            waited=permit.waited,
            seconds=asyncio.get_running_loop().time() - sent_at,
            status=status,
            error=error,
            limit=self._limit,
            ref=request.ref,
            submit_id=request.submit_id,
        )
        self._emit_detail(event)

    def retrying(self, request: Request, error: KlingError, attempt: int, delay: float) -> None:
        """Emit that a request is sent again."""
        kind, ref, submit_id = request.kind, request.ref, request.submit_id
        self._deliver(events.Retrying(kind, error, attempt, delay, ref=ref, submit_id=submit_id))

    def paused(self, delay: float) -> None:
        """Emit that all requests wait."""
        self._deliver(events.Paused(delay))

    def task_limit_changed(self, tasks: int, limit: int) -> None:
        """Emit that more or fewer tasks may run."""
        self._deliver(events.TaskLimitChanged(tasks, limit))

    # Tasks.

    def task_attached(
        self,
        ref: TaskRef,
        sent: Input | None,
        submitted_at: datetime | None,
        traceparent: str,
        holds_slot: bool,  # noqa: FBT001 - one of the event's values
    ) -> None:
        """Emit that a task is followed."""
        self._emit_detail(
            events.TaskAttached(ref, sent, submitted_at, traceparent, holds_slot=holds_slot)
        )

    def polled(self, snapshot: Snapshot) -> None:
        """Emit that a status request was answered."""
        self._deliver(events.Polled(snapshot))

    def called_back(self, snapshot: Snapshot) -> None:
        """Emit that a callback of a running task was received."""
        self._deliver(events.CalledBack(snapshot))

    def task_ended(self, snapshot: Snapshot) -> None:
        """Emit that a task has ended."""
        self._deliver(events.TaskEnded(snapshot))

    def task_dropped(self, ref: TaskRef, reason: Literal["not_found", "presumed_ended"]) -> None:
        """Emit that a task is not followed any more."""
        self._emit_detail(events.TaskDropped(ref, reason))

    def tasks_abandoned(self, refs: tuple[TaskRef, ...]) -> None:
        """Emit that nothing waits for tasks any more."""
        self._deliver(events.TasksAbandoned(refs))

    async def download(
        self,
        save: Callable[..., Awaitable[tuple[SavedFile, ...]]],
        ref: TaskRef,
        traceparent: str,
    ) -> tuple[SavedFile, ...]:
        """Download a result, and emit the end of it.

        Args:
            save: Downloads it; calls its argument ``on_received`` with numbers of bytes.
            ref: The task.
            traceparent: The trace context, if the caller knows it.
        """
        received, clock = 0, asyncio.get_running_loop().time
        started = clock()

        def count_bytes(size: int) -> None:
            nonlocal received
            received += size

        files: tuple[SavedFile, ...] = ()
        failed: BaseException | None = None
        try:
            files = await save(on_received=count_bytes)
        except BaseException as error:
            failed = error
            raise
        else:
            return files
        finally:
            seconds = clock() - started
            self._emit_detail(
                events.DownloadEnded(ref, files, received, seconds, failed, traceparent)
            )

    def _emit_detail(self, event: DetailedEvent) -> None:
        self._deliver(event, self._detailed)

    def _deliver(self, event: DetailedEvent, hooks: tuple[Hook, ...] | None = None) -> None:
        """Pass an event to all hooks, or to these."""
        for hook in self.hooks if hooks is None else hooks:
            try:
                hook(event)  # type: ignore[arg-type]  # a detailed one if the event has details
            except (Exception, asyncio.CancelledError):  # noqa: BLE001 - a hook is the user's code
                _log.exception("a hook failed on %s", type(event).__name__)
