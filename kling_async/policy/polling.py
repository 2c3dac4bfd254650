"""When to ask after a task: a pure schedule.

Asking starts when the first tasks of a kind usually end, goes on closely until nearly all
usually have ended, and thins out after that. A task whose end a callback will tell is not asked
after before that callback is overdue, and then rarely. All tasks that wait share what the
request limit leaves to them: if their wishes together are more, every wait is stretched by the
same factor.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attrs import field, frozen

from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    from kling_async.policy.durations import Durations

__all__ = ["Polling", "pace", "stretch"]

# While tasks usually end, they are asked after 60 times in all, or as often as `shortest` allows:
# an end is found half a wait late on the average, less than 1 % of the time in question.
_CLOSE = 60

# After that a task is late by an unknown amount; it is found at most a tenth of that later.
_TAIL = 0.1

# Before that, or where nothing is known, a task is found at most 5 % of its age late.
_SHARE_OF_AGE = 0.05

# The first poll comes no later than this, in seconds. However slow the service was of late, it
# may be well again, and nobody would know before the first poll.
_FIRST = 120.0

# A callback is overdue when nearly all tasks have ended and this share of their time, or as many
# seconds, has passed on top: it is sent at once, and has only to travel.
_OVERDUE = 0.1
_TRAVEL = 5.0

# The share of the request limit that is planned with. The rest is for requests that are sent
# again, and so that a submit does not find a queue.
_PLANNED = 0.9

# The least share for polls, however many submits there are: ends that nobody notices keep slots.
_POLLS = 0.25

# Seconds over which the pace of submits is averaged.
_MEMORY = 20.0


@frozen
class Polling:
    """How often a waiting task is asked after.

    Attributes:
        first: Seconds from the submit to the first poll. None takes what is known of the kind:
            at first the vendor's figures, 60 for 5 s videos and 90 for 10 s videos, then what
            the tasks of this client took.
        shortest: The least wait between two polls, in seconds.
        longest: The longest wait between two polls, in seconds, where the request limit allows.
        safety_net: The wait between two polls, in seconds, of a task whose callback is overdue
            while callbacks of other tasks come.

    Raises:
        ConfigurationError: A number is negative or not finite, or ``longest`` is less than
            ``shortest``.
    """

    first: float | None = None
    shortest: float = field(default=1.0)
    longest: float = field(default=15.0)
    safety_net: float = field(default=60.0)

    def __attrs_post_init__(self) -> None:
        if not (0 < self.shortest <= self.longest < float("inf")):
            raise ConfigurationError(
                "polling needs 0 < shortest <= longest,"
                f" not shortest={self.shortest!r}, longest={self.longest!r}"
            )
        if self.first is not None and not 0 <= self.first < float("inf"):
            raise ConfigurationError(f"polling needs first >= 0, not {self.first!r}")
        if not 0 < self.safety_net < float("inf"):
            raise ConfigurationError(f"polling needs safety_net > 0, not {self.safety_net!r}")

    def first_wait(self, known: Durations | None, *, called_back: bool = False) -> float:
        """Return the seconds from the submit to the first poll.

        Args:
            known: How long such tasks take, or None where nothing is known.
            called_back: A callback will tell the end.
        """
        if self.first is not None:
            return self.first
        if called_back:
            return self._overdue(known)
        return self.longest if known is None else min(known.early, _FIRST)

    def next_wait(self, age: float, known: Durations | None, *, called_back: bool = False) -> float:
        """Return the seconds until the next poll of a task that is ``age`` seconds old."""
        if called_back:
            ahead = self._overdue(known) - age
            return max(self.shortest, ahead if ahead > 0 else self.safety_net)
        if known is None or age < known.early:
            wait = age * _SHARE_OF_AGE
            if known is not None:  # not beyond the moment from which it may well have ended
                wait = min(wait, known.early - age)
        else:
            wait = max(self.shortest, (known.late - known.early) / _CLOSE)
            wait += max(0.0, age - known.late) * _TAIL
        return min(self.longest, max(self.shortest, wait))

    def _overdue(self, known: Durations | None) -> float:
        """Return the age from which a task's callback is overdue."""
        if known is None:
            return self.safety_net
        return known.late + max(_TRAVEL, known.late * _OVERDUE)


def pace(before: float, elapsed: float, more: int = 0) -> float:
    """Return how many are made per second of late: what it was fades, new ones come on top.

    Args:
        before: The pace when it was last told.
        elapsed: Seconds since then.
        more: How many were made in that time, taken as spread evenly over it.
    """
    if elapsed <= 0:
        return before + more / _MEMORY
    faded = -math.expm1(-elapsed / _MEMORY)
    return before * (1 - faded) + more * faded / elapsed


def stretch(wished: float, requests_per_minute: int, submits: float) -> float:
    """Return the factor by which waits between polls grow, at least 1.

    Args:
        wished: Polls per second that all waiting tasks together would make.
        requests_per_minute: The limit.
        submits: Submits per second, which come first.
    """
    limit = requests_per_minute / 60
    left = max(limit * _POLLS, limit * _PLANNED - submits)
    return max(1.0, wished / left)
