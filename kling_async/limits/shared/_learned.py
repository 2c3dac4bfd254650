"""The learned cap of tasks, which all processes share. Pure: every method is given the time.

Each process has a :class:`~kling_async.limits.task_cap.TaskCap` of its own, and counts the tasks
of all processes in it. What a refusal has taught one of them is kept by the engine as a short
text, which is replaced by whichever process knows better: the cap, and a mark of the refusal that
has lowered it. The others then lower theirs as if they had been refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from kling_async.limits.task_cap import TaskCap

if TYPE_CHECKING:
    from kling_async.limits.shared.backend import LeaseStatus

# Tasks that may be started before any was accepted, by all processes together: as in TaskCap.
_UNPROVEN = 20


def parse_learned_cap(learned: str, limit: int) -> int:
    """Return the cap that the engine's text stands for."""
    return int(learned.partition(" ")[0] or limit)


class LearnedCap:
    """How many tasks may run: what this process and the others have learned."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._own = TaskCap(limit)
        self._held = self._confirmed = 0  # by all processes
        self._mark = ""  # of the last refusal, here or elsewhere
        self._unshared = False  # it was here, and the engine does not know yet
        self._shared = ""  # what the engine has
        self._sent = ""  # what it was sent last

    @property
    def cap(self) -> int:
        """How many may run now."""
        return self._own.cap

    def admit(self, wanted: int, now: float) -> int:
        """Return how many of the slots that are wanted now may be asked for."""
        if wanted and self._held >= self._own.cap:
            self._own.admit(self._held, now)  # which raises it in time
        admitted = 0
        # How many are held was seen a moment ago: the engine gives none beyond `most`.
        while admitted < wanted:
            held = min(self._held + admitted, self._own.cap - 1)
            if not self._own.admit(held, now):
                break
            admitted += 1
        return admitted

    def most(self, admitted: int) -> int:
        """Return how many may be held by all processes after so many more were admitted.

        What others have taken since the engine was last heard is part of it.
        """
        return min(self.cap, max(self._held + admitted, 2 * self._confirmed, _UNPROVEN))

    def accepted(self) -> None:
        """Note that the service has accepted a task of ours."""
        self._confirmed += 1
        self._own.accepted(self._confirmed)

    def ended(self) -> None:
        """Note that a task of ours has ended."""
        self._confirmed = max(0, self._confirmed - 1)
        self._own.ended()

    def refused(self, started: float, now: float) -> None:
        """Note that the service has refused a submit since too many tasks run."""
        self._own.refused(started, self._confirmed, now)
        self._mark, self._unshared = uuid4().hex[:8], True

    def admit_alone(self, held: int, now: float) -> bool:
        """Return whether one more slot may be given without the engine, while so many are held."""
        return self._own.admit(held, now)

    def news(self) -> tuple[str, str] | None:
        """Return what the engine is to replace, and by what; None: nothing."""
        risen = self._own.cap >= self._limit and not self._unshared
        self._sent = "" if risen else f"{self._own.cap} {self._mark}"
        return None if self._sent == self._shared else (self._shared, self._sent)

    def forgotten(self) -> None:
        """Note that the engine has lost something: it is told again."""
        self._shared = ""

    def shift(self, shift: float) -> None:
        """LeaseUpdate to a clock that shows so much more."""
        self._own.shift(shift)

    def heard(self, leased: LeaseStatus, now: float, *, settled: bool) -> None:
        """Take in what all processes hold, and what others have learned.

        Args:
            leased: What the engine has answered.
            now: The moment.
            settled: Whether nothing has changed here since it was asked.
        """
        grown = leased.confirmed - self._confirmed if settled else 0
        self._held, self._confirmed = leased.held, self._confirmed + grown
        if grown > 0:
            self._own.accepted(self._confirmed)
        elif grown < 0:
            self._own.ended()
        before, self._shared = self._shared, leased.learned
        if self._shared not in (before, self._sent):
            self._adopt(now)
        elif self._shared.endswith(self._mark):
            self._unshared = False

    def _adopt(self, now: float) -> None:
        """Take over what another process has learned."""
        cap, mark = parse_learned_cap(self._shared, self._limit), self._shared.partition(" ")[2]
        if self._unshared:  # both were refused in the same storm, and it was quicker
            self._own.cap = min(self._own.cap, cap)
        elif mark not in ("", self._mark):
            self._own.refused(now, cap, now)
        elif cap > self._own.cap:
            self._own.accepted(cap)
        self._mark, self._unshared = mark or self._mark, False
