"""When to poll: a pure schedule, and what the request limit leaves to polls.

How the polls of one task are best placed
    An end is found half a wait late on the average, and each wait costs a request if the task
    still runs. To poll often is worth most when few tasks of an age still run: then nearly all
    that are asked about are about to end. For tasks that end evenly between two ages, the least
    lateness for a number of requests is reached if each wait is proportional to the square root
    of the share of tasks that still run. So ``wait = spacing * sqrt(running(age))``: the
    *spacing* is the wait at the early mark, and the last waits before the late mark are several
    times shorter.

How all tasks share the limit
    The best share is the one spacing for all tasks that makes their polls as many as the limit
    allows. A task makes ``weight / spacing`` polls while it runs (:attr:`Durations.weight`) and
    one more that finds its end, and each end is followed by a submit. Summed over all tasks, each
    divided by the time that it takes, that is the rate of requests: :func:`spacing` solves for
    the spacing. It looks at whole lives of tasks. What is left of the limit at one moment is
    counted by :class:`Budget`; polls that find none wait, and are served in the order in which
    they are due. That is right also for a crowd that was submitted together: its tasks have the
    same age and the same claim.

A task for which a callback is expected is not polled before the callback is overdue, and then
rarely. After the late mark a task is late by an unknown amount, and waits grow with it.
"""

from __future__ import annotations

from collections import deque
from math import inf, sqrt
from typing import TYPE_CHECKING

from attrs import field, frozen

from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    from attrs import Attribute

    from kling_async.policy.durations import Durations

# The least spacing is a fortieth of the time between the marks, which finds ends less than 1 % of
# that time late on the average. To be more exact is not worth requests that the limit has room for.
_FINEST = 1 / 40

# After that a task is late by an unknown amount; it is found at most a tenth of that later.
_TAIL = 0.1

# Before that, or where nothing is known, a task is found at most 5 % of its age late.
_SHARE_OF_AGE = 0.05

# The first poll comes no later than this, in seconds. However slow the service was of late, it
# may have recovered, and only a poll can show it.
_FIRST = 120.0

# A callback is overdue when nearly all tasks have ended and this share of their time, or as many
# seconds, has passed on top: it is sent at once, and has only to travel.
_OVERDUE = 0.1
_TRAVEL = 5.0

# The least share of the limit for polls, however many submits there are: ends that are not found
# keep slots.
_POLLS = 0.25

# Requests that polls may make at once after a rest: those of a second, and with a small limit
# hardly more than one: more would use up a small limit for most of a minute.
_BURST = 1.5

# Requests that polls leave to submits: if a poll finds an end, a submit follows.
_RESERVE = 1

# Seconds that are no wait.
_ROUNDING = 1e-6

# A request counts for the limit until 60 s after its answer; see kling_async.limits.
_WINDOW = 60.0

# The weight of the latest answer in the average time that an answer takes.
_NEWEST = 0.02


def _seconds(_: object, attribute: Attribute[float], value: object) -> None:
    """Refuse what is not a finite number of seconds, greater than 0."""
    if not _is_finite(value) or value <= 0:  # type: ignore[operator] # it is a number
        raise ConfigurationError(
            f"Polling({attribute.name}=...) must be a finite number of seconds greater than 0,"
            f" such as {attribute.default}, not {value!r:.80}"
        )


def _seconds_or_none(_: object, attribute: Attribute[float | None], value: object) -> None:
    """Refuse what is neither None nor a finite number of seconds."""
    if value is not None and (not _is_finite(value) or value < 0):  # type: ignore[operator] # as above
        raise ConfigurationError(
            f"Polling({attribute.name}=...) must be a finite number of seconds, at least 0, such as"
            f" 5.0, or None to follow how long tasks take; not {value!r:.80}"
        )


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return -inf < float(value) < inf
    except OverflowError:
        return False


@frozen
class Polling:
    """How often a waiting task is polled.

    Attributes:
        first: Seconds from the submit to the first poll. None takes what is known of the kind:
            at first the vendor's figures, 60 for 5 s videos and 90 for 10 s videos, then what
            the tasks of this client took.
        shortest: The least wait between two polls, in seconds.
        longest: The longest wait between two polls, in seconds, where the request limit allows.
        safety_net: The wait between two polls, in seconds, of a task whose callback is overdue
            while callbacks of other tasks come.

    Raises:
        ConfigurationError: A value is not a number of seconds, is negative or not finite, or
            ``longest`` is less than ``shortest``.
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
        """Return the seconds from the submit to the first poll.

        Args:
            known: How long such tasks take, or None where nothing is known.
            called_back: A callback is expected.
            spacing: See :func:`spacing`.
        """
        if self.first is not None:
            return self.first
        if called_back:
            return self._overdue(known)
        if known is None:
            return self.longest
        return min(known.early + self._scarcity(known, spacing), _FIRST)

    def next_wait(
        self,
        age: float,
        known: Durations | None,
        *,
        called_back: bool = False,
        spacing: float = 0.0,
    ) -> float:
        """Return the seconds until the next poll of a task that is ``age`` seconds old."""
        if called_back:
            ahead = self._overdue(known) - age
            return max(self.shortest, ahead if ahead > 0 else self.safety_net)
        if known is None:
            return self._bounded(age * _SHARE_OF_AGE)
        if age < known.early:  # not far beyond the moment from which it may well have ended
            ahead = known.early - age + self._scarcity(known, spacing)
            wait = min(self._bounded(age * _SHARE_OF_AGE), ahead)
            return max(self.shortest, wait)
        wait = self._close_wait(age, known, spacing)
        if age > known.late:
            wait = min(max(wait, self.longest), wait + (age - known.late) * _TAIL)
        return wait

    def _scarcity(self, known: Durations, spacing: float) -> float:
        """Return how much later than the early mark the first poll comes.

        At the mark hardly any task has ended. A poll is only worth it if requests are plenty.
        """
        span = known.late - known.early
        return max(0.0, min(spacing, span) - max(self.shortest, span * _FINEST))

    def _close_wait(self, age: float, known: Durations, spacing: float) -> float:
        """Return the wait where tasks usually end."""
        span = known.late - known.early
        root = sqrt(known.running(age))
        return max(self._bounded(span * _FINEST * root), min(spacing, span) * root)

    def _bounded(self, wait: float) -> float:
        return min(self.longest, max(self.shortest, wait))

    def _overdue(self, known: Durations | None) -> float:
        """Return the age from which a task's callback is overdue."""
        if known is None:
            return self.safety_net
        return known.late + max(_TRAVEL, known.late * _OVERDUE)


def spacing(rate: float, weights: float, ends: float) -> float:
    """Return the wait at the early mark with which polls make as many requests as planned.

    Args:
        rate: Requests per second, submits included: :attr:`Budget.planned_rate`.
        weights: The sum of ``weight / mean`` over the tasks that are polled, as of
            :class:`~kling_async.policy.durations.Durations`.
        ends: The sum of ``1 / mean`` over all tasks: so many end each second. Each of them takes
            a submit, and half a poll more than the sum of the weights accounts for: that is what
            the whole polls are more than the integral.
    """
    return weights / max(rate * _POLLS, rate - ends * 1.5)


class Budget:
    """The requests that polls may make now: what the limit allows, less submits.

    A request counts from its sending until 60 s after its answer, as in the limiter, so that a
    poll that is let through finds no queue there. Within that, a bucket of tokens keeps the pace.
    A submit counts even if nothing is left, so that submits come first. Moments are in seconds,
    of any one clock, and do not go backwards.
    """

    def __init__(self, requests_per_minute: int, now: float) -> None:
        self._limit = requests_per_minute
        self._room = max(1, requests_per_minute - _RESERVE)
        self._capacity = max(_BURST, requests_per_minute / _WINDOW)
        self._tokens = self._capacity
        self._filled_at = self._polled_at = now
        self._takes = 0.0  # seconds that an answer takes on average
        self._rate = requests_per_minute / _WINDOW
        self._sent: deque[float] = deque()

    @property
    def planned_rate(self) -> float:
        """Requests per second to plan for, submits included.

        As in any queue, what comes by chance needs room: about the square root of the number.
        That is 1 % of 10,000 requests a minute, and a third of 10.
        """
        return self._rate * (1 - 1 / sqrt(self._limit + 1))

    def wait(self, now: float) -> float:
        """Return the seconds until a poll may be made; 0 if it may be made now."""
        sent, span = self._sent, _WINDOW + self._takes
        while sent and sent[0] <= now - span:
            sent.popleft()
        wait = (1 - self._fill(now)) / self._rate
        over = len(sent) - self._room
        if over >= 0:
            wait = max(wait, sent[over] + span - now)
        if wait <= _ROUNDING:
            return 0.0
        return max(0.0, min(wait, self._polled_at + 1 / (self._rate * _POLLS) - now))

    def polled(self, now: float) -> None:
        """Count a poll."""
        self.submitted(now)
        self._polled_at = now

    def submitted(self, now: float) -> None:
        """Count a submit."""
        self._tokens = max(-self._capacity, self._fill(now) - 1)
        self._sent.append(now)

    def answered(self, took: float) -> None:
        """Note the seconds from a poll to its answer."""
        self._takes += (took - self._takes) * _NEWEST
        self._rate = self._limit / (_WINDOW + self._takes)

    def _fill(self, now: float) -> float:
        tokens = self._tokens + (now - self._filled_at) * self._rate
        self._tokens = min(self._capacity, tokens)
        self._filled_at = now
        return self._tokens
