"""When to poll: a pure schedule, and the share of the request limit that is left to polls.

The polls of one task
    Polls find an end half a wait late on average, and each wait costs a request if the task still
    runs. Frequent polls are worth most at ages at which few tasks still run, since nearly all of
    those are about to end. For tasks that end evenly between two ages, a number of requests finds
    the ends earliest if each wait is proportional to the square root of the share of tasks that
    still run: ``wait = spacing * sqrt(running(age))``. The *spacing* is the wait at the early mark.
    The last waits before the late mark are several times shorter.

The polls of all tasks
    All tasks have the same spacing: the one with which their polls are as many as the limit
    allows. A task has ``weight / spacing`` polls while it runs (:attr:`Durations.weight`) and one
    more that finds its end, and each end is followed by a submit. The sum of these over all tasks,
    each divided by the duration of the task, is the rate of requests. :meth:`PollBudget.spacing`
    solves this for the spacing. It considers whole lives of tasks, while
    :meth:`PollBudget.time_until_poll` counts what is left of the limit at one moment. Polls that
    exceed it wait, and are made in the order in which they are due. Tasks that were submitted
    together have the same age and the same claim.

While a callback is expected, a task is not polled until the callback is overdue, and rarely then.
A single lost callback concerns one task. If the callback URL does not work any more (a deploy, an
expired tunnel, a changed address), several tasks end without a callback, and none arrives since:
then all tasks are polled as without callbacks; see :class:`CallbackHealth`. After the late mark,
waits grow with the unknown time by which a task is late.
"""

from __future__ import annotations

from collections import deque
from math import sqrt
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from kling_async._utils.numbers import is_number
from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    from attrs import Attribute

    from kling_async.policy.durations import Durations

# The shortest spacing, in parts of the time between the marks. It finds ends less than 1 % of that
# time late on average.
_FINEST = 1 / 40

# A task that ends after the late mark is found at most a tenth of its lateness later.
_TAIL = 0.1

# Before the early mark, and for unknown kinds, an end is found at most 5 % of the age late.
_SHARE_OF_AGE = 0.05

# The latest first poll, in seconds. A slow service may have recovered, and only a poll shows it.
_FIRST = 120.0

# A callback is overdue after the late mark and this share of it, or so many seconds, if longer.
_OVERDUE = 0.1
_TRAVEL = 5.0

# With one callback in five lost, so many are missed in a row by chance once in 125 times. That
# costs a few polls until the next callback arrives.
_MOST_MISSED = 3

# The least share of the limit for polls, since ends that are not found keep slots.
_POLLS = 0.25

# The burst of polls after a pause, with a small limit: more would use it up for most of a minute.
_BURST = 1.5

# Requests that polls leave to submits: a submit follows each end that is found.
_RESERVE = 1

# Seconds. Shorter waits are rounding errors.
_ROUNDING = 1e-6

# A request counts until 60 s after its answer; see kling_async.limits.
_WINDOW = 60.0

# The weight of the latest response time in the average.
_NEWEST = 0.02


def _seconds(_: object, attribute: Attribute[float], value: object) -> None:
    if not is_number(value) or value <= 0:
        raise ConfigurationError(
            f"Polling({attribute.name}=...) must be a finite number of seconds greater than 0,"
            f" such as {attribute.default}, not {value!r:.80}"
        )


def _seconds_or_none(_: object, attribute: Attribute[float | None], value: object) -> None:
    if value is not None and (not is_number(value) or value < 0):
        raise ConfigurationError(
            f"Polling({attribute.name}=...) must be a finite number of seconds, at least 0, such as"
            f" 5.0, or None to follow how long tasks take; not {value!r:.80}"
        )


@frozen
class Polling:
    """How often a waiting task is polled.

    Attributes:
        first: Seconds from the submit to the first poll. None uses the durations of the kind: at
            first the vendor's estimate, 60 for 5 s videos and 90 for 10 s videos, then those of
            this client's tasks.
        shortest: The shortest wait between two polls, in seconds.
        longest: The longest wait between two polls, in seconds, if the request limit allows it.
        safety_net: The wait between two polls, in seconds, of a task whose callback is overdue
            while callbacks of other tasks arrive.

    Raises:
        ConfigurationError: A value is not a finite number of seconds, is negative, or ``longest``
            is less than ``shortest``.
    """

    first: float | None = field(default=None, validator=_seconds_or_none)
    shortest: float = field(default=1.0, validator=_seconds)
    longest: float = field(default=15.0, validator=_seconds)
    safety_net: float = field(default=60.0, validator=_seconds)

    def __attrs_post_init__(self) -> None:
        if self.longest < self.shortest:
            raise ConfigurationError(
                f"Polling(longest={self.longest!r}) must not be less than"
                f" Polling(shortest={self.shortest!r})"
            )

    def first_wait(
        self, known: Durations | None, *, called_back: bool = False, spacing: float = 0.0
    ) -> float:
        """Return the number of seconds from the submit to the first poll.

        Args:
            known: The durations of such tasks, or None if they are unknown.
            called_back: A callback is expected.
            spacing: See :meth:`PollBudget.spacing`.
        """
        if self.first is not None:
            return self.first
        if called_back:
            return self._overdue_age(known)
        if known is None:
            return self.longest
        return min(self._first_age(known, spacing), _FIRST)

    def next_wait(
        self,
        age: float,
        known: Durations | None,
        *,
        called_back: bool = False,
        spacing: float = 0.0,
    ) -> float:
        """Return the number of seconds until the next poll of a task of an age."""
        if called_back:
            ahead = self._overdue_age(known) - age
            return max(self.shortest, ahead if ahead > 0 else self.safety_net)
        if known is None:
            return self._bounded(age * _SHARE_OF_AGE)
        if age < known.early:
            ahead = self._first_age(known, spacing) - age
            return max(self.shortest, min(self._bounded(age * _SHARE_OF_AGE), ahead))
        span, root = known.late - known.early, sqrt(known.running(age))
        wait = max(self._bounded(span * _FINEST * root), min(spacing, span) * root)
        if age > known.late:
            wait = min(max(wait, self.longest), wait + (age - known.late) * _TAIL)
        return wait

    def _first_age(self, known: Durations, spacing: float) -> float:
        """Return the age at which a task is polled first.

        At the early mark hardly any task has ended. A poll is worth it only if the limit is large.
        """
        span = known.late - known.early
        finest = max(self.shortest, span * _FINEST)
        return known.early + max(0.0, min(spacing, span) - finest)

    def _bounded(self, wait: float) -> float:
        return min(self.longest, max(self.shortest, wait))

    def _overdue_age(self, known: Durations | None) -> float:
        """Return the age from which a task's callback is overdue."""
        if known is None:
            return self.safety_net
        return known.late + max(_TRAVEL, known.late * _OVERDUE)


@frozen
class CallbackHealth:
    """The state of one client's callbacks; each that is received begins a new one.

    Moments are in seconds, of any one clock.

    Attributes:
        received_at: When the last callback was received.
        missed: How many tasks in a row have ended since then without a callback.
    """

    received_at: float = float("-inf")
    missed: int = 0

    @property
    def stopped(self) -> bool:
        """Whether to poll as if no callbacks were expected."""
        return self.missed >= _MOST_MISSED

    def missed_end(self, ended_at: float) -> CallbackHealth:
        """Return the state after a poll found the end of a task without a callback."""
        # If several tasks end together, polls may find some of them after the callbacks of others.
        return evolve(self, missed=self.missed + 1) if ended_at > self.received_at else self


class PollBudget:
    """Decides when polls may be made: the request limit, less submits.

    As in the limiter, a request counts from its sending until 60 s after its answer, so that polls
    do not wait in the limiter's queue. A token bucket keeps the pace. Submits count even if
    nothing is left, so they take precedence. Moments are in seconds, of any one clock, and must
    not go backwards.
    """

    def __init__(self, requests_per_minute: int, now: float) -> None:
        self._limit = requests_per_minute
        self._room = max(1, requests_per_minute - _RESERVE)
        self._capacity = max(_BURST, requests_per_minute / _WINDOW)
        self._full_at = self._polled_at = now  # when the bucket is full, unless more is sent
        self._response_time = 0.0  # average, in seconds
        self._sent: deque[float] = deque()
        self._rate = requests_per_minute / _WINDOW

    def spacing(self, weights: float, ends: float) -> float:
        """Return the wait at the early mark with which polls use what submits leave of the limit.

        Args:
            weights: The sum of ``weight / mean`` over the tasks that are polled, of
                :class:`~kling_async.policy.durations.Durations`.
            ends: The sum of ``1 / mean`` over all tasks: the number of ends per second. Each takes
                a submit, and half a poll, by which whole polls exceed the integral.
        """
        # As in any queue, random arrivals need room, about the square root of their number. That
        # is 1 % of 10,000 requests per minute, and a third of 10.
        planned = self._rate * (1 - 1 / sqrt(self._limit + 1))
        return weights / max(planned * _POLLS, planned - ends * 1.5)

    def time_until_poll(self, now: float) -> float:
        """Return the number of seconds until a poll may be made; 0 for now."""
        sent, span = self._sent, _WINDOW + self._response_time
        while sent and sent[0] <= now - span:
            sent.popleft()
        wait = self._full_at - (self._capacity - 1) / self._rate - now
        over = len(sent) - self._room
        if over >= 0:
            wait = max(wait, sent[over] + span - now)
        if wait <= _ROUNDING:
            return 0.0
        return max(0.0, min(wait, self._polled_at + 1 / (self._rate * _POLLS) - now))

    def count_request(self, now: float, *, is_poll: bool = False) -> None:
        """Count a poll or a submit."""
        # At most one bucket of requests is owed.
        full_at = max(self._full_at, now) + 1 / self._rate
        self._full_at = min(full_at, now + 2 * self._capacity / self._rate)
        self._sent.append(now)
        if is_poll:
            self._polled_at = now

    def record_response_time(self, seconds: float) -> None:
        """Record the number of seconds from a poll to its answer."""
        self._response_time += (seconds - self._response_time) * _NEWEST
        self._rate = self._limit / (_WINDOW + self._response_time)
