"""What a shared limiter asks of the engine that keeps its numbers, and which engines there are.

An engine decides; it does not wait. Each method is one round trip. All moments are told as
seconds from the engine's own now, so that no two clocks are ever compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

from attrs import frozen

from kling_async._utils.backends import speaker
from kling_async.limits.shared.schedule import Pace

if TYPE_CHECKING:
    from kling_async.limits.shared.window import Report


@frozen
class Reservation:
    """Turns, at least one ``Pace.interval`` apart, in the order in which processes asked.

    Attributes:
        delays: Seconds until each turn, in ascending order; negative if it was left over. They are
            fewer than were asked for if too many requests are under way.
        known: The last report of this process that the engine has. If it is not the one that came
            with the call, that one followed an unknown one, and there are no turns.
        pause: Seconds that a pause still lasts. No turn lies in it.
        paused_for: Seconds since a pause last began; infinite if none has.
        epoch: Another one if the engine has lost something that it knew.
        set_back: Seconds by which this call has found the engine's clock to be set back.
    """

    delays: tuple[float, ...]
    known: int
    pause: float
    paused_for: float
    epoch: str
    set_back: float = 0.0


@frozen
class Pause:
    """The pause after a refusal.

    Attributes:
        began: Whether it began with this one, or was extended.
        pause: Seconds that it lasts.
    """

    began: bool
    pause: float


@frozen
class Hold:
    """A lease that a process has, with or without the engine's consent.

    Attributes:
        key: Its id, or its task's reference once that is known.
        held_for: Seconds since it was taken.
        ends_in: Seconds until it ends. If another process has the lease for longer, it stays that
            one's.
    """

    key: str
    held_for: float
    ends_in: float


@frozen
class Change:
    """What a process has to say about its leases, in this order.

    Attributes:
        hold: Leases to keep from now on, even beyond the limit. One of the same key is taken over.
        take: Ids of new leases, to be given while fewer than ``cap`` are held.
        drop: Keys of leases that are free. They come last, so that a process has no better
            chance of what it gives back than the others have.
        limit: How many leases there may be at the most.
        cap: How many there may be for new ones to be given: ``limit``, or fewer after refusals and
            at the beginning.
        lifetime: Seconds until the end of a new one.
        holder: Which process this is.
        settle: Seconds in which an engine that has forgotten everything gives no lease: the
            processes first report what they hold.
        pace: Of the requests.
        learned: What is known of the cap, as a text that only limiters read: the one that is to
            be replaced, and its successor. None leaves it as it is.
    """

    hold: tuple[Hold, ...]
    take: tuple[str, ...]
    drop: tuple[str, ...]
    limit: int
    cap: int
    lifetime: float
    holder: str
    settle: float
    pace: Pace
    learned: tuple[str, str] | None = None


@frozen
class Leased:
    """What came of a change.

    Attributes:
        taken: Those of the ids that were given: so many of the first.
        epoch: Another one if the engine has lost something that it knew.
        learned: What is known of the cap; empty if nothing is.
        held: How many leases there are.
        confirmed: Those of them whose task is known.
        set_back: Seconds by which this call has found the engine's clock to be set back.
    """

    taken: tuple[str, ...]
    epoch: str
    learned: str
    held: int
    confirmed: int
    set_back: float = 0.0


@frozen
class Lease:
    """One slot in use.

    Attributes:
        key: The reference of its task, or an id as long as that is not known.
        holder: Which process took it: host, number, and an id of the limiter.
        held_for: Seconds since it was taken.
        ends_in: Seconds until it is free, if nobody renews it.
    """

    key: str
    holder: str
    held_for: float
    ends_in: float


@frozen
class Usage:
    """What is in use of shared limits.

    Attributes:
        requests: Requests that count against the limit: those of the last minute, and those that
            are under way.
        requests_per_minute: Their limit; 0 if it was never used.
        concurrent_tasks: The limit of leases; 0 if it was never used.
        effective_tasks: How many of them may be held now: fewer after refusals.
        pause: Seconds that a pause still lasts.
        leases: The slots in use, by holder.
    """

    requests: int
    requests_per_minute: int
    concurrent_tasks: int
    effective_tasks: int
    pause: float
    leases: tuple[Lease, ...]


class LimitsEngine(Protocol):
    """What keeps the numbers of one name, for all processes. Belongs to one event loop.

    Every method raises ``LimiterError`` while the engine cannot be reached, and
    ``ConfigurationError`` if it never will be like this.
    """

    async def reserve(self, number: int, report: Report, pace: Pace) -> Reservation:
        """Take in a report, and reserve so many of the next turns, which may be none."""

    async def pause(self, delay: float, age: float) -> Pause:
        """Give no turn for ``delay`` seconds, since a request was refused.

        Args:
            delay: Seconds from now.
            age: Seconds since the refused request was admitted. If a pause has begun since, the
                refusal begins no other one, but may extend that.
        """

    async def lease(self, change: Change) -> Leased:
        """Keep, give and free leases, all at once."""

    async def look(self) -> Usage:
        """Return what is in use, and change nothing."""

    async def close(self) -> None:
        """Close the connections."""


def is_task(key: str) -> bool:
    """Return whether the key of a lease is the reference of its task, not an id of ours."""
    return "/" in key


def connect(url: str, name: str) -> LimitsEngine:
    """Return the engine at an address. Nothing is sent yet.

    Raises:
        ConfigurationError: The address is of no kind that is known, or makes no sense.
        MissingExtraError: The package that speaks to it is not installed.
    """
    module = speaker(url, "kling_async.limits.shared.{}", "what keeps shared limits")
    return cast("Callable[[str, str], LimitsEngine]", module.engine)(url, name)
