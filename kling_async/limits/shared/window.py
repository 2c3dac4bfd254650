"""The request window that processes share. Pure: every method is given the time.

The limit counts requests as they arrive at the service, which may be at any moment between
their sending and their answer. So a request counts from the moment at which its turn is given
until 60 s after its answer, and a turn may be used while fewer than the limit count. Then no
60 s at the service hold more, whatever the latencies.

An engine keeps the window for all processes, by what they report: how many requests are under way
(turns that are not used yet included), and when others were answered. Answers are counted in steps
of a quarter of a second, rounded up. A :class:`Ledger` keeps one process's part.

Reports are numbered, and each names the last one that the engine is known to have. An engine that
has another last one ignores the report, and says which it has: so a report counts once though
calls and answers may be lost, and an engine that has forgotten reports is given them again.

:class:`SharedWindow` is what the engine in memory uses. Those in Redis and PostgreSQL do the same
in their own languages.
"""

from __future__ import annotations

import math
from collections import deque

from attrs import define, frozen

# Seconds for which an answered request counts: a minute, and what the service's clock may gain on
# ours in that time.
COUNTED = 60.05

# Seconds of the steps in which answers are counted.
STEP = 0.25

# Seconds without a report after which a process counts as dead, and what it had under way as just
# answered: longer than a turn is kept and a request may take.
LEASE = 40.0


@frozen
class Report:
    """What a process says of its requests.

    Attributes:
        holder: Which process.
        sequence: The number of this report; later ones have higher numbers.
        since: The number of the last one that the engine is known to have; 0 for none.
        in_flight: Requests that count and are not answered, and turns that are not used yet.
        answered: Groups of requests that were answered since then: how many seconds ago the last of
            the group was, and how many they are.
    """

    holder: str
    sequence: int = 1
    since: int = 0
    in_flight: int = 0
    answered: tuple[tuple[float, int], ...] = ()


@define
class _Group:
    """Requests of one process that were answered within one step."""

    began: float
    ended: float
    number: int = 1
    sequence: int = 0  # of the report in which they were first; 0 if in none yet


class Ledger:
    """What one process has under way, and what it has to report."""

    def __init__(self, holder: str) -> None:
        self.holder = holder
        self.in_flight: int = 0
        self._answered: deque[_Group] = deque()
        self._sequence = self._known = 0

    @property
    def pending(self) -> bool:
        """Whether there is anything to report."""
        return self.in_flight > 0 or bool(self._answered and self._answered[-1].sequence == 0)

    def count(self, now: float) -> int:
        """Return how many requests of this process count, turns that are not used yet included."""
        recent = (one.number for one in self._answered if one.ended > now - COUNTED)
        return self.in_flight + sum(recent)

    def answered(self, now: float, number: int = 1) -> None:
        """Note that requests which were under way have been answered, or have failed."""
        self.in_flight -= number
        groups = self._answered
        if groups and not groups[-1].sequence and now - groups[-1].began < STEP:
            groups[-1].ended = now
            groups[-1].number += number
        else:
            groups.append(_Group(now, now, number))

    def report(self, now: float) -> Report:
        """Return what the engine is not known to have."""
        self._sequence += 1
        while self._answered and self._answered[0].ended <= now - COUNTED:
            self._answered.popleft()
        told = []
        for group in self._answered:
            group.sequence = group.sequence or self._sequence
            if group.sequence > self._known:
                told.append((now - group.ended, group.number))
        return Report(self.holder, self._sequence, self._known, self.in_flight, tuple(told))

    def acknowledge(self, known: int) -> None:
        """Note which is the last report that the engine has."""
        self._known = known

    def shift(self, seconds: float) -> None:
        """Move all moments, since another clock is used from now on."""
        for group in self._answered:
            group.began += seconds
            group.ended += seconds


@define
class _Holder:
    """What an engine knows of one process."""

    sequence: int = 0
    in_flight: int = 0
    ends: float = 0.0


class SharedWindow:
    """What all processes have under way, and what was answered in the last 60 s."""

    def __init__(self) -> None:
        self._holders: dict[str, _Holder] = {}
        self._ends: dict[int, int] = {}  # how many requests cease to count at which step

    def count(self, now: float) -> int:
        """Return how many requests count now, turns that are not used yet included."""
        self._expire(now)
        return sum(one.in_flight for one in self._holders.values()) + sum(self._ends.values())

    def accept(self, now: float, report: Report) -> int:
        """Take in a report, unless it follows one that is not known; return the last known."""
        self._expire(now)
        holder = self._holders.get(report.holder) or _Holder()
        if holder.sequence == report.since:
            self._holders[report.holder] = holder
            holder.sequence, holder.in_flight = report.sequence, report.in_flight
            holder.ends = now + LEASE
            for age, number in report.answered:
                self._answer(now - age, number)
            self._expire(now)
        return holder.sequence

    def give(self, now: float, holder: str, number: int, limit: int) -> list[float]:
        """Give as many turns as the answers known so far allow.

        Returns:
            For each turn, the moment from which it may be used, in ascending order.
        """
        moments: list[float] = []
        room, moment = limit - self.count(now), now
        for step, ended in (*sorted(self._ends.items()), (0, 0)):
            fit = min(max(0, room), number - len(moments))
            moments += [moment] * fit
            room, moment = room - fit + ended, step * STEP
        self._holders[holder].in_flight += len(moments)
        return moments

    def _answer(self, at: float, number: int) -> None:
        step = math.ceil((at + COUNTED) / STEP)
        self._ends[step] = self._ends.get(step, 0) + number

    def _expire(self, now: float) -> None:
        for name, holder in [*self._holders.items()]:
            if holder.in_flight and holder.ends <= now:
                self._answer(holder.ends, holder.in_flight)
                holder.in_flight = 0
            if holder.ends <= now - COUNTED:
                del self._holders[name]
        for step in [step for step in self._ends if step * STEP <= now]:
            del self._ends[step]
