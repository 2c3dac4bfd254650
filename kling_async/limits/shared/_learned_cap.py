"""The learned cap of tasks, which all processes share. Pure: times are arguments.

Each process has a :class:`~kling_async.limits.task_cap.TaskCap` of its own, and counts the tasks
of all processes in it. What a refusal has taught one of them is kept by the backend as a short
text: the cap, and a random mark of the refusal that has lowered it. A process that knows better
replaces it. When the others see another mark, they lower their caps as if they had been refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from kling_async.limits.task_cap import RAMP_START, TaskCap

if TYPE_CHECKING:
    from kling_async.limits.shared.backend import LeaseStatus


def parse_learned_cap(learned: str, limit: int) -> int:
    """Return the cap in the text of the backend."""
    return int(learned.partition(" ")[0] or limit)


class LearnedCap:
    """How many tasks may run: what this process and the others have learned."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._own = TaskCap(limit)
        self._held = self._confirmed = 0  # by all processes
        self._mark = ""  # of the last refusal, here or elsewhere
        self._is_unreported = False  # the refusal was here, and the backend does not know it yet
        self._known = ""  # the text that the backend has
        self._sent = ""  # the text that was sent last

    @property
    def cap(self) -> int:
        """How many may run now."""
        return self._own.cap

    def admit(self, wanted: int, now: float) -> int:
        """Return how many of the slots that are wanted may be asked for now."""
        if wanted and self._held >= self._own.cap:
            self._own.admit(self._held, now)  # which raises it in time
        admitted = 0
        # The number held may have changed meanwhile: the backend gives none beyond `most`.
        while admitted < wanted:
            held = min(self._held + admitted, self._own.cap - 1)
            if not self._own.admit(held, now):
                break
            admitted += 1
        return admitted

    def admit_locally(self, held: int, now: float) -> bool:
        """Return whether one more slot may be given without the backend, while so many are held."""
        return self._own.admit(held, now)

    def most(self, admitted: int) -> int:
        """Return how many all processes may hold after so many more were admitted.

        It includes what others have acquired since the backend answered last.
        """
        return min(self.cap, max(self._held + admitted, 2 * self._confirmed, RAMP_START))

    def accepted(self) -> None:
        """Note that the service has accepted a task of this process."""
        self._confirmed += 1
        self._own.accepted(self._confirmed)

    def ended(self) -> None:
        """Note that a task of this process has ended."""
        self._confirmed = max(0, self._confirmed - 1)
        self._own.ended()

    def refused(self, started: float, now: float) -> None:
        """Note that the service has refused a submit since too many tasks run."""
        self._own.refused(started, self._confirmed, now)
        self._mark, self._is_unreported = uuid4().hex[:8], True

    def unreported(self) -> tuple[str, str] | None:
        """Return the text that the backend is to replace, and the new one; None: no change."""
        has_risen = self._own.cap >= self._limit and not self._is_unreported
        self._sent = "" if has_risen else f"{self._own.cap} {self._mark}"
        return None if self._sent == self._known else (self._known, self._sent)

    def report_again(self) -> None:
        """Note that the backend has lost its state."""
        self._known = ""

    def shift(self, shift: float) -> None:
        """Change to another clock, by its time minus that of the present one."""
        self._own.shift(shift)

    def apply(self, status: LeaseStatus, now: float, *, settled: bool) -> None:
        """Apply what all processes hold, and what others have learned.

        Args:
            status: The answer of the backend.
            now: The time.
            settled: Whether nothing has changed here since the call.
        """
        grown = status.confirmed - self._confirmed if settled else 0
        self._held, self._confirmed = status.held, self._confirmed + grown
        if grown > 0:
            self._own.accepted(self._confirmed)
        elif grown < 0:
            self._own.ended()
        before, self._known = self._known, status.learned
        if self._known not in (before, self._sent):
            self._adopt(now)
        elif self._known.endswith(self._mark):
            self._is_unreported = False

    def _adopt(self, now: float) -> None:
        """Adopt what another process has learned."""
        cap, mark = parse_learned_cap(self._known, self._limit), self._known.partition(" ")[2]
        if self._is_unreported:  # both were refused at the same time, and the other was faster
            self._own.cap = min(self._own.cap, cap)
        elif mark not in ("", self._mark):
            self._own.refused(now, cap, now)
        elif cap > self._own.cap:
            self._own.accepted(cap)
        self._mark, self._is_unreported = mark or self._mark, False
