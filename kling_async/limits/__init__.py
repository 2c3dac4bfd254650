"""How much at once: the numbers, and what makes you wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from attrs import frozen

from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    from kling_async.results import TaskRef

__all__ = ["Limiter", "Limits", "Slot"]


@frozen
class Limits:
    """What the account may do. The defaults are the vendor's figures; smaller plans exist.

    Attributes:
        requests_per_minute: Requests in any 60 seconds, submits and status calls together.
        concurrent_tasks: Remote tasks that may run at one time.
        presumed_lifetime: Seconds after which a task that nobody asks after any more is
            presumed to have ended, so that its slot is free again.

    Raises:
        ConfigurationError: A number is not positive.
    """

    requests_per_minute: int = 10_000
    concurrent_tasks: int = 1_000
    presumed_lifetime: float = 3600.0

    def __attrs_post_init__(self) -> None:
        for name in ("requests_per_minute", "concurrent_tasks"):
            count: object = getattr(self, name)
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise ConfigurationError(f"limits need {name} >= 1, not {count!r}")
        if not 0 < self.presumed_lifetime < float("inf"):
            raise ConfigurationError(
                f"limits need presumed_lifetime > 0, not {self.presumed_lifetime!r}"
            )

    @property
    def connections(self) -> int:
        """Requests that may be under way at one time: 1 % of a minute's, from 4 to 100."""
        return min(100, max(4, self.requests_per_minute // 100))


class Slot(Protocol):
    """One task's share of the concurrent limit.

    It ends when it is released, or ``presumed_lifetime`` after it was taken or last confirmed.
    """

    def confirm(self, ref: TaskRef) -> None:
        """Note that the service has just said that the slot's task runs, and which task it is."""

    def release(self) -> None:
        """Give the slot back; the second time and later does nothing."""


class Limiter(Protocol):
    """What makes requests and submits wait until the account's limits allow them.

    One limiter serves all clients that use the same key: give it to each of them.
    """

    @property
    def limits(self) -> Limits:
        """The numbers that it keeps."""

    async def request(self) -> float:
        """Wait until one more request may be sent; return the moment, for :meth:`pause`."""

    def pause(self, delay: float, permit: float) -> bool:
        """Let every request wait ``delay`` seconds, since the service answered 429.

        Args:
            delay: Seconds from now.
            permit: What :meth:`request` returned for the refused request. If a pause has
                begun since, the refusal is old news and changes nothing.

        Returns:
            Whether this began a pause.
        """

    async def slot(self) -> Slot:
        """Wait until one more task may run, and hold its slot."""

    def adopt(self, ref: TaskRef) -> Slot:
        """Hold the slot of a task that is found to be running already, even beyond the limit.

        If the task has a slot, as another client's or a dead worker's, it is that one: one task
        never takes two.
        """
