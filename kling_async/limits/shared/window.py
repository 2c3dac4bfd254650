"""The request window that processes share. Pure: times are arguments.

As for one process (`kling_async.limits.window`), a request counts from its grant until 60 s after
its answer, and a grant may be used while fewer than the limit count. Then no 60 s at the service
hold more than the limit, whatever the latencies.

A backend keeps the window for all processes, from what they report: how many requests are in
flight (unused grants included), and when others were answered. Answers are counted in steps of a
quarter of a second, rounded up. A :class:`Ledger` keeps one process's part.

Reports are numbered, and each names the last one that the backend is known to have. A backend that
has another last one ignores the report and returns the number of its own: so a report counts once
though calls and answers may be lost, and a backend that has lost reports receives them again.

:class:`SharedWindow` is used by the backend in memory. Those in Redis and PostgreSQL do the same
in their own languages.
"""

from __future__ import annotations

import math
from collections import deque

from attrs import define, frozen

from kling_async.limits.window import COUNTED_FOR

# Seconds of the steps in which answers are counted.
STEP = 0.25

# Seconds without a report after which a process counts as dead, and what it had in flight as just
# answered: longer than a grant is kept and a request may take.
LEASE = 40.0


@frozen
class Report:
    """What a process reports about its requests.

    Attributes:
        holder: The process.
        sequence: The number of this report; later ones have higher numbers.
        since: The number of the last one that the backend is known to have; 0 for none.
        in_flight: Requests without an answer, and grants that were not used yet.
        answered: Groups of requests that were answered since then: how many seconds ago the last of
            the group was, and how many they are.
    """

    holder: str
    sequence: int = 1
    since: int = 0
    in_flight: int = 0
    answered: tuple[tuple[float, int], ...] = ()


@define
class _AnswerGroup:
    """Requests of one process that were answered within one step."""

    began: float
    ended: float
    number: int = 1
    sequence: int = 0  # of the report in which they were first; 0 if in none yet


class Ledger:
    """What one process has in flight, and what it has to report."""

    def __init__(self, holder: str) -> None:
        self.holder = holder
        self.in_flight: int = 0
        self._answered: deque[_AnswerGroup] = deque()
        self._sequence = self._acknowledged = 0

    @property
    def pending(self) -> bool:
        """Whether there is anything to report."""
        return self.in_flight > 0 or bool(self._answered and self._answered[-1].sequence == 0)

    def count(self, now: float) -> int:
        """Return how many requests of this process count, unused grants included."""
        return self.in_flight + sum(
            group.number for group in self._answered if group.ended > now - COUNTED_FOR
        )

    def answered(self, now: float, number: int = 1) -> None:
        """Note that requests in flight have been answered, or have failed."""
        self.in_flight -= number
        group = self._answered[-1] if self._answered else None
        if group is not None and not group.sequence and now - group.began < STEP:
            group.ended = now
            group.number += number
        else:
            self._answered.append(_AnswerGroup(now, now, number))

    def create_report(self, now: float) -> Report:
        """Return what the backend is not known to have."""
        self._sequence += 1
        while self._answered and self._answered[0].ended <= now - COUNTED_FOR:
            self._answered.popleft()
        answered = []
        for group in self._answered:
            group.sequence = group.sequence or self._sequence
            if group.sequence > self._acknowledged:
                answered.append((now - group.ended, group.number))
        return Report(
            self.holder, self._sequence, self._acknowledged, self.in_flight, tuple(answered)
        )

    def acknowledge(self, sequence: int) -> None:
        """Note which is the last report that the backend has."""
        self._acknowledged = sequence

    def shift(self, shift: float) -> None:
        """Change to another clock, whose time differs by so much."""
        for group in self._answered:
            group.began += shift
            group.ended += shift


@define
class _HolderRecord:
    """What a backend knows of one process."""

    sequence: int = 0
    in_flight: int = 0
    expires_at: float = 0.0


class SharedWindow:
    """What all processes have in flight, and what was answered in the last 60 s."""

    def __init__(self) -> None:
        self._holders: dict[str, _HolderRecord] = {}
        self._expiring: dict[int, int] = {}  # how many requests cease to count at which step

    def count(self, now: float) -> int:
        """Return how many requests count now, unused grants included."""
        self._expire(now)
        in_flight = sum(holder.in_flight for holder in self._holders.values())
        return in_flight + sum(self._expiring.values())

    def accept(self, now: float, report: Report) -> int:
        """Apply a report, unless its predecessor is unknown; return the last known sequence."""
        self._expire(now)
        holder = self._holders.get(report.holder) or _HolderRecord()
        if holder.sequence == report.since:
            self._holders[report.holder] = holder
            holder.sequence, holder.in_flight = report.sequence, report.in_flight
            holder.expires_at = now + LEASE
            for age, number in report.answered:
                self._count_answers(now - age, number)
            self._expire(now)
        return holder.sequence

    def grant(self, now: float, holder: str, number: int, limit: int) -> list[float]:
        """Give as many grants as the answers known so far allow.

        Returns:
            For each grant, the time from which it may be used, ascending.
        """
        times: list[float] = []
        room, time = limit - self.count(now), now
        for step, ended in (*sorted(self._expiring.items()), (0, 0)):
            fit = min(max(0, room), number - len(times))
            times += [time] * fit
            room, time = room - fit + ended, step * STEP
        self._holders[holder].in_flight += len(times)
        return times

    def _count_answers(self, at: float, number: int) -> None:
        step = math.ceil((at + COUNTED_FOR) / STEP)
        self._expiring[step] = self._expiring.get(step, 0) + number

    def _expire(self, now: float) -> None:
        for name, holder in [*self._holders.items()]:
            if holder.in_flight and holder.expires_at <= now:
                self._count_answers(holder.expires_at, holder.in_flight)
                holder.in_flight = 0
            if holder.expires_at <= now - COUNTED_FOR:
                del self._holders[name]
        for step in [step for step in self._expiring if step * STEP <= now]:
            del self._expiring[step]
