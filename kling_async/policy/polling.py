"""When to ask after a task: a pure schedule.

The vendor says how long each kind of video takes. Asking starts when the quickest are done,
and from then on the wait is a share of the task's age: a task is found at most 5 % of its
duration late, however slow the service is today.
"""

from __future__ import annotations

from attrs import field, frozen

from kling_async.errors import ConfigurationError

__all__ = ["Polling"]

# Seconds that a video takes at the least, by (model, mode, duration); None stands for any. The
# figures are the vendor's: "a 5 s video takes about 60-90 s, a 10 s video about 90-120 s".
_QUICKEST: dict[tuple[str, str | None, int | None], float] = {
    ("kling-2-1", None, 5): 60.0,
    ("kling-2-1", None, 10): 90.0,
}

# A vigesimal share: at 75 s of age, ask every 3.75 s.
_SHARE_OF_AGE = 0.05


@frozen
class Polling:
    """How often a waiting task is asked after.

    Attributes:
        first: Seconds from the submit to the first poll. None takes the vendor's figure for
            the model, mode and duration: 60 for 5 s videos, 90 for 10 s videos.
        shortest: The least wait between two polls, in seconds.
        longest: The longest wait between two polls, in seconds.

    Raises:
        ConfigurationError: A number is negative or not finite, or ``longest`` is less than
            ``shortest``.
    """

    first: float | None = None
    shortest: float = field(default=1.0)
    longest: float = field(default=15.0)

    def __attrs_post_init__(self) -> None:
        if not (0 < self.shortest <= self.longest < float("inf")):
            raise ConfigurationError(
                "polling needs 0 < shortest <= longest,"
                f" not shortest={self.shortest!r}, longest={self.longest!r}"
            )
        if self.first is not None and not 0 <= self.first < float("inf"):
            raise ConfigurationError(f"polling needs first >= 0, not {self.first!r}")

    def first_wait(self, model: str, mode: str, duration: int | None) -> float:
        """Return the seconds from the submit to the first poll."""
        if self.first is not None:
            return self.first
        by_mode = _QUICKEST.get((model, mode, duration))
        known = by_mode if by_mode is not None else _QUICKEST.get((model, None, duration))
        return self.longest if known is None else known

    def next_wait(self, age: float) -> float:
        """Return the seconds until the next poll of a task that is ``age`` seconds old."""
        return min(self.longest, max(self.shortest, age * _SHARE_OF_AGE))
