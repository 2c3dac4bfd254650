"""Whether callbacks come: what of their way is known from those that came and did not.

A lost callback is one task's affair. That the way is cut (a deploy, an expired tunnel, a changed
address) shows when several ends are found by asking, and since the first of them not one
callback has come.
"""

from __future__ import annotations

from attrs import evolve, frozen

# So many ends without a callback, and none at all since: with one lost in five, this happens by
# chance once in 125 times, and costs a few polls until the next callback comes.
_ENOUGH = 3


@frozen
class Arrivals:
    """What is known of the callbacks of one client. Moments are in seconds, of any one clock.

    Attributes:
        last: When the latest came.
        missed: How many tasks have ended since then without one, one after another.
    """

    last: float = float("-inf")
    missed: int = 0

    @property
    def stopped(self) -> bool:
        """Whether to ask as if there were no callbacks."""
        return self.missed >= _ENOUGH

    def came(self, now: float) -> Arrivals:
        """Return what is known once a callback has come, whichever it is."""
        return Arrivals(now)

    def without(self, ended_at: float) -> Arrivals:
        """Return what is known once a task's end was found by asking, without its callback."""
        # Of many that ended together all are found together, after the callbacks of the others.
        return evolve(self, missed=self.missed + 1) if ended_at > self.last else self
