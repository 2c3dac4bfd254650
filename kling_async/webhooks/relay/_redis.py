"""Callbacks relayed by Redis 5 or later, or by Valkey: one stream for each name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TypeAlias, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AskError, RedisError

from kling_async.errors import ConfigurationError
from kling_async.webhooks.relay._engines import LOOK_BACK, READ_AT_ONCE, WAIT, EngineError

_Streams: TypeAlias = "Sequence[tuple[bytes, Sequence[tuple[bytes, Mapping[bytes, bytes]]]]]"

# Seconds after which the network is taken to be dead.
_SILENCE = 2.0

# A key that does not exist. To change it is a write that does nothing, and needs no other right.
_PROBE = "{kling_async:callbacks}:"

# Lines of one stream: a minute's callbacks at the highest limits that an account has. Redis may
# keep a few more.
_KEPT = 10_000

# Seconds until a stream that nobody writes to any more is forgotten.
_FORGET = 3_600


class RedisEngine:
    """An :class:`~kling_async.webhooks.relay._engines.Engine` in Redis or Valkey."""

    def __init__(self, url: str, names: Sequence[str]) -> None:
        scheme, _, rest = url.partition("://")
        tls = scheme in {"rediss", "valkeys"}
        try:
            # One connection reads, one writes. Nothing is repeated by itself, nor given up: the
            # relay does that. For its own timeout redis-py uses a function of asyncio that, in
            # Python 3.11, now and then loses a cancellation.
            pool = BlockingConnectionPool.from_url(
                f"{'rediss' if tls else 'redis'}://{rest}",
                max_connections=2,
                timeout=_SILENCE,
                socket_timeout=None,
                socket_connect_timeout=_SILENCE,
                retry=Retry(NoBackoff(), 0),
                protocol=2,
            )
        except ValueError:  # its words may show a password
            raise ConfigurationError(f"invalid {scheme}:// URL of a relay's engine") from None
        self._redis = Redis(connection_pool=pool)
        # In braces is what a cluster looks at: it keeps all of them together.
        self._keys = [f"{{kling_async:callbacks}}:{name}" for name in names]
        self._seen: dict[str, str] = {}  # the last id of each stream
        self._placed = False
        self._silent = False  # the last read has returned nothing
        self._reconnect = False  # before the next read

    async def publish(self, lines: Sequence[str]) -> None:
        """Keep lines, and wake those who wait for them."""
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for key in self._keys:
                    for line in lines:
                        pipe.xadd(key, {"line": line}, maxlen=_KEPT, approximate=True)
                    pipe.expire(key, _FORGET)
                await pipe.execute()
        except (RedisError, OSError) as error:
            # The connection may lead to a server that was replaced by another (READONLY), or that
            # has lost its master (MASTERDOWN): a new one may lead to the right server.
            self._reconnect = True
            await self._disconnect()
            raise _engine_error(error) from error

    async def read(self) -> list[str]:
        """Return new lines, or none after a while."""
        try:
            if self._reconnect:
                self._reconnect = False
                await self._disconnect()
            if not self._placed:
                await self._place()
            if self._silent:  # a server that was replaced lets us read, and has nothing new
                await self._redis.expire(_PROBE, _FORGET)
            answer = await self._redis.execute_command(  # type: ignore[no-untyped-call]
                *("XREAD", "COUNT", READ_AT_ONCE, "BLOCK", int(WAIT * 1000)),
                *("STREAMS", *self._seen, *self._seen.values()),
            )
        except (RedisError, OSError) as error:
            self._placed, self._reconnect = False, True
            raise _engine_error(error) from error
        self._silent = not answer
        lines = []
        for key, entries in cast("_Streams", answer):
            for number, fields in entries:
                self._seen[key.decode()] = number.decode()
                lines.append(fields.get(b"line", b"").decode(errors="replace"))
        return lines

    async def close(self) -> None:
        """Close the connections."""
        with suppress(RedisError, OSError):  # who does not answer is left all the same
            await self._redis.aclose()
        with suppress(RedisError, OSError):
            await self._redis.connection_pool.disconnect()

    async def _disconnect(self) -> None:
        """Close the connections that are not in use."""
        with suppress(RedisError, OSError):
            await self._redis.connection_pool.disconnect(inuse_connections=False)

    async def _place(self) -> None:
        """Begin where reading ended, or a while ago, whichever was earlier."""
        seconds, _ = await self._redis.time()
        begin = f"{int((seconds - LOOK_BACK) * 1000)}-0"
        for key in self._keys:
            self._seen[key] = min(begin, self._seen.get(key, begin), key=_number)
        self._placed = True


def _engine_error(error: Exception) -> EngineError | ConfigurationError:
    """Return our error for one of the driver's."""
    if isinstance(error, AskError):  # or MovedError
        return ConfigurationError(
            f"the relay's engine is a node of a Redis cluster that keeps other keys ({error}): give"
            " the URL of a server that is not in cluster mode"
        )
    return EngineError(f"{type(error).__name__}: {error}")


def _number(seen: str) -> tuple[int, int]:
    first, _, second = seen.partition("-")
    return int(first), int(second)


def engine(url: str, names: Sequence[str]) -> RedisEngine:
    """Return the engine at an address."""
    return RedisEngine(url, names)
