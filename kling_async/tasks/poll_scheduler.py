"""When each task is polled: one queue and one timer for all tasks of a client.

A waiter calls :meth:`PollScheduler.wait_until_due` before each poll. *When* a task is due, and how
many polls the request limit leaves room for, is decided by :mod:`kling_async.policy.polling`. The
waiter itself sends the status call, so that nothing is left running when it is cancelled. At most
three quarters of the client's connections serve polls at one time: submits find the others free.
"""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from math import inf
from typing import TYPE_CHECKING

from attrs import Factory, define

from kling_async._utils.loops import Deadlines, PerLoop
from kling_async.policy.durations import (
    Durations,
    Kind,
    measured_duration,
    observed,
    unsure_lifetime,
    vendor_estimate,
)
from kling_async.policy.polling import CallbackHealth, PollBudget
from kling_async.results import TaskState

if TYPE_CHECKING:
    from kling_async.limits.base import Limits
    from kling_async.policy.polling import Polling
    from kling_async.results import Snapshot

# Cancelled waiters that may remain in the queue before it is worth rebuilding.
_FEW = 100

# A task that has not ended after so many times the late mark no longer delays what is learned.
_PATIENCE = 2.0

_LONGEST_LINE = 10_000

# Seconds. Polls that the limit allows within this time are started together: waking up costs more
# CPU time than polling.
_TOGETHER = 0.01

# While polls are late, a wait counts from when the poll was due, but from no more than so many
# seconds ago: a short wait, of a task that is about to end, must not queue behind all that is late.
_AHEAD = 1.0

# So many requests to wake one task are followed, and no two within so many seconds: they may come
# from anyone who has learned a callback URL.
_WAKES = 5
_WAKES_APART = 1.0


class Age(Enum):
    """How well the age of a task is known."""

    EXACT = "this process has submitted it"
    ESTIMATED = "the caller has given it"
    UNKNOWN = "it was attached without"


@define(eq=False)
class WakeRequests:
    """The requests to poll a task at once."""

    pending: bool = False  # since the last poll began
    at: float = -inf  # when the latest one is followed
    followed: int = 0
    while_running: int = 0  # that said that the task still runs


@define(eq=False)
class _Pending:
    """A task whose duration is to be observed after those of the tasks that began before it."""

    tracked: TrackedTask
    ended: bool = False
    duration: float | None = None


class KindHistory:
    """How long tasks of one kind take; shared by all tasks of that kind.

    Durations are observed in the order in which the tasks began. Of many that began together the
    quick ones end first and the slow ones last: neither may speak for all.
    """

    def __init__(self, kind: Kind) -> None:
        # Tasks that are never polled again must not pile up.
        self.pending: deque[_Pending] = deque(maxlen=_LONGEST_LINE)
        self._durations = vendor_estimate(kind)
        # Those that `_durations` does not contain yet. Its marks cost 6 % of a generation.
        self._measured: list[float] = []

    @property
    def durations(self) -> Durations | None:
        """The durations that have been observed."""
        if self._measured:
            self._durations = observed(self._durations, *self._measured)
            self._measured.clear()
        return self._durations

    @property
    def lifetime(self) -> float:
        """Seconds after which a task is presumed to have ended."""
        known = self.durations
        return known.lifetime if known else inf

    def record_end(self, tracked: TrackedTask, duration: float | None, now: float) -> None:
        """Record that a task has ended, and its duration if that is known."""
        measured = [duration]
        if tracked.pending is not None:
            measured.clear()
            tracked.pending.ended, tracked.pending.duration = True, duration
        known = self._durations or self.durations  # the mark need not be the latest
        late = known.late if known else 0.0
        # The others do not wait for a task that takes too long: it may never be polled again.
        while self.pending:
            first, other = self.pending[0], self.pending[0].tracked
            young = other.loop is tracked.loop and now - other.started_at < _PATIENCE * late
            if young and not first.ended:
                break
            self.pending.popleft()
            other.pending = None
            measured.append(first.duration)
        for each in measured:
            if each is not None:
                self._measured.append(each)


@define(eq=False)
class TrackedTask:
    """What the scheduler keeps of one task. Moments are in the time of ``loop``."""

    history: KindHistory
    age: Age = Age.EXACT
    expects_callback: bool = False  # and it has not come
    loop: asyncio.AbstractEventLoop | None = None
    started_at: float = 0.0
    due: float | None = None  # None: the first poll has not been scheduled
    not_before: float = 0.0  # of the next poll, even if it is due
    polled_at: float = 0.0
    running_age: float | None = None  # when it was last seen running
    pending: _Pending | None = None
    turn: _Turn | None = None  # from the wait for a poll until the poll is recorded
    wakes: WakeRequests = Factory(WakeRequests)

    @property
    def elapsed(self) -> float:
        """Seconds since the task began; infinite if that is not known."""
        if self.age is Age.UNKNOWN or self.loop is None:
            return inf
        return max(0.0, self.loop.time() - self.started_at)


@define(eq=False)
class _Turn:
    """One poll, from the wait for it until it is recorded."""

    queue: PollQueue
    weight: float  # what it adds to the sums for the spacing
    ends: float
    future: asyncio.Future[None]


class PollQueue:
    """The waiters on one event loop, and the timer for the first of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        self.loop = loop
        self.budget: PollBudget = PollBudget(limits.requests_per_minute, loop.time())
        self.health: CallbackHealth = CallbackHealth()
        self.submits: list[float] = []  # when submits were sent that the budget has not counted
        self.polling: int = 0  # how many polls are under way
        self.cancelled: int = 0  # how many entries no longer count
        self.weights: float = 0.0
        self.ends: float = 0.0
        # A heap of when polls are due, their numbers, their waiters, and when they may be made.
        self.entries: list[tuple[float, int, asyncio.Future[None], float]] = []
        self.numbers: count[int] = count()
        self._room = max(1, limits.connections * 3 // 4)
        # With its time: a handle of uvloop has none if that is less than half a millisecond away.
        self._timer: tuple[float, asyncio.Handle] | None = None

    def remove(self, turn: _Turn) -> None:
        """Forget a waiter that was cancelled; rebuild the queue when most entries are of such."""
        self.weights -= turn.weight
        self.ends -= turn.ends
        self.cancelled += 1
        if self.cancelled > max(_FEW, len(self.entries) / 2):
            before = len(self.entries)
            self.entries[:] = [entry for entry in self.entries if not entry[2].done()]
            heapify(self.entries)
            # Also of waiters that were cancelled with this one, and are yet to be removed.
            self.cancelled -= before - len(self.entries)

    def release_due(self, *, by_timer: bool = False) -> None:
        """Start the polls that are due, as far as there is room, and set the timer."""
        now = self.loop.time()
        timer = None if by_timer else self._timer
        entries, budget = self.entries, self.budget
        for moment in self.submits:
            budget.count_request(moment)
        self.submits.clear()
        wait = 0.0
        while entries:
            due, number, future, not_before = entries[0]
            if future.done():
                heappop(entries)
                self.cancelled -= 1
                continue
            if due > now:
                break
            if not_before > now:
                heapreplace(entries, (not_before, number, future, not_before))
                continue
            if self.polling >= self._room or (wait := budget.time_until_poll(now)):
                break
            heappop(entries)
            self.polling += 1
            budget.count_request(now, is_poll=True)
            future.set_result(None)
        # Without room, the poll that is recorded next starts another one.
        if entries and self.polling < self._room:
            moment = max(entries[0][0], now + max(wait, _TOGETHER) if wait else 0.0)
            if timer is None or moment < timer[0]:
                if timer is not None:
                    timer[1].cancel()
                release = partial(self.release_due, by_timer=True)
                timer = moment, self.loop.call_at(moment, release)
        self._timer = timer


class PollScheduler:
    """Lets those that wait for tasks poll them, each when it is due. Belongs to one client."""

    def __init__(self, polling: Polling, limits: Limits) -> None:
        self.deadlines: Deadlines = Deadlines()
        self.queues: PerLoop[PollQueue] = PerLoop("client", lambda loop: PollQueue(loop, limits))
        self._polling = polling
        self._histories: dict[Kind, KindHistory] = {}

    def track(
        self, kind: Kind, age: float | None = 0.0, *, expects_callback: bool = False
    ) -> TrackedTask:
        """Begin to track a task that is ``age`` seconds old; None: its age is not known.

        A known age counts from this moment, however late a caller waits for the task.
        """
        history = self._histories.get(kind)
        if history is None:
            history = self._histories[kind] = KindHistory(kind)
        if age is None:
            return TrackedTask(history, Age.UNKNOWN, expects_callback)
        loop, known = asyncio.get_running_loop(), Age.ESTIMATED if age else Age.EXACT
        tracked = TrackedTask(history, known, expects_callback, loop, loop.time() - age)
        tracked.pending = _Pending(tracked)
        history.pending.append(tracked.pending)
        return tracked

    def unsure_lifetime(self, kind: Kind) -> float:
        """Return the seconds after which a task that may have been started has ended."""
        history = self._histories.get(kind)
        return unsure_lifetime(history.durations if history else vendor_estimate(kind))

    def record_callback(self) -> None:
        """Record that a callback has come, of whichever task."""
        queue = self.queues.get()
        queue.health = CallbackHealth(received_at=queue.loop.time())

    def poll_now(self, tracked: TrackedTask, *, certain: bool = False) -> None:
        """Poll a task now: it may have ended.

        At most five such requests for a task are followed, a second apart. If it is ``certain``
        how the task has ended, no status call is sent, and the request is always followed.
        """
        queue = self.queues.get()
        wakes = tracked.wakes
        tracked.expects_callback = False
        if not certain:
            if wakes.pending or wakes.followed == _WAKES:
                return
            wakes.followed += 1
        wakes.pending = True
        if tracked.loop is None:  # the first to wait for it polls at once
            return
        now = tracked.loop.time()
        wakes.at = at = now if certain else max(now, wakes.at + _WAKES_APART)
        if tracked.due is not None and max(tracked.due, tracked.not_before) <= at:
            return
        tracked.due = tracked.not_before = at
        turn = tracked.turn
        if turn is not None and turn.queue is queue and not turn.future.done():
            queue.cancelled += 1  # its old entry
            heappush(queue.entries, (at, next(queue.numbers), turn.future, at))
            queue.release_due()

    async def wait_until_due(self, tracked: TrackedTask) -> None:
        """Wait until a task is to be polled; then poll it, and call :meth:`record` in any case."""
        queue = self.queues.get()
        now = queue.loop.time()
        durations = tracked.history.durations
        if tracked.loop is not queue.loop:
            _move(tracked, queue.loop, now)
        relies_on_callback = tracked.expects_callback and not queue.health.stopped
        if tracked.due is None:
            tracked.due = tracked.started_at + self._polling.first_wait(
                durations,
                called_back=relies_on_callback,
                spacing=queue.budget.spacing(queue.weights, queue.ends),
            )
        turn = tracked.turn = _Turn(queue, 0.0, 0.0, queue.loop.create_future())
        if durations is not None:
            turn.ends = 1 / max(durations.mean, self._polling.shortest)
            if not relies_on_callback:
                turn.weight = durations.weight * turn.ends
            queue.weights += turn.weight
            queue.ends += turn.ends
        entry = tracked.due, next(queue.numbers), turn.future, tracked.not_before
        heappush(queue.entries, entry)
        queue.release_due()
        try:
            await turn.future
        except asyncio.CancelledError:
            if turn.future.cancelled():
                queue.remove(turn)
                if tracked.turn is turn:  # it is not waited for on another loop by now
                    tracked.turn = None
            else:  # it became due in the moment of the cancellation
                self.record(tracked, None)
            raise
        tracked.polled_at, tracked.wakes.pending = queue.loop.time(), False

    def record(self, tracked: TrackedTask, snapshot: Snapshot | None) -> None:
        """End a poll with what the service answered, or None if there was no answer."""
        turn = tracked.turn
        try:
            current = asyncio.get_running_loop()
        except RuntimeError:  # the loop has ended
            return
        if turn is None or turn.queue.loop is not current:
            return  # it is waited for on another loop by now
        queue, tracked.turn = turn.queue, None
        queue.polling -= 1
        queue.weights -= turn.weight
        queue.ends -= turn.ends
        if snapshot is not None:
            now = queue.loop.time()
            queue.budget.record_response_time(now - tracked.polled_at)
            if tracked.age is not Age.EXACT and snapshot.created_at is not None:
                lived = (datetime.now(UTC) - snapshot.created_at).total_seconds()
                if lived > 0:  # else the clocks disagree, and the presumed age is as good
                    tracked.started_at = now - lived
            if not snapshot.state.ended:
                tracked.running_age = now - tracked.started_at
                self._schedule(tracked, queue, now)
            else:
                ages: list[float] = []
                if tracked.age is Age.EXACT:
                    ages = [] if tracked.running_age is None else [tracked.running_age]
                    ages.append(now - tracked.started_at)
                duration = measured_duration(snapshot, ages)
                succeeded = snapshot.state is TaskState.SUCCESS
                tracked.history.record_end(tracked, duration if succeeded else None, now)
                if tracked.expects_callback:
                    ended_at = now if duration is None else tracked.started_at + duration
                    queue.health = queue.health.missed_end(ended_at)
        queue.release_due()

    def reschedule(self, tracked: TrackedTask, at_most: float = inf) -> None:
        """Schedule the next poll, in ``at_most`` seconds, though there was no answer."""
        queue = self.queues.get()
        now = queue.loop.time()
        due = self._schedule(tracked, queue, now)
        tracked.due = min(due, now + at_most)
        tracked.not_before = min(tracked.not_before, now + at_most)

    def _schedule(self, tracked: TrackedTask, queue: PollQueue, now: float) -> float:
        """Schedule the next poll; return when it is due."""
        if tracked.wakes.pending:  # since the status call was sent
            tracked.due = tracked.not_before = max(now, tracked.wakes.at)
            return tracked.due
        wait = self._polling.next_wait(
            now - tracked.started_at,
            tracked.history.durations,
            called_back=tracked.expects_callback and not queue.health.stopped,
            spacing=queue.budget.spacing(queue.weights, queue.ends),
        )
        # The wait counts from poll to poll, and includes the time of the answer. A service that
        # takes longer than the wait is left alone for at least half of it.
        polled_at, shortest = tracked.polled_at, self._polling.shortest
        tracked.not_before = max(polled_at + shortest, now + shortest / 2)
        late = min(_AHEAD, max(0.0, now - queue.entries[0][0])) if queue.entries else 0.0
        tracked.due = due = max(polled_at + wait, now + wait / 2) - late
        return due


def _move(tracked: TrackedTask, loop: asyncio.AbstractEventLoop, now: float) -> None:
    """Convert a task's moments to the time of the event loop that now waits for it."""
    if tracked.loop is None:  # it may have ended long ago: it is polled at once
        known = tracked.history.durations
        tracked.started_at, tracked.due = now - (known.early if known else 0.0), now
    else:  # loops may count time from different zeros
        shift = now - tracked.loop.time()
        tracked.started_at += shift
        tracked.polled_at += shift
        tracked.not_before += shift
        tracked.wakes.at += shift
        if tracked.due is not None:
            tracked.due += shift
    tracked.loop, tracked.turn = loop, None
