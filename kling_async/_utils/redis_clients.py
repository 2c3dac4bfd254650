"""Clients of Redis and Valkey, as the shared limits and the relay of callbacks need them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from kling_async.errors import ConfigurationError


def create_client(
    url: str,
    purpose: str,
    *,
    connections: int,
    timeout: float,
    **options: Any,  # noqa: ANN401 - those of redis-py's pool
) -> Redis:
    """Return a client for the server at a URL. Nothing is sent yet.

    A call waits up to ``timeout`` seconds while all connections are in use, and as long for a new
    one. Nothing is repeated: a call that is made twice may take effect twice. The time for an
    answer is not limited: redis-py does so with a function of asyncio that, in Python 3.11,
    sometimes loses a cancellation.

    Raises:
        ConfigurationError: The URL of what ``purpose`` names is invalid.
    """
    scheme, _, rest = url.partition("://")
    try:
        pool = BlockingConnectionPool.from_url(
            f"{'rediss' if scheme in {'rediss', 'valkeys'} else 'redis'}://{rest}",
            max_connections=connections,
            timeout=timeout,
            socket_timeout=None,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            **options,
        )
    except ValueError:  # its message may show a password
        raise ConfigurationError(f"invalid {purpose} URL, {scheme}://…") from None
    return Redis(connection_pool=pool)


async def disconnect(client: Redis, *, unused: bool = False) -> None:
    """Close the connections of a client, or only those that are not in use."""
    with suppress(RedisError, OSError):  # they are closed already
        await client.connection_pool.disconnect(inuse_connections=not unused)
