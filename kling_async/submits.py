"""Submits: a slot first, then sent and heard to the end, even if the caller has gone.

A remote task holds its slot from before its submit until it is known to have ended.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Protocol

from attrs import define

from kling_async.callbacks import Expected
from kling_async.errors import AnswerLostError, KlingError
from kling_async.events import SubmitFailed, Submitted
from kling_async.inputs import Input
from kling_async.limits import Slot
from kling_async.protocol import requests, responses
from kling_async.running import attend, kind_of
from kling_async.task import Task

if TYPE_CHECKING:
    from kling_async.callbacks import Callbacks
    from kling_async.calls import Calls
    from kling_async.polls import Polls
    from kling_async.results import TaskRef
    from kling_async.running import Running

__all__ = ["Submits", "Witness"]

# Seconds between looks for tasks that nobody waits for, while a submit waits for a slot.
_SWEEP_EVERY = 1.0


class Witness(Protocol):
    """Is told of a submit, step by step: for those who keep books of what may cost money."""

    async def sending(self) -> None:
        """Do what must be done before the request leaves, and may cost money from then on.

        All limits have been waited for: be quick. What this raises, :meth:`KlingClient.submit`
        raises, and nothing is sent.
        """

    async def refused(self, error: KlingError) -> None:
        """Note that it was not taken and cost nothing. Before it is sent again, ``sending``."""

    async def accepted(self, ref: TaskRef) -> None:
        """Note the task. This is told even if the caller has gone meanwhile.

        What this raises, :meth:`KlingClient.submit` raises, with ``ref`` and ``may_have_charged``.
        """


@define(eq=False)
class _Submit:
    """One submit on its way to its task."""

    sent: Input
    request: requests.Request
    slot: Slot
    witness: Witness | None
    expected: Expected | None
    heard: asyncio.Future[Task] | None = None  # the answer to its last sending


class Submits:
    """Turns inputs into tasks."""

    def __init__(self, calls: Calls, polls: Polls, running: Running, callbacks: Callbacks) -> None:
        self._calls = calls
        self._polls = polls
        self._running = running
        self._callbacks = callbacks
        # What follows belongs to one event loop.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._look: asyncio.TimerHandle | None = None
        self._short = 0

    async def submit(
        self, sent: Input, callback_url: str | None = None, witness: Witness | None = None
    ) -> Task:
        """Submit one input; see :meth:`KlingClient.submit`."""
        expected = self._callbacks.expect(sent) if callback_url is None else None
        request = requests.submit(sent, expected.url if expected else callback_url)
        one = _Submit(sent, request, await self._slot(), witness, expected)
        try:
            return await self._calls.call(request, partial(self._once, one))
        except asyncio.CancelledError:
            heard = one.heard
            if heard is None:
                one.slot.release()
            elif heard.done() and not heard.cancelled() and (refused := heard.exception()):
                self._settle(one, refused)  # else the answer is still to come
            raise
        except Exception as error:
            if one.heard is None:  # the witness would not have it sent
                one.slot.release()
            self._settle(one, error)
            raise

    async def answered(self) -> None:
        """Wait until every submit under way has been answered."""
        self._bind()
        if self._sending:
            await asyncio.wait(self._sending)

    async def _once(self, one: _Submit) -> Task:
        """Send once."""
        one.heard = None
        self._polls.count_submit()
        if one.witness is not None:
            await one.witness.sending()
        loop = asyncio.get_running_loop()
        heard: asyncio.Future[Task] = loop.create_future()
        one.heard = heard
        if one.expected is not None:
            self._callbacks.sending(one.expected, one.slot)
        # In a task of its own, so that the answer is heard though the caller may be gone.
        sending = _begin(loop, self._send(one, heard))
        if not sending.done():  # pragma: no branch - it may be from Python 3.12 on
            self._sending.add(sending)
        return await heard

    async def _send(self, one: _Submit, heard: asyncio.Future[Task]) -> None:
        """Send once, and hear the answer to its end."""
        try:
            task = await self._answer(one)
            if not heard.done():
                heard.set_result(task)
        except asyncio.CancelledError:  # the loop itself is ending
            told = "the event loop ended before a submit was answered; it may have been charged"
            self._settle(one, AnswerLostError(told, may_have_charged=True))
            heard.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's
            failed = error
            if isinstance(error, KlingError) and not error.may_have_charged and one.witness:
                try:
                    await one.witness.refused(error)
                except Exception as worse:  # noqa: BLE001 - as above
                    failed = worse
            if not heard.done():
                heard.set_exception(failed)
            else:
                self._settle(one, failed)
        finally:
            self._sending.discard(asyncio.current_task())

    async def _answer(self, one: _Submit) -> Task:
        """Send, and return the task that was started."""
        try:
            response = await self._calls.send(one.request)
            ref = responses.submit(one.request, response, one.sent.model, datetime.now(UTC))
        except BaseException as error:
            found = self._callbacks.failed(one.expected, error) if one.expected else None
            if found is None or not isinstance(error, Exception):
                raise
            task = found  # it has even ended already
        else:
            task = self._accepted(one, ref)
        if one.witness is not None:
            await _told(one.witness, task.ref)
        return task

    def _accepted(self, one: _Submit, ref: TaskRef) -> Task:
        """Note the task that a submit has started."""
        expected = one.expected
        task = self._running.task(ref, kind_of(one.sent), called_back=expected is not None)
        self._running.begin(task, one.slot, expected.nonce if expected else "")
        self._calls.tell(Submitted, ref, one.sent)
        if expected is not None:
            self._callbacks.accepted(expected, task)
        return task

    def _settle(self, one: _Submit, error: BaseException) -> None:
        """Conclude a submit that failed: its slot is free if it is certain that no task runs."""
        # What else a transport raises proves nothing; with a reference, it has not failed.
        if isinstance(error, KlingError) and error.ref is None:
            self._calls.tell(SubmitFailed, one.sent, error)
            if not error.may_have_charged:
                one.slot.release()

    async def _slot(self) -> Slot:
        """Wait for a slot. Tasks that nobody waits for must not hold all of them for ever."""
        loop = self._bind()
        self._short += 1
        if self._look is None:  # who need not wait is far away when it comes
            self._look = loop.call_later(_SWEEP_EVERY, self._looks)
        try:
            return await self._calls.limiter.slot()
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
            self._loop, self._sending, self._short = loop, set(), 0
            self._sweeper = self._look = None
        return loop


def _begin(
    loop: asyncio.AbstractEventLoop, sending: Coroutine[object, object, None]
) -> asyncio.Task[None]:
    """Begin a task, if Python can at once and not in the loop's next turn, which costs more.

    All callers of one turn would let go of their last answers first, and only then take new
    memory. A task factory that somebody has set is not passed by.
    """
    if sys.version_info >= (3, 12) and loop.get_task_factory() is None:
        return asyncio.Task(sending, loop=loop, eager_start=True)  # pragma: no cover - not on 3.11
    return loop.create_task(sending)


async def _told(witness: Witness, ref: TaskRef) -> None:
    try:
        await witness.accepted(ref)
    except KlingError as error:
        error.ref, error.may_have_charged = ref, True
        raise
