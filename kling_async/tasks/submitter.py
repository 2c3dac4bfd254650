"""Submits: a slot first, then one request whose answer is read even if the caller has left.

Closing the client interrupts a submit that waits for a slot, a permit, or its next attempt, which
costs nothing. Once the request is sent, it runs in an asyncio task of its own until it is answered:
neither a cancellation of the caller nor closing interrupts that.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Protocol

from attrs import Factory, define

from kling_async._utils.loops import PerLoop
from kling_async.errors import (
    AnswerLostError,
    ClientClosedError,
    KlingError,
    RateLimitError,
)
from kling_async.inputs.base import Input
from kling_async.limits.base import Slot
from kling_async.protocol import requests, responses
from kling_async.protocol.verdicts import Verdict
from kling_async.tasks.request_executor import Failed
from kling_async.tasks.task import Task, poll_unattended
from kling_async.tasks.task_registry import kind_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from kling_async.images.preparer import ImagePreparer
    from kling_async.limits.base import Permit
    from kling_async.results import TaskRef

    # attrs does not read the annotations of PendingSubmit and _LoopSubmits.
    from kling_async.tasks.callback_router import CallbackRouter, PendingCallback  # noqa: TC004
    from kling_async.tasks.outage import Attempt, OutageGate  # noqa: TC004
    from kling_async.tasks.poll_scheduler import PollQueue, PollScheduler  # noqa: TC004
    from kling_async.tasks.request_executor import RequestExecutor
    from kling_async.tasks.task_registry import TaskRegistry

_log = logging.getLogger("kling_async")

# Seconds between two searches for tasks for which nothing waits, while submits wait for slots.
_SWEEP_EVERY = 1.0

# Seconds after which the wait for the answers to submits is reported in the log.
_QUIET = 0.5

# Seconds between two checks whether the callers have left, while the client is being closed.
_CHECK_EVERY = 0.001

_CLOSED = "the client was closed before the submit was sent; nothing was charged"


class SubmitObserver(Protocol):
    """Observes a submit step by step, so as to record what may cost money.

    An attribute ``patience``, if there is one, is the number of seconds for which the submit is
    repeated while the service cannot be reached or is unavailable, instead of
    :attr:`Retry.attempts` and :attr:`Retry.deadline`. An attribute ``traceparent``, if there is
    one, is set to the W3C trace context of a task that is traced, before :meth:`on_accepted`.
    """

    async def before_send(self) -> None:
        """Do what must be done before the request is sent; it may cost money from then on.

        It has its permit: be quick. What this raises, ``submit`` raises, and nothing is sent.
        """

    async def on_rejected(self, error: KlingError) -> None:
        """Record that it was not accepted and cost nothing. A repetition calls `before_send`.

        What this raises, ``submit`` raises, and nothing more is sent.
        """

    async def on_accepted(self, ref: TaskRef) -> None:
        """Record the task. This is called even if the caller was cancelled meanwhile.

        What this raises, ``submit`` raises, with ``ref`` and ``may_have_charged``. The request was
        accepted, and is never sent again.
        """


@define(eq=False)
class PendingSubmit:
    """One submit, until its caller has the task or the error."""

    sent: Input
    request: requests.Request
    observer: SubmitObserver | None
    callback: PendingCallback | None
    caller: asyncio.Task[object]
    cancelling: int  # requests to cancel the caller that were there before
    slot: Slot | None = None  # until the registry owns it
    closed: bool = False  # by closing the client
    attempt: Attempt | None = None  # to reach the service, in a fan-out or batch
    may_run: bool = False  # a task of the last sending, as far as is known
    task: Task | None = None  # until its reference is with the observer or the caller
    # The outcome of the sending that is under way, until the caller has it.
    response: asyncio.Future[Task | Failed] | None = None


@define(eq=False)
class _LoopSubmits:
    """The submits on one event loop."""

    polls: PollQueue
    outage: OutageGate | None = None  # of fan-outs and batches
    pending: set[PendingSubmit] = Factory(set)
    sending: set[asyncio.Task[None]] = Factory(set)
    waiting_for_slot: int = 0
    sweeper: asyncio.Task[None] | None = None
    sweep_timer: asyncio.TimerHandle | None = None


class Submitter:
    """Turns inputs into tasks. Belongs to one client."""

    def __init__(
        self,
        executor: RequestExecutor,
        scheduler: PollScheduler,
        registry: TaskRegistry,
        router: CallbackRouter | None,
        images: ImagePreparer | None = None,
    ) -> None:
        self.images = images
        self._executor = executor
        self._scheduler = scheduler
        self._registry = registry
        self._router = router
        self._limit = executor.limits.concurrent_tasks  # the effective one, last seen
        self._closings = 0  # in progress
        self._submits = PerLoop("client", lambda _: _LoopSubmits(scheduler.queues.get()))

    async def submit(
        self, sent: Input, callback_url: str | None = None, observer: SubmitObserver | None = None
    ) -> Task:
        """Submit one input; see :meth:`KlingClient.submit`."""
        submits = self._submits.get()
        callback, submit_id = None, 0
        if (events := self._executor.events) is not None:
            submit_id = events.submit_started(sent, callback_url, self.images)
        if callback_url is None and self._router is not None:
            report = observer.on_accepted if observer else None
            callback = self._router.expect(sent, report, submit_id)
            callback_url = callback.url
        request = requests.build_submit(sent, callback_url, submit_id)
        caller = asyncio.current_task()
        assert caller is not None  # noqa: S101 - a coroutine that awaits runs in one
        pending = PendingSubmit(sent, request, observer, callback, caller, caller.cancelling())
        prepare: Callable[[int], Awaitable[None]] = partial(self._acquire, submits, pending)
        if request.body is None or (self.images is not None and self.images.needs(sent)):
            prepare = self._preparing_images(submits, pending, callback_url)
        submits.pending.add(pending)
        try:
            return await self._executor.execute(
                request,
                partial(self._send_once, submits, pending),
                prepare=prepare,
                patience=getattr(observer, "patience", None),
            )
        except asyncio.CancelledError as error:
            self._cancelled(pending, error)
            if pending.closed and caller.uncancel() <= pending.cancelling:
                closed = ClientClosedError(_CLOSED)
                if events is not None:
                    events.submit_concluded(request, sent, closed)
                raise closed from None
            if events is not None and pending.response is None:
                events.submit_concluded(request, sent)
            raise
        except BaseException as error:
            self._settle(pending, error)
            raise
        finally:
            submits.pending.discard(pending)
            if pending.attempt is not None and pending.response is None:
                pending.attempt.withdraw()  # else it is under way and has an outcome to come

    async def close(self, closer: asyncio.Task[object] | None = None) -> None:
        """Interrupt pending submits, and wait until those under way have been answered.

        One whose observer closes the client, in the task ``closer``, is not waited for.
        """
        submits = self._submits.get()
        while others := [one for one in submits.pending if one.caller is not closer]:
            for pending in others:
                if pending.response is None and not pending.closed:
                    pending.closed = True
                    pending.caller.cancel()
            await self.wait_answered()
            await asyncio.sleep(_CHECK_EVERY)  # the callers get their answers, or leave
        await self.wait_answered()

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Raise :class:`ClientClosedError` in submits that begin meanwhile."""
        self._closings += 1
        try:
            yield
        finally:
            self._closings -= 1

    def is_sending(self, task: asyncio.Task[object] | None) -> bool:
        """Return whether a submit under way is in this asyncio task, as its observer is, too."""
        return task in self._submits.get().sending

    async def wait_answered(self) -> None:
        """Wait until every submit under way has been answered."""
        sending = self._submits.get().sending
        if not sending:
            return
        _, waiting = await asyncio.wait(sending, timeout=_QUIET)
        if waiting:
            _log.warning(
                "waiting up to %g s for the answers to submits under way: %d; if you interrupt"
                " this, a task may have been started and charged without a reference",
                self._executor.retry.request_timeout,
                len(waiting),
            )
            await asyncio.wait(waiting)

    async def _acquire(self, submits: _LoopSubmits, pending: PendingSubmit, attempt: int) -> None:
        """Wait for a slot and, in a fan-out, the end of an outage."""
        if self._closings:
            raise ClientClosedError(_CLOSED)
        limiter, loop = self._executor.limiter, submits.polls.loop
        if pending.slot is None:  # the service may have refused the one of the last attempt
            submits.waiting_for_slot += 1
            if submits.sweep_timer is None:  # most submits have their slots long before it expires
                submits.sweep_timer = loop.call_later(_SWEEP_EVERY, self._start_sweep, submits)
            asked_at = 0.0 if self._executor.events is None else loop.time()
            try:
                pending.slot = await limiter.slot(first=attempt > 1)
            finally:
                submits.waiting_for_slot -= 1
                if not submits.waiting_for_slot and submits.sweeper is not None:
                    submits.sweeper.cancel()
                    submits.sweeper = None
            if (events := self._executor.events) is not None:
                events.slot_acquired(pending.request, pending.sent, loop.time() - asked_at)
                self._report_limit()
        if getattr(pending.observer, "patience", None) is not None:
            if submits.outage is None:
                from kling_async.tasks.outage import OutageGate

                submits.outage = OutageGate(loop, longest_wait=self._executor.retry.cap)
            pending.attempt = await submits.outage.wait()

    def _preparing_images(
        self, submits: _LoopSubmits, pending: PendingSubmit, callback_url: str | None
    ) -> Callable[[int], Awaitable[None]]:
        """Return what prepares the images of an input while a slot is waited for."""
        images = self.images
        if images is None:
            from kling_async.images.reading import no_store_error

            raise no_store_error(pending.sent)

        async def prepare(attempt: int) -> None:
            acquire = partial(self._acquire, submits, pending, attempt)
            prepared = await images.prepare_during(pending.sent, acquire)
            submit_id = pending.request.submit_id
            pending.request = requests.build_submit(prepared, callback_url, submit_id)

        return prepare

    def _start_sweep(self, submits: _LoopSubmits) -> None:
        submits.sweep_timer = None
        if submits.waiting_for_slot and submits.sweeper is None:
            submits.sweeper = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        """Wait for all running tasks: those without waiters must not hold all slots for ever."""
        attended: set[TaskRef] = set()
        async with asyncio.TaskGroup() as waiters:
            while True:
                running = self._registry.tasks
                for ref in running.keys() - attended:
                    waiters.create_task(poll_unattended(running[ref]))
                attended = set(running)
                await asyncio.sleep(_SWEEP_EVERY)

    async def _send_once(
        self, submits: _LoopSubmits, pending: PendingSubmit, permit: Permit
    ) -> Task | Failed:
        """Start sending the request, and wait for the outcome."""
        loop = submits.polls.loop
        # It takes its share of the request limit from the polls.
        submits.polls.submits.append(permit.granted_at)
        if pending.observer is not None:
            try:
                await pending.observer.before_send()
            except BaseException:
                permit.answered()
                raise
        response: asyncio.Future[Task | Failed] = loop.create_future()
        pending.response, pending.may_run = response, True
        if pending.callback is not None and pending.slot is not None and self._router is not None:
            self._router.start(pending.callback, pending.slot)
        work = self._send(pending, permit, response, submits.sending)
        # An eager start costs less than one in the loop's next iteration, in which all callers
        # would release their last answers before they use new memory.
        if sys.version_info >= (3, 12) and loop.get_task_factory() is None:
            task = asyncio.Task(work, loop=loop, eager_start=True)  # pragma: no cover - not on 3.11
        else:
            task = loop.create_task(work)
        if not task.done():  # pragma: no branch - it may be from Python 3.12 on
            submits.sending.add(task)
        outcome = await response
        pending.response = pending.task = pending.attempt = None
        return outcome

    async def _send(
        self,
        pending: PendingSubmit,
        permit: Permit,
        response: asyncio.Future[Task | Failed],
        sending: set[asyncio.Task[None]],
    ) -> None:
        """Send the request, read the answer, and pass the outcome to the observer and caller."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this runs in one
        sending.add(task)  # which has not been returned to its creator, if it was started eagerly
        try:
            outcome = await self._exchange(pending, permit)
            if isinstance(outcome, Failed):
                pending.may_run = outcome.error.may_have_charged
            else:
                pending.task = outcome
            if pending.attempt is not None:
                pending.attempt.record(outcome.error if isinstance(outcome, Failed) else None)
                pending.attempt = None
            if pending.observer is not None:
                await _report(pending.observer, outcome)
                pending.task = None
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):  # the loop is ending
            response.cancel()
            self._interrupted(pending)
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the caller's
            if response.done():
                self._conclude(pending, error)
            else:
                response.set_exception(error)
        else:
            if not response.done():
                response.set_result(outcome)
            else:
                failure = outcome.error if isinstance(outcome, Failed) else None
                self._conclude(pending, failure, permit=permit)
        finally:
            sending.discard(task)

    async def _exchange(self, pending: PendingSubmit, permit: Permit) -> Task | Failed:
        """Send the request, and return the task that was started, or the failure."""
        parse = partial(responses.parse_submit, pending.request, model=pending.sent.model)
        try:
            outcome = await self._executor.send(pending.request, parse, permit)
        except BaseException as error:
            found = self._recover(pending, error)
            if found is not None and isinstance(error, Exception):
                return found
            if pending.attempt is not None:  # the transport's own error proves nothing
                pending.attempt.withdraw()
            raise
        if isinstance(outcome, Failed):
            failure = outcome.error
            if (found := self._recover(pending, failure)) is not None:
                return found
            busy = isinstance(failure, RateLimitError) and failure.retryable
            if busy and pending.slot is not None:
                self._executor.limiter.refused(pending.slot)
                pending.slot = None
                self._report_limit()
            return outcome
        assert pending.slot is not None  # noqa: S101 - nothing is sent without
        callback = pending.callback
        nonce = callback.nonce if callback is not None else ""
        task = self._registry.add(outcome, pending.sent, pending.slot, nonce)
        pending.slot = None
        if (events := self._executor.events) is not None:
            events.submitted(outcome, pending.sent, pending.request.submit_id)
            if hasattr(pending.observer, "traceparent"):
                pending.observer.traceparent = events.traceparent(outcome)  # type: ignore[union-attr]
        if callback is not None and self._router is not None:
            self._router.accepted(callback, task)
        return task

    def _recover(self, pending: PendingSubmit, error: BaseException) -> Task | None:
        """Return the task of a submit that failed, if its callback has arrived already."""
        if pending.callback is None or self._router is None:
            return None
        task = self._router.failed(pending.callback, error)
        if task is not None:
            pending.slot = None
        return task

    def _cancelled(self, pending: PendingSubmit, cancellation: BaseException) -> None:
        """Conclude a submit whose caller was cancelled, unless its answer is yet to come."""
        response = pending.response
        if response is None:  # nothing is under way
            if pending.slot is not None:
                pending.slot.release()
        elif response.done() and not response.cancelled():
            # It was answered in the moment of the cancellation.
            error = response.exception()
            outcome = None if error else response.result()
            error = outcome.error if isinstance(outcome, Failed) else error
            self._conclude(pending, error, cancellation)

    def _conclude(
        self,
        pending: PendingSubmit,
        error: BaseException | None,
        cancellation: BaseException | None = None,
        permit: Permit | None = None,
    ) -> None:
        """Conclude a submit that was answered when its caller had left."""
        if pending.task is not None:
            self._registry.abandon(pending.task, cancellation)
        elif error is not None:
            if isinstance(error, RateLimitError) and permit is not None:
                self._executor.pause_after(pending.request, error, permit)
            self._settle(pending, error)

    def _interrupted(self, pending: PendingSubmit) -> None:
        """Report a submit whose answer is never read, since the event loop ends."""
        if pending.task is not None:
            self._registry.abandon(pending.task)
            return
        if not pending.may_run:  # it was refused
            if pending.slot is not None:  # else it was refused since too many tasks run
                pending.slot.release()
            if self._executor.events is not None:
                self._executor.events.submit_concluded(pending.request, pending.sent)
            return
        lost = AnswerLostError(
            "the event loop ended before a submit was answered; a task may have been started and"
            " charged",
            may_have_charged=True,
            verdict=Verdict.UNKNOWN,
        )
        # Without the prompt, which may be confidential: the event has it.
        _log.warning("%s: an input of %s, %s", lost, pending.sent.model, pending.sent.mode)
        self._settle(pending, lost)

    def _settle(self, pending: PendingSubmit, error: BaseException) -> None:
        """Conclude a submit that failed: its slot is released if it is certain that no task runs.

        What else a transport raises proves nothing once the request was under way.
        """
        if pending.task is not None:  # it was accepted, and its observer has failed
            return
        may_run = error.may_have_charged if isinstance(error, KlingError) else pending.may_run
        if (events := self._executor.events) is not None:
            events.submit_concluded(pending.request, pending.sent, error, may_run=may_run)
        if pending.slot is None or isinstance(error, GeneratorExit):  # the loop has ended
            return
        if may_run:
            pending.slot.expire_in(self._scheduler.unsure_lifetime(kind_of(pending.sent)))
        else:
            pending.slot.release()

    def _report_limit(self) -> None:
        """Emit an event if the effective limit of running tasks has changed."""
        limiter, before = self._executor.limiter, self._limit
        self._limit = limit = limiter.effective_tasks
        if limit != before and self._executor.events is not None:
            self._executor.events.task_limit_changed(limit, limiter.limits.concurrent_tasks)


async def _report(observer: SubmitObserver, outcome: Task | Failed) -> None:
    """Report the outcome of one sending to the observer."""
    if isinstance(outcome, Failed):
        if not outcome.error.may_have_charged:
            await observer.on_rejected(outcome.error)
        return
    try:
        await observer.on_accepted(outcome.ref)
    except KlingError as error:
        # It is the observer's own error. The submit was certainly accepted.
        error.ref, error.may_have_charged, error.retryable = outcome.ref, True, False
        raise
    except Exception as error:
        error.add_note(f"the submit was accepted: {outcome.ref}")
        raise
