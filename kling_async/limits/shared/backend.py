"""The interface between a shared limiter and the backend that keeps its numbers.

A backend decides and never waits: each method is one round trip. All times are given as seconds
relative to the backend's own clock, so that clocks of different hosts are never compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

from attrs import frozen

from kling_async._utils.backends import load_backend
from kling_async.limits.shared.schedule import RequestSchedule

if TYPE_CHECKING:
    from kling_async.limits.shared.window import Report


@frozen
class Reservation:
    """Grants for requests, in the order in which processes asked for them.

    Attributes:
        delays: Seconds until each grant, ascending, at least `RequestSchedule.interval` apart;
            negative for one left over from the burst. Fewer than requested if too many requests
            are in flight.
        acknowledged: The number of the last report of this process that the backend has. If it
            is not that of the report sent with the call, that report was ignored since its
            predecessor is unknown, and there are no grants.
        pause: Seconds for which a pause still lasts. No grant lies in it.
        paused_for: Seconds since a pause last began; infinite if there was none.
        epoch: Changes whenever the backend has lost some of its state.
        set_back: Seconds by which this call found the backend's clock to be set back.
    """

    delays: tuple[float, ...]
    acknowledged: int
    pause: float
    paused_for: float
    epoch: str
    set_back: float = 0.0


@frozen
class Lease:
    """One slot in use.

    Attributes:
        key: The reference of its task, or a random id until that is known.
        holder: The process that holds it: host, process id and an id of the limiter.
        held_for: Seconds since it was acquired.
        ends_in: Seconds until it expires unless it is renewed.
    """

    key: str
    holder: str
    held_for: float
    ends_in: float


@frozen
class LeaseUpdate:
    """Changes of the leases of one process, applied in this order.

    Attributes:
        renew: Leases to keep, even beyond the limit. One of the same key is taken over, unless
            another process holds it for longer.
        acquire: Ids of new leases, granted while fewer than ``cap`` are held.
        release: Keys of leases to free. They are freed last, so that the process has no better
            chance of getting them than others.
        limit: The limit of leases.
        cap: How many there may be when new ones are granted: ``limit``, or fewer after refusals
            and at the start.
        lifetime: Seconds until a new lease expires.
        holder: This process.
        settle: Seconds for which a backend that has lost its state grants no lease, so
            that processes can first report what they hold.
        schedule: The schedule of the requests.
        learned: The text about the learned cap to be replaced, and the new one. None: no change.
            Only limiters read it.
    """

    renew: tuple[Lease, ...]
    acquire: tuple[str, ...]
    release: tuple[str, ...]
    limit: int
    cap: int
    lifetime: float
    holder: str
    settle: float
    schedule: RequestSchedule
    learned: tuple[str, str] | None = None


@frozen
class LeaseStatus:
    """The result of a `LeaseUpdate`.

    Attributes:
        acquired: The ids that were granted: the first ones of those requested.
        epoch: Changes whenever the backend has lost some of its state.
        learned: The text about the learned cap; empty after no refusal.
        held: How many leases all processes hold.
        confirmed: How many of them have a known task.
        set_back: Seconds by which this call found the backend's clock to be set back.
    """

    acquired: tuple[str, ...]
    epoch: str
    learned: str
    held: int
    confirmed: int
    set_back: float = 0.0


@frozen
class Usage:
    """How much of shared limits is in use.

    Attributes:
        requests: Requests that count against the limit: those of the last minute and those in
            flight.
        requests_per_minute: Their limit; 0 if it was never used.
        concurrent_tasks: The limit of slots; 0 if it was never used.
        effective_tasks: How many slots may be held now: fewer after refusals.
        pause: Seconds for which a pause still lasts.
        leases: The slots in use, by holder.
    """

    requests: int
    requests_per_minute: int
    concurrent_tasks: int
    effective_tasks: int
    pause: float
    leases: tuple[Lease, ...]


class LimitsBackend(Protocol):
    """Keeps the numbers of one name for all processes. An instance belongs to one event loop.

    Every method raises ``LimiterError`` while the backend cannot be reached, and
    ``ConfigurationError`` if repeating the call cannot help.
    """

    async def reserve(self, number: int, report: Report, schedule: RequestSchedule) -> Reservation:
        """Apply a report, and reserve up to ``number`` of the next grants."""

    async def pause(self, delay: float, age: float) -> float:
        """Grant no request for ``delay`` seconds, since one was refused.

        Return the seconds for which the pause lasts.

        Args:
            delay: Seconds from now.
            age: Seconds since the refused request was granted. If a pause has begun since then,
                it is extended if necessary, but no new one begins.
        """

    async def update_leases(self, update: LeaseUpdate) -> LeaseStatus:
        """Renew, acquire and release leases in one step."""

    async def peek(self) -> Usage:
        """Return what is in use, and change nothing."""

    async def close(self) -> None:
        """Close the connections."""


def create_backend(url: str, name: str) -> LimitsBackend:
    """Return the backend for a URL. Nothing is sent yet.

    Raises:
        ConfigurationError: The scheme is unknown, or the URL is invalid.
        MissingExtraError: The package for this backend is not installed.
    """
    module = load_backend(url, "kling_async.limits.shared.{}", "what keeps shared limits")
    return cast("Callable[[str, str], LimitsBackend]", module.create_backend)(url, name)
