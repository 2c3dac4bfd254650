"""Submits: a slot first, then one request whose answer is read even if the caller has left.

A remote task holds its slot from before its submit until it is known to have ended.

A submit is *pending* while nothing of it is under way: it waits for a slot, a permit, or its
next attempt. Closing the client interrupts pending submits, which costs nothing. Once the request
is sent it runs in an asyncio task of its own, to its answer: no cancellation of the caller, and
no closing, interrupts that.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Coroutine
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Protocol

from attrs import define

from kling_async.errors import (
    AnswerLostError,
    APIError,
    ClientClosedError,
    KlingError,
    RateLimitError,
)
from kling_async.events import SubmitFailed, Submitted, TaskLimitChanged
from kling_async.inputs.base import Input
from kling_async.limits.base import Slot
from kling_async.protocol import requests, responses, verdicts
from kling_async.protocol.verdicts import Verdict
from kling_async.tasks.callback_router import Expected
from kling_async.tasks.outage import Attempt, OutageGate
from kling_async.tasks.request_executor import Failed
from kling_async.tasks.task import Task
from kling_async.tasks.task_registry import attend, kind_of

if TYPE_CHECKING:
    from kling_async.limits.base import Permit
    from kling_async.results import TaskRef
    from kling_async.tasks.callback_router import Callbacks
    from kling_async.tasks.poll_scheduler import Polls
    from kling_async.tasks.request_executor import Calls
    from kling_async.tasks.task_registry import Running

_log = logging.getLogger("kling_async")

# Seconds between looks for tasks that nothing waits for, while a submit waits for a slot.
_SWEEP_EVERY = 1.0

# Seconds after which the wait for the answers of submits is reported in the log.
_QUIET = 0.5

# Seconds between looks for callers that have not left yet, while the client is closed.
_TURN = 0.001

_CLOSED = "the client was closed before the submit was sent; nothing was charged"


class SubmitObserver(Protocol):
    """Observes a submit, step by step: for those who record what may cost money.

    An attribute ``patience``, if there is one, is the number of seconds for which the submit is
    repeated while the service cannot be reached or is unavailable, instead of
    :attr:`Retry.attempts` and :attr:`Retry.deadline`.
    """

    async def before_send(self) -> None:
        """Do what must be done before the request leaves, and may cost money from then on.

        All limits have been waited for: be quick. What this raises, :meth:`KlingClient.submit`
        raises, and nothing is sent.
        """

    async def on_rejected(self, error: KlingError) -> None:
        """Note that it was not accepted and cost nothing. Before a repetition, ``sending``.

        What this raises, :meth:`KlingClient.submit` raises, and nothing more is sent.
        """

    async def on_accepted(self, ref: TaskRef) -> None:
        """Note the task. This is called even if the caller was cancelled meanwhile.

        What this raises, :meth:`KlingClient.submit` raises, with ``ref`` and ``may_have_charged``.
        The request was accepted, and is never sent again.
        """


@define(eq=False)
class _Submit:
    """One submit on its way to its task."""

    sent: Input
    request: requests.Request
    observer: SubmitObserver | None
    expected: Expected | None
    caller: asyncio.Task[object]
    cancelling: int  # requests to cancel the caller that were there before
    slot: Slot | None = None  # until the registry of running tasks takes it over
    was_refused: bool = False  # for the number of running tasks
    closed: bool = False  # by closing the client
    attempt: Attempt | None = None  # to reach the service, in a fan-out or batch
    may_run: bool = False  # a task, as far as is known of the last sending
    # The task that was started, until its reference is with the observer or the caller.
    task: Task | None = None
    # The outcome of the sending that is under way, until the caller has taken it.
    response: asyncio.Future[Task | Failed] | None = None


class Submits:
    """Turns inputs into tasks."""

    def __init__(
        self,
        calls: Calls,
        polls: Polls,
        running: Running,
        callbacks: Callbacks,
    ) -> None:
        self._calls = calls
        self._polls = polls
        self._running = running
        self._callbacks = callbacks
        self._outage = OutageGate()
        self._limit = calls.limiter.limits.concurrent_tasks  # the effective one, last seen
        self._closing = False
        # What follows belongs to one event loop.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._submits: set[_Submit] = set()
        self._sending: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._look: asyncio.TimerHandle | None = None
        self._short = 0

    async def submit(
        self, sent: Input, callback_url: str | None = None, observer: SubmitObserver | None = None
    ) -> Task:
        """Submit one input; see :meth:`KlingClient.submit`."""
        self._bind()
        expected = None
        if callback_url is None:
            expected = self._callbacks.expect(sent, observer.on_accepted if observer else None)
        request = requests.build_submit(sent, expected.url if expected else callback_url)
        caller = asyncio.current_task()
        assert caller is not None  # noqa: S101 - a coroutine that awaits runs in one
        one = _Submit(sent, request, observer, expected, caller, caller.cancelling())
        self._submits.add(one)
        patience: float | None = getattr(observer, "patience", None)
        try:
            return await self._calls.call(
                request,
                partial(self._once, one),
                prepare=partial(self._prepare, one, patient=patience is not None),
                patience=patience,
            )
        except asyncio.CancelledError as error:
            self._cancelled(one, error)
            if one.closed and caller.uncancel() <= one.cancelling:
                closed = ClientClosedError(_CLOSED)
                self._calls.tell(SubmitFailed, sent, closed)
                raise closed from None
            raise
        except Exception as error:
            self._settle(one, error)
            raise
        finally:
            self._submits.discard(one)
            if one.attempt is not None and one.response is None:
                one.attempt.withdrawn()  # else it is under way, and has an outcome to come

    async def close(self, closer: asyncio.Task[object] | None = None) -> None:
        """Interrupt what is pending, and wait until what is under way has been answered.

        While this waits, a submit that begins is refused.

        Args:
            closer: What closes the client. A submit of its own, whose observer does that, is left.
        """
        self._bind()
        self._closing = True
        try:
            while others := [one for one in self._submits if one.caller is not closer]:
                for one in others:
                    if one.response is None and not one.closed:
                        one.closed = True
                        one.caller.cancel()
                await self.answered()
                await asyncio.sleep(_TURN)  # the callers take their answers, or leave
            await self.answered()
        finally:
            self._closing = False

    async def answered(self) -> None:
        """Wait until every submit under way has been answered."""
        self._bind()
        if not self._sending:
            return
        _, waiting = await asyncio.wait(self._sending, timeout=_QUIET)
        if waiting:
            _log.warning(
                "waiting up to %g s for the answers to submits under way: %d; if you interrupt"
                " this, a task may have been started and charged without a reference",
                self._calls.retry.request_timeout,
                len(waiting),
            )
            await asyncio.wait(waiting)

    async def _prepare(self, one: _Submit, *, patient: bool) -> None:
        """Wait for what comes before a permit: a slot and, in a fan-out, the end of an outage."""
        if self._closing:
            raise ClientClosedError(_CLOSED)
        if one.slot is None:
            one.slot = await self._slot(first=one.was_refused)
            self._tell_limit()
        if patient:
            one.attempt = await self._outage.wait()

    async def _once(self, one: _Submit, permit: Permit) -> Task | Failed:
        """Send once."""
        self._polls.count_submit()
        if one.observer is not None:
            try:
                await one.observer.before_send()
            except BaseException:
                permit.answered()
                raise
        loop = asyncio.get_running_loop()
        response: asyncio.Future[Task | Failed] = loop.create_future()
        one.response, one.may_run = response, True
        if one.expected is not None and one.slot is not None:
            self._callbacks.sending(one.expected, one.slot)
        # In a task of its own, so that the answer is read though the caller may have left.
        sending = _begin(loop, self._send(one, permit, response))
        if not sending.done():  # pragma: no branch - it may be from Python 3.12 on
            self._sending.add(sending)
        outcome = await response
        one.response = one.task = None
        if isinstance(outcome, Failed):
            self._failed(one, outcome.error)
        return outcome

    def _failed(self, one: _Submit, error: KlingError) -> None:
        """Take note of a failure that may be repeated."""
        if isinstance(error, RateLimitError) and error.retryable and one.slot is not None:
            self._calls.limiter.refused(one.slot)
            one.slot, one.was_refused = None, True
            self._tell_limit()

    async def _send(
        self, one: _Submit, permit: Permit, response: asyncio.Future[Task | Failed]
    ) -> None:
        """Send once, read the answer to its end, and pass it on to the caller."""
        try:
            outcome = await self._answer(one, permit)
            _settle_attempt(one.attempt, outcome)
            if isinstance(outcome, Failed):
                one.may_run = outcome.error.may_have_charged
            else:
                one.task = outcome
            await _report(one.observer, outcome)
            if one.observer is not None:
                one.task = None
        except asyncio.CancelledError:  # the loop itself is ending
            self._interrupted(one)
            response.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's
            if not response.done():
                response.set_exception(error)
            else:
                self._left(one, error)
        else:
            if not response.done():
                response.set_result(outcome)
            else:
                self._left(one, outcome.error if isinstance(outcome, Failed) else None)
        finally:
            self._sending.discard(asyncio.current_task())

    async def _answer(self, one: _Submit, permit: Permit) -> Task | Failed:
        """Send, and return the task that was started, or the failure."""
        try:
            response = await self._calls.send(one.request, permit)
            ref = responses.parse_submit(one.request, response, one.sent.model, datetime.now(UTC))
        except BaseException as error:
            found = self._callbacks.failed(one.expected, error) if one.expected else None
            if found is not None and isinstance(error, Exception):
                one.slot = None
                return found  # it has even ended already
            if isinstance(error, KlingError):
                return Failed(error)
            raise
        return self._accepted(one, ref)

    def _accepted(self, one: _Submit, ref: TaskRef) -> Task:
        """Note the task that a submit has started."""
        assert one.slot is not None  # noqa: S101 - nothing is sent without
        expected = one.expected
        task = self._running.task(ref, kind_of(one.sent), called_back=expected is not None)
        self._running.begin(task, one.slot, expected.nonce if expected else "")
        one.slot = None
        self._calls.tell(Submitted, ref, one.sent)
        if expected is not None:
            self._callbacks.accepted(expected, task)
        return task

    def _cancelled(self, one: _Submit, cancellation: BaseException) -> None:
        """Conclude a submit whose caller was cancelled, unless its answer is still to come."""
        response = one.response
        if response is None:  # nothing is under way
            if one.slot is not None:
                one.slot.release()
        elif response.done() and not response.cancelled():
            # It was answered in the moment of the cancellation.
            error = response.exception()
            outcome = None if error else response.result()
            error = outcome.error if isinstance(outcome, Failed) else error
            self._left(one, error, cancellation)

    def _left(
        self,
        one: _Submit,
        error: BaseException | None,
        cancellation: BaseException | None = None,
    ) -> None:
        """Conclude a submit that was answered when its caller had left."""
        if one.task is not None:
            self._running.abandon(one.task, error=cancellation)
        elif error is not None:
            self._settle(one, error)

    def _interrupted(self, one: _Submit) -> None:
        """Report a submit whose answer nothing will read, since the event loop ends."""
        if one.task is not None:
            self._running.abandon(one.task)
            return
        if not one.may_run:  # it was refused
            assert one.slot is not None  # noqa: S101 - only the caller releases it, and it has left
            one.slot.release()
            return
        lost = AnswerLostError(
            "the event loop ended before a submit was answered; a task may have been started and"
            " charged",
            may_have_charged=True,
            verdict=Verdict.UNKNOWN,
        )
        _log.warning("%s: %r", lost, one.sent)
        self._settle(one, lost)

    def _settle(self, one: _Submit, error: BaseException) -> None:
        """Conclude a submit that failed: its slot is free if it is certain that no task runs."""
        # What else a transport raises proves nothing, once the request was under way.
        may_run = one.may_run
        if isinstance(error, KlingError):
            if error.ref is not None:  # it was accepted
                return
            self._calls.tell(SubmitFailed, one.sent, error)
            may_run = error.may_have_charged
        if one.slot is None:
            return
        if may_run:
            one.slot.expire_in(self._polls.lifetime(kind_of(one.sent), accepted=False))
        else:
            one.slot.release()

    def _tell_limit(self) -> None:
        """Pass a change of the effective limit of running tasks to the hooks."""
        limiter = self._calls.limiter
        if limiter.effective_tasks != self._limit:
            self._limit = limiter.effective_tasks
            self._calls.tell(TaskLimitChanged, self._limit, limiter.limits.concurrent_tasks)

    async def _slot(self, *, first: bool) -> Slot:
        """Wait for a slot. Tasks that nothing waits for must not hold all of them for ever."""
        loop = self._bind()
        self._short += 1
        if self._look is None:  # those that need not wait are done long before it comes
            self._look = loop.call_later(_SWEEP_EVERY, self._looks)
        try:
            return await self._calls.limiter.slot(first=first)
        finally:
            if loop is self._loop:
                self._short -= 1
                if not self._short and self._sweeper is not None:
                    self._sweeper.cancel()
                    self._sweeper = None

    def _looks(self) -> None:
        """Begin to sweep if submits have been waiting."""
        self._look = None
        if self._short and self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        """Wait for all that is running, so that it is noticed when something ends."""
        attended: set[TaskRef] = set()
        async with asyncio.TaskGroup() as waiters:
            while True:
                running = self._running.tasks
                for ref in running.keys() - attended:
                    waiters.create_task(attend(running[ref]))
                attended = set(running)
                await asyncio.sleep(_SWEEP_EVERY)

    def _bind(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if self._look is not None:
                self._look.cancel()
            self._loop, self._short = loop, 0
            self._submits, self._sending = set(), set()
            self._sweeper = self._look = None
        return loop


def _begin(
    loop: asyncio.AbstractEventLoop, sending: Coroutine[object, object, None]
) -> asyncio.Task[None]:
    """Begin a task, if Python can at once and not in the loop's next turn, which costs more.

    All callers of one turn would release their last answers first, and only then take new
    memory. A task factory that the user has set is not bypassed.
    """
    if sys.version_info >= (3, 12) and loop.get_task_factory() is None:
        return asyncio.Task(sending, loop=loop, eager_start=True)  # pragma: no cover - not on 3.11
    return loop.create_task(sending)


async def _report(observer: SubmitObserver | None, outcome: Task | Failed) -> None:
    """Report the outcome of one sending to the observer."""
    if observer is None:
        return
    if isinstance(outcome, Failed):
        if not outcome.error.may_have_charged:
            await observer.on_rejected(outcome.error)
        return
    try:
        await observer.on_accepted(outcome.ref)
    except KlingError as error:
        # The observer's own error: of the submit, it is certain that it was accepted.
        error.ref, error.may_have_charged, error.retryable = outcome.ref, True, False
        raise
    except Exception as error:
        error.add_note(f"the submit was accepted: {outcome.ref}")
        raise


def _settle_attempt(attempt: Attempt | None, outcome: Task | Failed) -> None:
    """Report what an outcome says of the service: whether it can be reached."""
    if attempt is None:
        return
    if not isinstance(outcome, Failed):
        attempt.succeeded()
        return
    error = outcome.error
    verdict = verdicts.judge_error(error)
    if verdict is Verdict.UNKNOWN:
        attempt.undecided()
    elif verdicts.CONSEQUENCES[verdict].systemic and error.retryable:
        attempt.failed(error, error.retry_after if isinstance(error, APIError) else None)
    else:
        attempt.succeeded()
