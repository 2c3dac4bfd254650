"""The learned cap of tasks, which all processes share. Pure: times are arguments.

Each process has a :class:`~kling_async.limits.task_cap.TaskCap` of its own, and counts the tasks
of all processes in it. The backend keeps what the last refusal has shown as a short text: the cap,
and a random mark of that refusal. A process that is refused, or whose cap rises, replaces the text.
When the others see another mark, they lower their caps as if they had been refused.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING
from uuid import uuid4

from kling_async.limits.task_cap import RAMP_START

if TYPE_CHECKING:
    from kling_async.limits.shared.backend import LeaseStatus
    from kling_async.limits.task_cap import TaskCap


def parse_learned_cap(learned: str, limit: int) -> int:
    """Return the cap in the text of the backend."""
    return int(learned.partition(" ")[0] or limit)


class LearnedCap:
    """How many slots to ask for: what this process and the others have learned.

    Attributes:
        own: The cap of this process, in which the tasks of all processes count.
        elsewhere: Tasks that are known to run in other processes.
        acquire_at: It is of no use to ask for slots earlier.
    """

    def __init__(self, cap: TaskCap) -> None:
        self.elsewhere: int = 0
        self.acquire_at: float = -inf
        self.own = cap
        self._held = 0  # by all processes
        self._mark = ""  # of the last refusal, here or elsewhere
        self._is_unreported = False  # the refusal was here, and the backend does not know it yet
        self._known = ""  # the text that the backend has
        self._sent = ""  # the text that was sent last

    @property
    def cap(self) -> int:
        """The learned limit."""
        return self.own.cap

    def accepted(self, running: int) -> None:
        """Note that the service has accepted a task, and how many are known to run here."""
        self.own.accepted(self.elsewhere + running)

    def shift(self, shift: float) -> None:
        """Change to a clock that shows so much more."""
        self.own.shift(shift)
        self.acquire_at += shift

    def try_admit(self, wanted: int, now: float) -> int:
        """Return how many of the slots that are wanted may be asked for now."""
        if now < self.acquire_at:
            return 0
        if wanted and self._held >= self.own.cap:
            self.own.try_admit(self._held, now)  # which raises it in time
        admitted = 0
        # The number held may have changed meanwhile: the backend gives none beyond `most`.
        while admitted < wanted:
            held = min(self._held + admitted, self.own.cap - 1)
            if not self.own.try_admit(held, now):
                break
            admitted += 1
        return admitted

    def most(self, admitted: int, running: int) -> int:
        """Return how many slots all processes may hold after so many more were admitted.

        It includes what others have acquired since the backend answered last.
        """
        proven = 2 * (self.elsewhere + running)
        return min(self.own.cap, max(self._held + admitted, proven, RAMP_START))

    def refused(self, started: float, running: int, now: float) -> None:
        """Note that the service has refused a submit since too many tasks run."""
        self.own.refused(started, self.elsewhere + running, now)
        self._mark, self._is_unreported = uuid4().hex[:8], True

    def unreported(self) -> tuple[str, str] | None:
        """Return the text that the backend is to replace, and the new one; None: no change."""
        has_risen = self.own.cap >= self.own.limit and not self._is_unreported
        self._sent = "" if has_risen else f"{self.own.cap} {self._mark}"
        return None if self._sent == self._known else (self._known, self._sent)

    def report_again(self) -> None:
        """Note that the backend has lost its state."""
        self._known = ""

    def apply(self, status: LeaseStatus, running: int | None, now: float) -> None:
        """Apply what all processes hold, and what others have learned.

        Args:
            status: The answer of the backend.
            running: How many tasks are known to run here; None if that has changed since the
                call, so that the answer does not show how many run elsewhere.
            now: The time.
        """
        self._held = status.held
        if running is not None:
            before, self.elsewhere = self.elsewhere, max(0, status.confirmed - running)
            if self.elsewhere > before:
                self.accepted(running)
            elif self.elsewhere < before:
                self.own.probing = False
        previous, self._known = self._known, status.learned
        if self._known not in (previous, self._sent):
            self._adopt(now)
        elif self._known.endswith(self._mark):
            self._is_unreported = False

    def _adopt(self, now: float) -> None:
        """Adopt what another process has learned."""
        cap, mark = parse_learned_cap(self._known, self.own.limit), self._known.partition(" ")[2]
        if self._is_unreported:  # both were refused at the same time, and the other was faster
            if self.own.cap < cap:
                return  # the next report replaces the other's
            self.own.cap = cap
        elif mark not in ("", self._mark):
            self.own.refused(now, cap, now)
        elif cap > self.own.cap:
            self.own.accepted(cap)
        self._mark, self._is_unreported = mark or self._mark, False
