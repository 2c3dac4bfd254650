"""A client's callbacks: whom each one wakes, and which submits are still to be called back.

A callback may overtake the answer to its own submit, and it may come where that answer was
lost: then it tells the reference of a task that nobody would have found again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Protocol

from attrs import define

from kling_async.errors import KlingError
from kling_async.events import CalledBack, Submitted
from kling_async.inputs.base import Input
from kling_async.limits.base import Slot
from kling_async.protocol.callbacks import Callback
from kling_async.results import TaskRef, TaskState
from kling_async.tasks.task_registry import attend, kind_of

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from kling_async.tasks.poll_scheduler import Polls
    from kling_async.tasks.request_executor import Calls
    from kling_async.tasks.task import Task
    from kling_async.tasks.task_registry import Running

_log = logging.getLogger("kling_async")

_NONCE_BYTES = 12


class Listener(Protocol):
    """Who is told of callbacks: every client of an inbox."""

    def handle(self, callback: Callback) -> bool:
        """Take a callback; return whether it is about a task of this client that runs."""


class CallbackSource(Protocol):
    """Where callbacks arrive, as a client sees it: :class:`kling_async.webhooks.Inbox`."""

    def callback_url(self, model: str, nonce: str) -> str:
        """Return the URL for one submit."""

    def join(self, listener: Listener) -> None:
        """Tell this listener of every callback, as long as it lives."""


@define(eq=False)
class Expected:
    """A submit with a callback URL of its own, from its sending until its task is known."""

    sent: Input
    nonce: str
    url: str
    on_accepted: Callable[[TaskRef], Awaitable[None]] | None = None  # gets the reference
    slot: Slot | None = None
    sent_at: float = 0.0
    said: Callback | None = None
    lost: bool = False


class Callbacks:
    """What comes to the inbox for one client."""

    def __init__(
        self, inbox: CallbackSource | None, running: Running, calls: Calls, polls: Polls
    ) -> None:
        self._inbox = inbox
        self._running = running
        self._calls = calls
        self._polls = polls
        self._expected: dict[str, Expected] = {}
        self._closed = False  # and not used again since
        # What follows belongs to one event loop.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._attendants: set[asyncio.Task[None]] = set()
        if inbox is not None:
            inbox.join(self)

    def expect(
        self, sent: Input, accepted: Callable[[TaskRef], Awaitable[None]] | None = None
    ) -> Expected | None:
        """Give a submit its URL, if there is an inbox.

        Args:
            sent: What is submitted.
            accepted: Is called with the reference if the answer is lost and a callback names it.
        """
        if self._inbox is None:
            return None
        nonce = token_urlsafe(_NONCE_BYTES)
        return Expected(sent, nonce, self._inbox.callback_url(sent.model, nonce), accepted)

    def sending(self, expected: Expected, slot: Slot) -> None:
        """Keep what comes for a submit from now on."""
        loop = self._bind(asyncio.get_running_loop())
        self._closed = False
        expected.slot, expected.sent_at = slot, loop.time()
        self._expected[expected.nonce] = expected

    def accepted(self, expected: Expected, task: Task) -> None:
        """Pass on what has come for a task before it was known."""
        del self._expected[expected.nonce]
        if expected.said is not None and expected.said.snapshot.ref == task.ref:
            self._wake(task, expected.said)

    def failed(self, expected: Expected, error: BaseException) -> Task | None:
        """Expect nothing more, unless a task may have been started all the same.

        Returns:
            That task, if its callback has come already.
        """
        if isinstance(error, KlingError) and not error.may_have_charged:
            del self._expected[expected.nonce]
            return None
        expected.lost = True
        if not isinstance(error, Exception):  # the loop itself is ending
            self._closed = True
        # The presumed lifetime limits how long one is kept, and with it how many are.
        too_old = expected.sent_at - self._calls.limiter.limits.presumed_lifetime
        for one in [one for one in self._expected.values() if one.lost and one.sent_at < too_old]:
            del self._expected[one.nonce]
        return None if expected.said is None else self._find(expected, expected.said)

    def handle(self, callback: Callback) -> bool:
        """Take a callback, on any thread; return whether it is about a task that runs."""
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        loop = self._polls.loop or here
        if loop is None:  # nothing runs in which anybody could wait
            return False
        known = callback.nonce in self._expected or (
            self._running.called(callback.snapshot.ref, callback.nonce) is not None
        )
        if loop is here:
            self._heard(callback)
        else:
            try:
                loop.call_soon_threadsafe(self._heard, callback)
            except RuntimeError:  # it was closed in this very moment
                return False
        return known

    async def close(self) -> None:
        """Let nothing run on that nobody waits for, and begin nothing before the next submit."""
        self._bind(asyncio.get_running_loop())
        self._closed = True
        for attendant in self._attendants:
            attendant.cancel()
        if self._attendants:
            await asyncio.wait(self._attendants)

    def _heard(self, callback: Callback) -> None:
        self._bind(asyncio.get_running_loop())
        self._polls.arrived()
        snapshot = callback.snapshot
        if (expected := self._expected.get(callback.nonce)) is not None:
            if expected.said is None or snapshot.state.ended:  # callbacks may overtake each other
                expected.said = callback
            if expected.lost and self._find(expected, callback) is not None:
                self._attend(_report_found(expected, snapshot.ref))
        elif (task := self._running.called(snapshot.ref, callback.nonce)) is not None:
            self._wake(task, callback)

    def _find(self, expected: Expected, callback: Callback) -> Task | None:
        """Take up a task whose reference was lost with the answer to its submit."""
        assert expected.slot is not None  # noqa: S101 - it was sent
        ref, now = callback.snapshot.ref, asyncio.get_running_loop().time()
        if self._running.find(ref) is not None:  # attached meanwhile, or another submit's
            return None
        task = self._running.task(ref, kind_of(expected.sent), now - expected.sent_at)
        self._running.hold(task, expected.nonce)
        # The slot of the lost submit may have expired: the task has one of its own by now.
        expected.slot.release()
        self._calls.tell(Submitted, ref, expected.sent)
        self.accepted(expected, task)
        return task

    def _wake(self, task: Task, callback: Callback) -> None:
        said = callback.snapshot
        self._calls.tell(CalledBack, said)
        # What was relayed has no token that proves it. The nonce proves as much, if it is known.
        known = not callback.relayed or self._running.gave(said.ref, callback.nonce)
        # A success without URLs is no use to anybody: that is asked about in any case.
        useful = said.result_urls or said.state is TaskState.FAILED
        if callback.trusted and known and useful:
            self._running.note(said, known=True)
            task.notify_ended(said)
        elif (
            not (task.notify_ended() if said.state.ended else task.notify_running())
            and not self._closed
        ):
            self._attend(attend(task, once=not said.state.ended))

    def _attend(self, work: Coroutine[object, object, None]) -> None:
        attendant = asyncio.create_task(work)
        self._attendants.add(attendant)
        attendant.add_done_callback(self._attendants.discard)

    def _bind(self, loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
        if loop is not self._loop:
            self._loop, self._attendants = loop, set()
        return loop


async def _report_found(expected: Expected, ref: TaskRef) -> None:
    """Report a task to the observer of its submit, whose caller has had an error long ago."""
    if expected.on_accepted is not None:
        try:
            await expected.on_accepted(ref)
        except Exception:  # noqa: BLE001 - the caller that would get it has left
            _log.exception("the task %s of a lost submit could not be recorded", ref)
