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
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    RedisError,
)

from kling_async._servers import in_time
from kling_async.errors import ConfigurationError, LimiterError
from kling_async.limits import _redis_scripts
from kling_async.limits.engines import Change, Lease, Leased, Pause, Reservation, Usage

if TYPE_CHECKING:
    from redis.commands.core import AsyncScript

    from kling_async.limits.pace import Pace

__all__ = ["RedisEngine", "engine"]

# Seconds after which the network is taken to be dead, connecting included.
_SILENCE = 1.5

# The same for a look: nobody is kept waiting by that.
_LOOK = 10.0

# Reservations and leases hardly ever need more than one connection each.
_CONNECTIONS = 4

# Seconds until a name that nobody uses is forgotten.
_FORGET = 30 * 24 * 3600


class RedisEngine:
    """A :class:`~kling_async.limits.engines.LimitsEngine` in Redis or Valkey."""

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
        self._keys = [f"kling_async:{{{name}}}:{what}" for what in ("pace", "ends", "leases")]
        script = self._redis.register_script
        self._reserve = script(_redis_scripts.RESERVE)
        self._pause = script(_redis_scripts.PAUSE)
        self._lease = script(_redis_scripts.LEASE)
        self._look = script(_redis_scripts.LOOK)

    async def reserve(self, number: int, pace: Pace) -> Reservation:
        """Reserve the next turns."""
        requests = pace.requests_per_minute
        values = (number, pace.interval, pace.burst, pace.settle, requests, _FORGET)
        delay, pause, paused_for, epoch = await self._run(self._reserve, 2, values)
        return Reservation(float(delay), float(pause), float(paused_for), epoch)

    async def pause(self, delay: float, age: float) -> Pause:
        """Give no turn for ``delay`` seconds, unless a pause has begun within ``age``."""
        began, pause = await self._run(self._pause, 1, (delay, age))
        return Pause(began == "1", float(pause))

    async def lease(self, change: Change) -> Leased:
        """Keep, give and free leases, all at once."""
        held = [part for one in change.hold for part in (one.key, one.held_for, one.ends_in)]
        numbers = (len(change.hold), len(change.take), len(change.drop))
        forget = int(max(_FORGET, 2 * change.lifetime))
        taken, epoch = await self._run(
            self._lease,
            3,
            (
                change.pace.settle,
                change.settle,
                change.limit,
                change.lifetime,
                change.holder,
                forget,
                *numbers,
                *held,
                *change.take,
                *change.drop,
            ),
        )
        return Leased(change.take[: int(taken)], epoch)

    async def look(self) -> Usage:
        """Tell what is in use."""
        used, requests, tasks, pause, *rest = await self._run(self._look, 3, (), _LOOK)
        fours = zip(*(rest[i::4] for i in range(4)), strict=True)
        leases = [
            Lease(key, holder, float(held_for), float(ends_in))
            for key, holder, held_for, ends_in in fours
        ]
        leases.sort(key=lambda one: (one.holder, -one.held_for))
        numbers = (round(float(used)), int(float(requests)), int(float(tasks)))
        return Usage(*numbers, float(pause), tuple(leases))

    async def close(self) -> None:
        """Close the connections."""
        with suppress(RedisError, OSError):  # it is gone already
            await self._redis.aclose()
            await self._redis.connection_pool.disconnect()

    async def _run(
        self,
        script: AsyncScript,
        keys: int,
        arguments: Sequence[str | float],
        within: float = _SILENCE,
    ) -> list[str]:
        try:
            async with in_time(within):
                answer = await script(self._keys[:keys], arguments)
        except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
            raise ConfigurationError(f"the engine of the limits refuses us: {error}") from error
        except TimeoutError:
            raise LimiterError(f"no answer within {within:g} s") from None
        except (RedisError, OSError) as error:
            raise LimiterError(f"{type(error).__name__}: {error}") from error
        return [str(one) for one in answer]


def engine(url: str, name: str) -> RedisEngine:
    """Return the engine at an address."""
    return RedisEngine(url, name)
