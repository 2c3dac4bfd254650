"""Callbacks relayed by Redis 5 or later, or by Valkey: one stream for each name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

from redis.exceptions import AskError, RedisError

from kling_async._utils.redis_clients import create_client, disconnect
from kling_async.errors import ConfigurationError
from kling_async.webhooks.relay.backends import BACKLOG, READ_LIMIT, READ_WAIT, RelayBackendError

_Streams: TypeAlias = "Sequence[tuple[bytes, Sequence[tuple[bytes, Mapping[bytes, bytes]]]]]"

# Seconds to connect, or to wait for a free connection.
_TIMEOUT = 2.0

# The part in braces keeps all keys in one slot of a cluster.
_PREFIX = "{kling_async:callbacks}:"

# Lines of one stream, of which Redis may keep a few more: a minute's callbacks at the highest
# limits of any account.
_MAX_LINES = 10_000

# Seconds after the last callback until a stream is deleted.
_EXPIRY = 3_600


class RedisRelay:
    """A :class:`~kling_async.webhooks.relay.backends.RelayBackend` in Redis or Valkey."""

    def __init__(self, url: str, names: Sequence[str]) -> None:
        # One connection reads, one writes.
        self._redis = create_client(url, "relay", connections=2, timeout=_TIMEOUT, protocol=2)
        self._keys = [f"{_PREFIX}{name}" for name in names]
        self._last_ids: dict[str, str] = {}  # the last id read from each stream
        self._positioned = False
        self._idle = False  # the last read has returned nothing
        self._reconnect = False  # before the next read

    async def publish(self, lines: Sequence[str]) -> None:
        """Store lines, and wake the readers that wait for them."""
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for key in self._keys:
                    for line in lines:
                        pipe.xadd(key, {"line": line}, maxlen=_MAX_LINES, approximate=True)
                    pipe.expire(key, _EXPIRY)
                await pipe.execute()
        except (RedisError, OSError) as error:
            # After a failover this connection may still lead to the old server (READONLY), or to
            # one without its master (MASTERDOWN). A new connection may lead to the right one.
            self._reconnect = True
            await disconnect(self._redis, unused=True)
            raise _translate(error) from error

    async def read(self) -> list[str]:
        """Return new lines, or an empty list if none arrive in time."""
        try:
            if self._reconnect:
                self._reconnect = False
                await disconnect(self._redis, unused=True)
            if not self._positioned:
                await self._position()
            if self._idle:
                # A server that was replaced still allows reads. This write of a key that does not
                # exist fails there. It needs no right that publishing does not need.
                await self._redis.expire(_PREFIX, _EXPIRY)
            response = await self._redis.execute_command(  # type: ignore[no-untyped-call]
                *("XREAD", "COUNT", READ_LIMIT, "BLOCK", int(READ_WAIT * 1000)),
                *("STREAMS", *self._last_ids, *self._last_ids.values()),
            )
        except (RedisError, OSError) as error:
            self._positioned, self._reconnect = False, True
            raise _translate(error) from error
        self._idle = not response
        lines = []
        for key, entries in cast("_Streams", response):
            for entry_id, fields in entries:
                self._last_ids[key.decode()] = entry_id.decode()
                lines.append(fields.get(b"line", b"").decode(errors="replace"))
        return lines

    async def close(self) -> None:
        """Close the connections."""
        await disconnect(self._redis)

    async def _position(self) -> None:
        """Start at the last line read, or at the beginning of the backlog if that is earlier."""
        seconds, _ = await self._redis.time()
        start = f"{int((seconds - BACKLOG) * 1000)}-0"
        for key in self._keys:
            last_id = self._last_ids.get(key, start)
            self._last_ids[key] = min(start, last_id, key=_entry_number)
        self._positioned = True


def _translate(error: Exception) -> RelayBackendError | ConfigurationError:
    """Return our error for one of the driver's."""
    if isinstance(error, AskError):  # or MovedError
        return ConfigurationError(
            f"the relay's backend is a node of a Redis cluster without its keys ({error}): give"
            " the URL of a server that is not in cluster mode"
        )
    return RelayBackendError(f"{type(error).__name__}: {error}")


def _entry_number(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)


def open_backend(url: str, names: Sequence[str]) -> RedisRelay:
    """Return the backend for a URL."""
    return RedisRelay(url, names)
