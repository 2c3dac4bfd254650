"""Connections with short timeouts, for the tests of PostgreSQL."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from kling_async._postgres.connection import (
    ConnectionManager,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SETTINGS = (
    "SELECT current_setting('transaction_isolation'), current_setting('lock_timeout'),"
    " current_setting('statement_timeout')"
)


@asynccontextmanager
async def connection_to(url: str, **options: Any) -> AsyncIterator[ConnectionManager]:  # noqa: ANN401
    """Make a connection manager, and close it at the end."""
    connection = ConnectionManager(url, **options)
    try:
        yield connection
    finally:
        await connection.close()
