"""The backends of relays, as tests use them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING

import psycopg
import redis as sync_redis

from kling_async.webhooks.relay.backends import open_backend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kling_async.webhooks.relay.backends import RelayBackend

STREAM = "{kling_async:callbacks}:one"


@asynccontextmanager
async def opened(url: str, *names: str) -> AsyncIterator[RelayBackend]:
    """Connect, and close at the end."""
    backend = open_backend(url, names or ("one",))
    try:
        yield backend
    finally:
        await backend.close()


async def read_lines(backend: RelayBackend, count: int) -> list[str]:
    """Read until there are so many lines."""
    lines: list[str] = []
    async with asyncio.timeout(30):
        while len(lines) < count:
            lines += await backend.read()
    return lines


def admin_redis(url: str) -> closing[sync_redis.Redis]:
    """Connect to a Redis as its operator does."""
    return closing(sync_redis.Redis.from_url(url))


async def disconnect_all(url: str) -> None:
    """Cut all connections of others to the server's database."""
    if url.startswith("redis"):
        with admin_redis(url) as db:
            db.client_kill_filter(_type="normal", skipme=True)
    else:
        with psycopg.connect(url, autocommit=True) as db:
            db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
