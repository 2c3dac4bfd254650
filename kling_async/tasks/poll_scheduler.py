"""Whose turn it is to be asked after: one queue and one timer for all tasks of a client.

Those who wait for a task come here before each poll and are let through when its time has
come. *When* that is, and how many polls the request limit leaves room for, the pure policy says
(:mod:`kling_async.policy.polling`); *asking* is the waiter's own affair, so that a
waiter who gives up takes the poll with it and nothing is left running. No more than three
quarters of the client's connections serve polls at one time: submits find the others free.

A task whose callback has come is asked after at once, in its turn among those that are due.
"""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import UTC, datetime
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING

from kling_async._utils.deadlines import Deadlines
from kling_async.policy.callback_health import Arrivals
from kling_async.policy.durations import MEMORY, Durations, Kind, expected, presumed_lifetime, took
from kling_async.policy.polling import Budget, spacing
from kling_async.results import TaskState

if TYPE_CHECKING:
    from collections.abc import Callable

    from kling_async.limits.base import Limits
    from kling_async.policy.polling import Polling
    from kling_async.results import Snapshot

_NEVER = float("inf")

# Waiters who have gone and still stand in the queue, without being worth the sweeping.
_FEW = 100

# A task that has not ended after so many times the late mark is a matter of its own.
_PATIENCE = 2.0

_LONGEST_LINE = 10_000

# Polls that the limit lets through within so many seconds are let through together: to wake up
# costs more CPU time than to poll.
_TOGETHER = 0.01

# While polls are late, a wait counts from the moment that the queue has come to, but from no more
# than so many seconds ago: a short wait, of a task that is about to end, must not take its place
# behind all that is late.
_AHEAD = 1.0

# So many hints about one task are acted on, and no two within so many seconds: they may come
# from anyone who has learned a callback URL.
_HINTS = 5
_HINTS_APART = 1.0


class _Memory:
    """What is known of one kind of task, shared by all of that kind.

    What tasks took is learned in the order in which they began. Of many that began together the
    first to end are the quick ones, and the last the slow ones: neither may speak for all.
    """

    def __init__(self, durations: Durations | None) -> None:
        self._durations = durations
        # What was learned since somebody last asked: more than are remembered need not be kept.
        self._news: deque[float] = deque(maxlen=MEMORY)
        self._patience = _PATIENCE * durations.late if durations else 0.0
        # In the order in which they began. Tasks that nobody asks after must not pile up.
        self._line: deque[Course] = deque(maxlen=_LONGEST_LINE)

    @property
    def durations(self) -> Durations | None:
        """How long tasks of this kind take, as far as is known now."""
        known = self._durations
        if self._news:
            for taken in self._news:
                known = known.learn(taken) if known else Durations((taken,))
            self._news.clear()
            self._durations = known
            self._patience = _PATIENCE * known.late if known else 0.0
        return known

    def begin(self, course: Course) -> None:
        course.in_line = True
        self._line.append(course)

    def end(self, course: Course, taken: float | None) -> None:
        """Note that a task has ended, and what it took, as far as that is known."""
        course.ended, course.taken = True, taken
        if not course.in_line:
            self._learn(taken)
        # Learn from those at the head of the line, as many as have ended. Nobody may ever ask
        # again after one that seems to run on: the others do not wait for it.
        line = self._line
        while line:
            first = line[0]
            if not first.ended and first.loop is course.loop and first.age < self._patience:
                return
            line.popleft().in_line = False
            self._learn(first.taken)

    def _learn(self, taken: float | None) -> None:
        if taken is not None:
            self._news.append(taken)


class Course:
    """One task's way through the polls: how old it is, and when it is to be asked after next."""

    def __init__(self, memory: _Memory, *, guessed: bool, called_back: bool) -> None:
        """Use :meth:`Polls.course`."""
        self.memory = memory
        self.guessed = guessed  # how old the task is
        self.called_back = called_back  # a callback is to come, and has not come
        self.hinted = False  # that it may have ended, since it was last asked after
        self.hinted_at: float = -_NEVER  # when the latest hint was acted on, or will be
        self.hints = 0  # that were acted on
        self.turn: asyncio.Future[None] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.born: float = 0.0
        self.due: float = 0.0
        self.rested: float = 0.0  # before this moment it is not polled, even if it is due
        self.turned_at: float = 0.0
        # What it adds to the sums for the spacing while it is waited for.
        self.weight: float = 0.0
        self.ends: float = 0.0
        self.asked_at: float | None = None  # its age when it was last seen running
        self.in_line = self.ended = False
        self.taken: float | None = None

    @property
    def age(self) -> float:
        """Seconds since the task began."""
        return self.loop.time() - self.born if self.loop else 0.0


class Polls:
    """Lets those who wait for tasks ask, each when its time has come. Belongs to one client."""

    def __init__(self, polling: Polling, limits: Limits) -> None:
        self._polling = polling
        self._limit = limits.requests_per_minute
        self._presumed_lifetime = limits.presumed_lifetime
        self._room = max(1, limits.connections * 3 // 4)
        self._memories: dict[Kind, _Memory] = {}
        self._arrivals = Arrivals()
        self.deadlines: Deadlines = Deadlines()
        # What follows belongs to one event loop, and begins anew on the next: see _bind.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clock: Callable[[], float] = float
        self._queue: list[tuple[float, int, asyncio.Future[None], float]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = _NEVER
        self._count = self._gone = self._asking = 0
        self._weights = self._ends = 0.0
        self._budget = Budget(self._limit, 0.0)

    def course(self, kind: Kind, age: float | None = 0.0, *, called_back: bool = False) -> Course:
        """Begin with a task of a kind that is ``age`` seconds old; None: nobody knows.

        A known age counts from this moment, however late somebody comes to wait for the task.
        """
        memory = self._memories.get(kind)
        if memory is None:
            memory = self._memories[kind] = _Memory(expected(kind))
        course = Course(memory, guessed=age != 0.0, called_back=called_back)
        if age is not None:
            course.loop = loop = self._bind()
            course.born = loop.time() - age
            # What is known is worked out if it is needed.
            known = memory.durations if self._polling.first is None else None
            course.due = course.born + self._polling.first_wait(
                known, called_back=self._relies_on_callback(course), spacing=self._spacing
            )
            memory.begin(course)
        return course

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """Where tasks are waited for, unless that is over."""
        return None if self._loop is None or self._loop.is_closed() else self._loop

    def arrived(self) -> None:
        """Note that a callback has come, whichever it is."""
        self._bind()
        self._arrivals = self._arrivals.came(self._clock())

    def hasten(self, course: Course, *, certain: bool = False) -> None:
        """Poll a task now: a hint says that it may have ended.

        At most five hints about a task are acted on, a second apart; later ones change nothing.

        Args:
            course: The task.
            certain: It is known how the task has ended, so that no request is made. This is no
                hint, and always acted on.
        """
        self._bind()
        course.called_back = False
        if not certain:
            if course.hinted or course.hints == _HINTS:
                return
            course.hints += 1
        course.hinted = True
        if course.loop is None:  # the first to wait for it polls at once
            return
        now = course.loop.time()
        at = now if certain else max(now, course.hinted_at + _HINTS_APART)
        course.hinted_at = at
        if max(course.due, course.rested) <= at:  # it is due anyway
            return
        course.due = course.rested = at
        if course.turn is not None and not course.turn.done() and course.loop is self._loop:
            self._gone += 1  # its old place in the queue
            self._count += 1
            heappush(self._queue, (at, self._count, course.turn, at))
            self._serve()

    def lifetime(self, kind: Kind, *, accepted: bool) -> float:
        """Return the seconds after which a task is presumed to have ended.

        See :func:`~kling_async.policy.durations.presumed_lifetime`; never more than
        ``Limits.presumed_lifetime``.
        """
        memory = self._memories.get(kind)
        known = memory.durations if memory else expected(kind)
        return min(self._presumed_lifetime, presumed_lifetime(known, accepted=accepted))

    def count_submit(self) -> None:
        """Note that a submit takes its share of the request limit."""
        self._bind()
        self._budget.submitted(self._clock())

    async def turn(self, course: Course) -> None:
        """Wait until a task is to be asked after; then ask, and call :meth:`asked` in any case."""
        loop = self._bind()
        now = loop.time()
        if course.loop is not loop:
            self._move(course, loop, now)
        self._share(course)
        queue = self._queue
        if (
            max(course.due, course.rested) <= now
            and self._asking < self._room
            and not (queue and queue[0][0] <= now)
            and not self._budget.wait(now)
        ):
            self._asking += 1
            self._budget.polled(now)
            course.turned_at, course.hinted = now, False
            return
        turn: asyncio.Future[None] = loop.create_future()
        course.turn = turn
        self._count += 1
        heappush(queue, (course.due, self._count, turn, course.rested))
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was let through in the moment of the cancellation
                self.asked(course, None)
            elif loop is self._loop:
                self._unshare(course)
                self._gone += 1
                self._sweep()
            raise
        finally:
            if course.turn is turn:  # else the task is waited for on another loop by now
                course.turn = None
        course.turned_at, course.hinted = self._clock(), False

    def asked(self, course: Course, snapshot: Snapshot | None) -> None:
        """End a turn, with what the service said; None if it said nothing."""
        if asyncio.get_running_loop() is not self._loop:  # what this one counted is forgotten
            return
        self._asking -= 1
        self._unshare(course)
        if snapshot is not None:
            self._budget.answered(self._clock() - course.turned_at)
            self._learn(course, snapshot)
        self._serve()

    def postpone(self, course: Course, at_most: float = _NEVER) -> None:
        """Wait before the next poll as after an answer, though there was none.

        Args:
            course: The task.
            at_most: Seconds of the longest wait.
        """
        now = self._clock()
        self._plan(course, now, now - course.born)
        course.due = min(course.due, now + at_most)
        course.rested = min(course.rested, now + at_most)

    def _move(self, course: Course, loop: asyncio.AbstractEventLoop, now: float) -> None:
        """Count a task's time on the event loop that now waits for it."""
        if course.loop is None:  # it may have ended long ago: it is asked after at once
            known = course.memory.durations
            course.born, course.due = now - (known.early if known else 0.0), now
        else:  # loops may count time from different zeros
            shift = now - course.loop.time()
            course.born += shift
            course.due += shift
            course.turned_at += shift
            course.rested += shift
            course.hinted_at += shift
        course.loop, course.turn = loop, None

    def _learn(self, course: Course, snapshot: Snapshot) -> None:
        now = self._clock()
        if course.guessed and snapshot.created_at is not None:
            lived = (datetime.now(UTC) - snapshot.created_at).total_seconds()
            if lived > 0:  # else the clocks disagree, and the presumed age is as good
                course.born = now - lived
        age = now - course.born
        if not snapshot.state.ended:
            course.asked_at = age
            self._plan(course, now, age)
            return
        ages = [one for one in (course.asked_at, age) if one is not None]
        taken = took(snapshot, [] if course.guessed else ages)
        course.memory.end(course, taken if snapshot.state is TaskState.SUCCESS else None)
        if course.called_back:
            self._arrivals = self._arrivals.without(now if taken is None else course.born + taken)

    def _relies_on_callback(self, course: Course) -> bool:
        return course.called_back and not self._arrivals.stopped

    def _plan(self, course: Course, now: float, age: float) -> None:
        if course.hinted:  # while the service was answering
            course.due = course.rested = max(now, course.hinted_at)
            return
        wait = self._polling.next_wait(
            age,
            course.memory.durations,
            called_back=self._relies_on_callback(course),
            spacing=self._spacing,
        )
        # From turn to turn: the time that an answer takes is no part of the wait. A service that
        # takes longer than the wait is given at least half of it to rest.
        shortest = self._polling.shortest
        course.rested = max(course.turned_at + shortest, now + shortest / 2)
        late = min(_AHEAD, max(0.0, now - self._queue[0][0])) if self._queue else 0.0
        course.due = max(course.turned_at + wait, now + wait / 2) - late

    @property
    def _spacing(self) -> float:
        return spacing(self._budget.planned_rate, self._weights, self._ends)

    def _share(self, course: Course) -> None:
        """Count a task among those that share the limit."""
        known = course.memory.durations
        if known is not None:
            course.ends = 1 / max(known.mean, self._polling.shortest)
            polled = not self._relies_on_callback(course)
            course.weight = known.weight * course.ends if polled else 0.0
            self._weights += course.weight
            self._ends += course.ends

    def _unshare(self, course: Course) -> None:
        self._weights -= course.weight
        self._ends -= course.ends

    def _serve(self) -> None:
        """Let through those whose time has come, as far as there is room."""
        now = self._clock()
        queue, budget = self._queue, self._budget
        wait = 0.0
        while queue:
            due, count, turn, rested = queue[0]
            if turn.done():
                heappop(queue)
                self._gone -= 1
                continue
            if due > now:
                break
            if rested > now:
                heapreplace(queue, (rested, count, turn, rested))
                continue
            if self._asking >= self._room or (wait := budget.wait(now)):
                break
            heappop(queue)
            self._asking += 1
            budget.polled(now)
            turn.set_result(None)
        # Without room, the next one is served by whoever makes some.
        if queue and self._asking < self._room:
            wakes_at = max(queue[0][0], now + max(wait, _TOGETHER) if wait else 0.0)
            if wakes_at < self._wakes_at:
                if self._timer is not None:
                    self._timer.cancel()
                self._wakes_at = wakes_at
                self._timer = self._bind().call_at(wakes_at, self._wake)

    def _wake(self) -> None:
        self._timer, self._wakes_at = None, _NEVER
        self._serve()

    def _sweep(self) -> None:
        """Forget waiters who have gone, once they are the most of those in the queue."""
        if self._gone > max(_FEW, len(self._queue) / 2):
            before = len(self._queue)
            self._queue[:] = [one for one in self._queue if not one[2].done()]
            heapify(self._queue)
            # Also of some who were cancelled with this one, and have not counted themselves yet.
            self._gone -= before - len(self._queue)

    def _bind(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._clock = loop, loop.time
            self._queue, self._timer, self._wakes_at = [], None, _NEVER
            self._count = self._gone = self._asking = 0
            self._weights = self._ends = 0.0
            self._arrivals = Arrivals()
            self._budget = Budget(self._limit, loop.time())
        return loop
