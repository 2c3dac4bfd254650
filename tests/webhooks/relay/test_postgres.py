from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from kling_async.webhooks.relay.backends import (
    READ_WAIT,
)
from tests.engines.relay import opened, read_lines

if TYPE_CHECKING:
    import psycopg


async def test_keeps_an_hour(postgres_url: str, db: psycopg.Connection) -> None:
    """Who writes deletes what is older than an hour, once a minute."""
    async with opened(postgres_url) as one:
        await one.publish(["a"])
        db.execute("UPDATE kling_async_callbacks SET at = at - interval '3601 seconds'")
        await one.publish(["b"])
        assert db.execute("SELECT count(*) FROM kling_async_callbacks").fetchone() == (2,)
    async with opened(postgres_url) as other:
        await other.publish(["c"])
        rows = db.execute(
            "SELECT convert_from(line, 'UTF8') FROM kling_async_callbacks ORDER BY id"
        )
        assert rows.fetchall() == [("b",), ("c",)]


async def test_looks_back(postgres_url: str, db: psycopg.Connection) -> None:
    """A reader begins with the last minute."""
    async with opened(postgres_url) as one:
        await one.publish(["70"])
        db.execute("UPDATE kling_async_callbacks SET at = at - interval '70 seconds'")
        async with opened(postgres_url) as other:
            reading = asyncio.create_task(other.read())
            await asyncio.sleep(0.3)
            await one.publish(["now"])
            assert await reading == ["now"]
        await one.publish(["50"])
        db.execute("UPDATE kling_async_callbacks SET at = at - interval '50 seconds' WHERE id > 1")
        async with opened(postgres_url) as other:
            assert await read_lines(other, 2) == ["now", "50"]


async def test_commits_in_order(postgres_url: str, db: psycopg.Connection) -> None:
    """Rows can be seen in the order of their ids, however long one writer takes."""
    async with opened(postgres_url) as one, opened(postgres_url) as other:
        await one.publish(["a"])
        assert await read_lines(other, 1) == ["a"]
        with db.transaction():
            db.execute("SELECT pg_advisory_xact_lock(hashtext('kling_async_callbacks'))")
            db.execute("INSERT INTO kling_async_callbacks (name, line) VALUES ('one', 'slow')")
            publishing = asyncio.create_task(one.publish(["quick"]))
            await asyncio.sleep(0.3)
            assert not publishing.done()
        await publishing
        assert await read_lines(other, 2) == ["slow", "quick"]


async def test_is_locked(postgres_url: str, db: psycopg.Connection) -> None:
    """Who waits for a lock is cancelled at once, and writes again when it is free."""
    async with opened(postgres_url) as one:
        await one.publish(["a"])
        with db.transaction():
            db.execute("SELECT pg_advisory_xact_lock(hashtext('kling_async_callbacks'))")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await one.publish(["b"])
        await one.publish(["c"])
        async with opened(postgres_url) as other:
            assert "c" in await read_lines(other, 2)


async def test_takes_over(postgres_url: str, db: psycopg.Connection) -> None:
    """Of a server that has taken over, and knows no rows, all is read."""
    async with opened(postgres_url) as one, opened(postgres_url) as other:
        await one.publish([f"{number}" for number in range(20)])
        await read_lines(other, 20)
        db.execute("TRUNCATE kling_async_callbacks RESTART IDENTITY")
        await other.close()
        await one.publish(["b"])
        assert await read_lines(other, 1) == ["b"]


async def test_after_a_long_time(postgres_url: str, db: psycopg.Connection) -> None:
    """What came while the connection was lost is read, even if that was more than a minute ago."""
    async with opened(postgres_url) as one, opened(postgres_url) as other:
        await one.publish(["a"])
        assert await read_lines(other, 1) == ["a"]
        await other.close()
        await one.publish(["b"])
        db.execute("UPDATE kling_async_callbacks SET at = at - interval '70 seconds'")
        async with asyncio.timeout(READ_WAIT - 1):
            assert await other.read() == ["b"]


async def test_with_garbage(postgres_url: str, db: psycopg.Connection) -> None:
    """Rows that no relay has written are read as lines that mean nothing; huge ones are not."""
    async with opened(postgres_url) as one, opened(postgres_url) as other:
        await one.publish(["a"])
        assert await read_lines(other, 1) == ["a"]
        for value in (b"\xff\x00", b"", b"x" * 65_537):
            db.execute("INSERT INTO kling_async_callbacks (name, line) VALUES ('one', %s)", [value])
        await one.publish(["y" * 65_536])
        assert await read_lines(other, 4) == ["\ufffd\x00", "", "", "y" * 65_536]


async def test_needs_no_right_to_make_tables(postgres_url: str, db: psycopg.Connection) -> None:
    """If the table exists, the right to create one is not needed."""
    async with opened(postgres_url) as one:
        await one.publish(["a"])
    db.execute(
        "CREATE ROLE little LOGIN PASSWORD 'little';"
        "GRANT SELECT, INSERT, DELETE ON kling_async_callbacks TO little"
    )
    try:
        little = postgres_url.replace("//postgres:tr0ub4dor-and-3@", "//little:little@")
        async with opened(little) as one:
            await one.publish(["b"])
            assert await read_lines(one, 2) == ["a", "b"]
    finally:
        db.execute("DROP OWNED BY little; DROP ROLE little")
