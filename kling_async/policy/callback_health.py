"""Whether callbacks arrive, judged by those that were received and those that were missed.

A single lost callback concerns one task. If the callback URL does not work any more (a deploy, an
expired tunnel, a changed address), several tasks end without a callback, and none arrives since.
"""

from __future__ import annotations

from attrs import evolve, frozen

# With one callback in five lost, so many are missed in a row by chance once in 125 times. That
# costs a few polls until the next callback arrives.
_MOST_MISSED = 3


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
