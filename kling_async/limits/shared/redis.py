"""Shared limits in Redis 6.2 or later, or in Valkey.

Each call is one short, atomic script. Time is the server's. The keys of one name have it in
braces, so that they are in one slot of a cluster.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from attrs import asdict
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
from kling_async._utils.redis_clients import create_client, disconnect
from kling_async.errors import ConfigurationError, LimiterError
from kling_async.limits.shared import _redis_scripts
from kling_async.limits.shared._learned_cap import parse_learned_cap
from kling_async.limits.shared.backend import (
    Lease,
    LeaseStatus,
    LeaseUpdate,
    Reservation,
    Usage,
)

if TYPE_CHECKING:
    from redis.commands.core import AsyncScript

    from kling_async.limits.shared.schedule import RequestSchedule
    from kling_async.limits.shared.window import Report

# Seconds without an answer after which a call fails, connecting included.
_CALL_TIMEOUT = 1.5

# The same for `peek`, which holds up no request.
_PEEK_TIMEOUT = 10.0

# Reservations and leases hardly ever need more than one connection each.
_CONNECTIONS = 4

# Seconds until a name that is not used is forgotten.
_FORGET_AFTER = 30 * 24 * 3600


class RedisLimitsBackend:
    """A :class:`~kling_async.limits.shared.backend.LimitsBackend` in Redis or Valkey."""

    def __init__(self, url: str, name: str) -> None:
        self._redis = create_client(
            url,
            "limiter",
            connections=_CONNECTIONS,
            timeout=_PEEK_TIMEOUT,
            decode_responses=True,
        )
        self._keys = [
            f"kling_async:{{{name}}}:{what}" for what in ("pace", "ends", "window", "leases")
        ]
        register = self._redis.register_script
        self._reserve = register(_redis_scripts.RESERVE)
        self._pause = register(_redis_scripts.PAUSE)
        self._update_leases = register(_redis_scripts.UPDATE_LEASES)
        self._peek = register(_redis_scripts.PEEK)

    async def reserve(self, number: int, report: Report, schedule: RequestSchedule) -> Reservation:
        """Apply a report, and reserve up to ``number`` of the next grants."""
        answer = await self._call(
            self._reserve,
            number=number,
            report=asdict(report),
            schedule=asdict(schedule),
            forget_after=_FORGET_AFTER,
        )
        return Reservation(**{**answer, "delays": tuple(answer["delays"])})

    async def pause(self, delay: float, age: float) -> float:
        """Grant no request for ``delay`` seconds; return for how long the pause lasts."""
        remaining: float = (await self._call(self._pause, delay=delay, age=age))["remaining"]
        return remaining

    async def update_leases(self, update: LeaseUpdate) -> LeaseStatus:
        """Renew, acquire and release leases in one step."""
        forget_after = int(max(_FORGET_AFTER, 2 * update.lifetime))
        answer = await self._call(self._update_leases, **asdict(update), forget_after=forget_after)
        return LeaseStatus(**{**answer, "acquired": tuple(answer["acquired"])})

    async def peek(self) -> Usage:
        """Return what is in use, and change nothing."""
        answer = await self._call(self._peek, timeout=_PEEK_TIMEOUT)
        leases = [Lease(*lease) for lease in answer.pop("leases")]
        leases.sort(key=lambda lease: (lease.holder, -lease.held_for))
        cap = parse_learned_cap(answer.pop("learned"), answer["concurrent_tasks"])
        return Usage(**answer, effective_tasks=cap, leases=tuple(leases))

    async def close(self) -> None:
        """Close the connections."""
        await disconnect(self._redis)

    async def _call(
        self,
        script: AsyncScript,
        timeout: float = _CALL_TIMEOUT,
        **arguments: Any,  # noqa: ANN401 - as the script needs
    ) -> dict[str, Any]:
        try:
            async with answer_timeout(timeout):
                answer: str = await script(self._keys, [json.dumps(arguments)])
        except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
            raise ConfigurationError(f"the limiter's server refuses access: {error}") from error
        except TimeoutError:
            raise LimiterError(f"no answer within {timeout:g} s") from None
        except (RedisError, OSError) as error:
            if _is_cluster(error):
                raise ConfigurationError(
                    "the limiter's server is a node of a Redis cluster, and the keys are on another"
                    f" one ({error}): use the URL of a server that is not in cluster mode"
                ) from error
            # After a failover other connections, too, may lead to a server that does not write any
            # more (READONLY, MASTERDOWN): new ones lead to its successor.
            await disconnect(self._redis, unused=True)
            raise LimiterError(f"{type(error).__name__}: {error}") from error
        result: dict[str, Any] = json.loads(answer)
        return result


def _is_cluster(error: Exception) -> bool:
    """Return whether a node of a cluster answers that it has other keys: waiting cannot help."""
    unserved = isinstance(error, ClusterDownError) and "not served" in str(error)
    return unserved or isinstance(error, AskError | ClusterCrossSlotError)  # or MovedError


def create_backend(url: str, name: str) -> RedisLimitsBackend:
    """Return the backend for a URL."""
    return RedisLimitsBackend(url, name)
