"""How much at once: the numbers, and what makes you wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from attrs import frozen

from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kling_async.results import TaskRef


@frozen
class Limits:
    """What the account may do. The defaults are the vendor's figures; smaller plans exist.

    Attributes:
        requests_per_minute: Requests in any 60 seconds, submits and status calls together.
        concurrent_tasks: Remote tasks that may run at one time.
        presumed_lifetime: Seconds after which a task is presumed to have ended, at the latest, if
            the service has not been seen to say that it runs.

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
        lifetime: object = self.presumed_lifetime
        if not isinstance(lifetime, int | float) or not 0 < lifetime < float("inf"):
            raise ConfigurationError(
                f"limits need presumed_lifetime > 0, not {self.presumed_lifetime!r}"
            )

    @property
    def connections(self) -> int:
        """Requests that may be under way at one time: 1 % of a minute's, from 4 to 100."""
        return min(100, max(4, self.requests_per_minute // 100))


class Permit(Protocol):
    """One request's share of the request limit."""

    @property
    def granted_at(self) -> float:
        """The loop's time at which it was granted."""

    def answered(self) -> None:
        """Note that the request has been answered, or has failed: it counts for 60 s from now.

        To be called for every permit, whatever becomes of its request: one that is never
        answered counts as under way. The second call and later do nothing.
        """


class Slot(Protocol):
    """One task's share of the concurrent limit.

    It is held until it is released or expires, ``presumed_lifetime`` after it was given if
    nothing else is said.
    """

    def confirm(
        self,
        ref: TaskRef,
        lifetime: float | None = None,
        on_expired: Callable[[], None] | None = None,
    ) -> None:
        """Note that the service has just accepted the slot's task, or said that it runs.

        Args:
            ref: The task.
            lifetime: Seconds from now after which the slot expires, unless it is confirmed again
                or released. None, and at most: ``presumed_lifetime``.
            on_expired: Called once if the slot expires, on the event loop. A slot may be shared
                by several clients (see `Limiter.adopt`): each callback is called. One that
                equals an earlier one is not added again.

        Raises:
            ConfigurationError: ``lifetime`` is negative or not a number.
        """

    def expire_in(self, lifetime: float) -> None:
        """Let the slot expire in so many seconds: it is not known whether a task was started.

        Raises:
            ConfigurationError: ``lifetime`` is negative or not a number.
        """

    def release(self) -> None:
        """Give the slot back; the second call and later do nothing."""


class Limiter(Protocol):
    """Makes requests and submits wait until the account's limits allow them.

    One limiter serves all clients that use the same key: give it to each of them.
    """

    @property
    def limits(self) -> Limits:
        """The numbers that it keeps."""

    @property
    def effective_tasks(self) -> int:
        """How many tasks may run: ``limits.concurrent_tasks``, or fewer if refusals show so."""

    async def request(self) -> Permit:
        """Wait until one more request may be sent, and return its permit."""

    def pause(self, delay: float, permit: Permit) -> bool:
        """Let every request wait ``delay`` seconds, since the service answered 429.

        Several requests that were under way together may be refused together: the first of
        these refusals begins a pause, a later one can only make it longer.

        Args:
            delay: Seconds from now.
            permit: The refused request's.

        Returns:
            Whether this began a pause or made one longer.

        Raises:
            ConfigurationError: ``delay`` is negative, infinite or not a number.
        """

    async def slot(self, *, first: bool = False) -> Slot:
        """Wait until one more task may run, and hold its slot.

        Args:
            first: Before those that wait already; for a submit that was refused and waits again.
        """

    def adopt(
        self,
        ref: TaskRef,
        lifetime: float | None = None,
        on_expired: Callable[[], None] | None = None,
    ) -> Slot:
        """Hold the slot of a task that is found to be running already, even beyond the limit.

        If the task has a slot, as another client's or a dead worker's, it is that one: one task
        never holds two. The arguments are those of `Slot.confirm`.
        """

    def refused(self, slot: Slot) -> None:
        """Note that the service answered 429 to the submit that holds this slot.

        The slot is released and `effective_tasks` becomes the number of tasks that are known to
        run. `slot` gives no further one until a task has ended or some seconds have passed.
        """
