"""Shared limits in Redis 6.2 or later, or in Valkey.

Three short scripts, each of them atomic. Time is the server's. The keys of one name hold it in
braces, so that a cluster keeps them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterCrossSlotError,
    ClusterDownError,
    NoPermissionError,
    RedisError,
)

from kling_async._utils.backends import answer_timeout
from kling_async.errors import ConfigurationError, LimiterError
from kling_async.limits.shared import _redis_scripts
from kling_async.limits.shared._learned_cap import parse_learned_cap
from kling_async.limits.shared.backend import (
    Lease,
    LeaseStatus,
    LeaseUpdate,
    PauseStatus,
    Reservation,
    Usage,
)

if TYPE_CHECKING:
    from redis.commands.core import AsyncScript

    from kling_async.limits.shared.schedule import RequestSchedule
    from kling_async.limits.shared.window import Report

# Seconds after which the network is taken to be dead, connecting included.
_SILENCE = 1.5

# The same for a look: nobody is kept waiting by that.
_LOOK = 10.0

# Reservations and leases hardly ever need more than one connection each.
_CONNECTIONS = 4

# Seconds until a name that is not used is forgotten.
_FORGET = 30 * 24 * 3600


class RedisLimitsBackend:
    """A :class:`~kling_async.limits.shared.backend.LimitsBackend` in Redis or Valkey."""

    def __init__(self, url: str, name: str) -> None:
        scheme, _, rest = url.partition("://")
        tls = scheme in {"rediss", "valkeys"}
        try:
            # A pool that waits: the other kind raises when all connections are busy. Nothing is
            # repeated by itself: a reservation made twice would be half lost. For its own timeout
            # redis-py uses a function of asyncio that, in Python 3.11, now and then loses a
            # cancellation: ours is below.
            pool = BlockingConnectionPool.from_url(
                f"{'rediss' if tls else 'redis'}://{rest}",
                max_connections=_CONNECTIONS,
                timeout=_LOOK,
                socket_timeout=None,
                socket_connect_timeout=_LOOK,
                retry=Retry(NoBackoff(), 0),
                decode_responses=True,
            )
        except ValueError:  # its words may show a password
            raise ConfigurationError(f"the address of the limits at {scheme}:// is none") from None
        self._redis = Redis(connection_pool=pool)
        self._keys = [
            f"kling_async:{{{name}}}:{what}" for what in ("pace", "ends", "window", "leases")
        ]
        script = self._redis.register_script
        self._reserve = script(_redis_scripts.RESERVE)
        self._pause = script(_redis_scripts.PAUSE)
        self._lease = script(_redis_scripts.LEASE_SCRIPT)
        self._look = script(_redis_scripts.LOOK)

    async def reserve(self, number: int, report: Report, schedule: RequestSchedule) -> Reservation:
        """Take in a report, and reserve the next turns."""
        requests = schedule.requests_per_minute
        values = (
            *(
                number,
                schedule.interval,
                schedule.burst,
                schedule.recovery_delay,
                requests,
                _FORGET,
            ),
            *(report.holder, report.sequence, report.since, report.in_flight),
            *(part for group in report.answered for part in group),
        )
        answer = await self._run(self._reserve, 3, values)
        acknowledged, pause, paused_for, epoch, set_back, *delays = answer
        return Reservation(
            delays=tuple(map(float, delays)),
            acknowledged=int(acknowledged),
            pause=float(pause),
            paused_for=float(paused_for),
            epoch=epoch,
            set_back=float(set_back),
        )

    async def pause(self, delay: float, age: float) -> PauseStatus:
        """Give no turn for ``delay`` seconds."""
        began, pause = await self._run(self._pause, 1, (delay, age))
        return PauseStatus(began == "1", float(pause))

    async def update_leases(self, update: LeaseUpdate) -> LeaseStatus:
        """Keep, give and free leases, all at once."""
        values = (
            *(
                update.schedule.recovery_delay,
                update.recovery_delay,
                update.limit,
                update.cap,
                update.lifetime,
            ),
            *(update.holder, int(max(_FORGET, 2 * update.lifetime)), *(update.learned or ("", ""))),
            *(len(update.renew), len(update.acquire), len(update.release)),
            *(part for one in update.renew for part in (one.key, one.held_for, one.ends_in)),
            *update.acquire,
            *update.release,
        )
        answer = await self._run(self._lease, 4, values)
        taken, epoch, learned, held, confirmed, set_back = answer
        return LeaseStatus(
            acquired=update.acquire[: int(taken)],
            epoch=epoch,
            learned=learned,
            held=int(held),
            confirmed=int(confirmed),
            set_back=float(set_back),
        )

    async def peek(self) -> Usage:
        """Return what is in use."""
        used, requests, tasks, learned, pause, *rest = await self._run(self._look, 4, (), _LOOK)
        fours = zip(*(rest[i::4] for i in range(4)), strict=True)
        leases = [
            Lease(key, holder, float(held_for), float(ends_in))
            for key, holder, held_for, ends_in in fours
        ]
        leases.sort(key=lambda one: (one.holder, -one.held_for))
        return Usage(
            requests=int(used),
            requests_per_minute=int(float(requests)),
            concurrent_tasks=int(float(tasks)),
            effective_tasks=parse_learned_cap(learned, int(float(tasks))),
            pause=float(pause),
            leases=tuple(leases),
        )

    async def close(self) -> None:
        """Close the connections."""
        with suppress(RedisError, OSError):  # it is gone already
            await self._redis.aclose()
            await self._redis.connection_pool.disconnect()

    async def _disconnect(self) -> None:
        """Close the connections that are not in use."""
        with suppress(RedisError, OSError):
            await self._redis.connection_pool.disconnect(inuse_connections=False)

    async def _run(
        self,
        script: AsyncScript,
        keys: int,
        arguments: Sequence[str | float],
        within: float = _SILENCE,
    ) -> list[str]:
        try:
            async with answer_timeout(within):
                answer = await script(self._keys[:keys], arguments)
        except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
            raise ConfigurationError(f"the engine of the limits refuses us: {error}") from error
        except TimeoutError:
            raise LimiterError(f"no answer within {within:g} s") from None
        except (RedisError, OSError) as error:
            if _is_cluster(error):
                raise ConfigurationError(
                    f"the engine of the limits is a node of a Redis cluster, and the keys are on"
                    f" another one ({error}): give the URL of a server that is not in cluster mode"
                ) from error
            # After a failover the other connections, too, may lead to a server that does not write
            # any more (READONLY, MASTERDOWN): new ones lead to its successor.
            await self._disconnect()
            raise LimiterError(f"{type(error).__name__}: {error}") from error
        return [str(one) for one in answer]


def _is_cluster(error: Exception) -> bool:
    """Return whether a node of a cluster says that it has other keys: waiting changes nothing."""
    unserved = isinstance(error, ClusterDownError) and "not served" in str(error)
    return unserved or isinstance(error, AskError | ClusterCrossSlotError)  # or MovedError


def create_backend(url: str, name: str) -> RedisLimitsBackend:
    """Return the engine at an address."""
    return RedisLimitsBackend(url, name)
