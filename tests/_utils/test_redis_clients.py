from __future__ import annotations

import asyncio

import pytest

from kling_async import ConfigurationError
from kling_async._utils.redis_clients import create_client, disconnect


@pytest.mark.parametrize("scheme", ["redis", "rediss", "valkey", "valkeys"])
def test_an_invalid_url(scheme: str) -> None:
    """A URL with an invalid port is an error that shows its scheme and no password."""
    with pytest.raises(ConfigurationError, match=f"invalid cat URL, {scheme}://…") as caught:
        create_client(f"{scheme}://:pass:word@cache:port", "cat", connections=1, timeout=1)
    assert "word" not in str(caught.value)


async def test_schemes() -> None:
    """The schemes of Valkey are those of Redis, with and without TLS."""
    secure = []
    for scheme in ("redis", "valkey", "rediss", "valkeys"):
        client = create_client(f"{scheme}://cache", "cat", connections=1, timeout=1)
        secure.append("SSL" in client.connection_pool.connection_class.__name__)
    assert secure == [False, False, True, True]


async def test_a_call_waits_for_a_connection(redis_url: str) -> None:
    """While all connections are in use, a call waits; the one that waits for data is not closed.

    Unused ones are closed on request. Closing them again does nothing.
    """
    client = create_client(redis_url, "cat", connections=2, timeout=5, decode_responses=True)
    waiting = asyncio.ensure_future(client.blpop(["cat"], timeout=0))
    await asyncio.gather(*(client.set(f"{number}", "x") for number in range(5)))
    await disconnect(client, unused=True)
    await client.rpush("cat", "miaow")
    assert await waiting == ("cat", "miaow")
    for _ in range(2):
        await disconnect(client)
