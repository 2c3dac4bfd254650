"""The limits of an account, and the interface of what keeps them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from attrs import frozen

from kling_async._utils.numbers import is_number
from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kling_async.results import TaskRef


@frozen
class Limits:
    """What the account may do. The defaults are the vendor's figures; smaller plans exist.

    Attributes:
        requests_per_minute: Requests in any 60 seconds, submits and status calls together.
        concurrent_tasks: Remote tasks that may run at the same time.
        presumed_lifetime: Seconds after which a task is presumed to have ended unless the
            service has reported since that it runs.

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
        if not is_number(lifetime) or lifetime <= 0:
            raise ConfigurationError(f"limits need presumed_lifetime > 0, not {lifetime!r}")

    @cached_property
    def connections(self) -> int:
        """Requests that may be in flight together: 1 % of a minute's, from 4 to 100."""
        return min(100, max(4, self.requests_per_minute // 100))


class Permit(Protocol):
    """One request's share of the request limit."""

    @property
    def granted_at(self) -> float:
        """The loop's time at which it was granted."""

    def answered(self) -> None:
        """Note that the request has been answered or has failed: it counts for 60 s from now.

        Call it for every permit, whatever happens to the request: one without an answer counts
        as in flight. Further calls do nothing.
        """


class Slot(Protocol):
    """One task's share of the concurrent limit.

    It is held until it is released or expires, by default ``presumed_lifetime`` after it was
    acquired.
    """

    def confirm(
        self,
        ref: TaskRef,
        lifetime: float | None = None,
        on_expired: Callable[[], None] | None = None,
    ) -> None:
        """Note that the service has just accepted the slot's task, or reported that it runs.

        Args:
            ref: The task.
            lifetime: Seconds from now after which the slot expires, unless it is confirmed again
                or released. None means ``presumed_lifetime``, which is also the maximum.
            on_expired: Called once on the event loop if the slot expires. Several clients may
                share a slot (see `Limiter.adopt`); each of their callbacks is called, also a while
                after one of them has released it. A callback that equals an earlier one is not
                added again.

        Raises:
            ConfigurationError: ``lifetime`` is negative or not a number.
        """

    def expire_in(self, lifetime: float) -> None:
        """Let the slot expire in so many seconds: it is unknown whether a task was started.

        Raises:
            ConfigurationError: ``lifetime`` is negative or not a number.
        """

    def release(self) -> None:
        """Give the slot back. Further calls do nothing."""


class Limiter(Protocol):
    """Makes requests and submits wait until the account's limits allow them.

    All clients with the same key share one limiter.
    """

    @property
    def limits(self) -> Limits:
        """The limits that it keeps."""

    @property
    def effective_tasks(self) -> int:
        """How many tasks may run: ``limits.concurrent_tasks``, or fewer after refusals."""

    async def request(self) -> Permit:
        """Wait until one more request may be sent, and return its permit."""

    def pause(self, delay: float, permit: Permit) -> bool:
        """Let all requests wait for ``delay`` seconds, since the service answered 429.

        Requests that were in flight together may be refused together: the first of these
        refusals begins a pause, and the others can only extend it.

        Args:
            delay: Seconds from now.
            permit: The permit of the refused request.

        Returns:
            Whether this call began or extended a pause.

        Raises:
            ConfigurationError: ``delay`` is negative, infinite or not a number.
        """

    async def slot(self, *, first: bool = False) -> Slot:
        """Wait until one more task may run, and return its slot.

        Args:
            first: Wait at the head of the queue, as a submit does that was refused.
        """

    def adopt(
        self,
        ref: TaskRef,
        lifetime: float | None = None,
        on_expired: Callable[[], None] | None = None,
    ) -> Slot:
        """Return the slot of a task that runs already; one is added even beyond the limit.

        A task never has two slots: if another client or a dead worker holds its slot, that one
        is returned. The arguments are those of `Slot.confirm`. The task may have ended: it counts
        for `effective_tasks` when the slot is confirmed.
        """

    def refused(self, slot: Slot) -> None:
        """Note that the service answered 429 to the submit that holds this slot.

        The slot is released, and `effective_tasks` becomes the number of tasks that are known to
        run. No further slot is given until a task has ended or some seconds have passed.
        """
