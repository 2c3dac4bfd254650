"""A PostgreSQL journal whose server, or the network to it, fails."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from kling_async._utils.extras import install_command
from kling_async.errors import ConfigurationError, JournalError
from kling_async.journal.base import Planned
from kling_async.journal.postgres.journal import PostgresJournal
from tests.engines.postgres import PASSWORD
from tests.journal.examples import S, sending
from tests.journal.postgres.lossy_proxy import LossyProxy

if TYPE_CHECKING:
    from collections.abc import Iterator


async def test_a_connection_that_is_lost(batch_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Between two calls another one is made, and neither the caller nor the log mentions it."""
    proxy = LossyProxy(batch_url)
    async with proxy.open() as url, PostgresJournal(url) as journal:
        await journal.plan([Planned("a", {})])
        proxy.cut()
        await journal.record(sending("a"))
        proxy.cut()
        assert [entry.state async for entry in journal.entries()] == [S.SUBMITTING]
        assert len(await journal.workers()) == 1
    assert [record.name for record in caplog.records if record.name == "psycopg"] == []


async def test_a_server_that_goes_away(batch_url: str) -> None:
    """After half the lease calls raise, then at once; when the server is back they work."""
    proxy = LossyProxy(batch_url)
    async with proxy.open() as url, PostgresJournal(url, lease=1.0) as journal:
        await journal.plan([Planned("a", {})])
        proxy.closed = True
        proxy.cut()
        for once in (False, True):
            before = proxy.refused
            with pytest.raises(JournalError, match="cannot be reached") as raised:
                await journal.record(sending("a"))
            assert PASSWORD not in str(raised.value)
            assert (proxy.refused == before + 1) is once
        proxy.closed = False
        assert [entry.state async for entry in journal.entries()] == [S.PLANNED]


async def test_closing_without_a_server(batch_url: str) -> None:
    """A journal that cannot leave the batch closes nevertheless."""
    proxy = LossyProxy(batch_url)
    async with proxy.open() as url, PostgresJournal(url, lease=1.0) as journal:
        await journal.plan([Planned("a", {})])
        proxy.closed = True
        proxy.cut()


@contextmanager
def suspended(process: int) -> Iterator[None]:
    """Suspend one process of the server."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


async def test_closing_while_the_server_hangs(batch_url: str) -> None:
    """Closing takes no longer than a few seconds, and earlier calls are written."""
    with psycopg.connect(batch_url.partition("?")[0], autocommit=True) as db:
        journal = await PostgresJournal(batch_url, lease=600.0).__aenter__()
        await journal.plan([Planned("a", {})])
        asked = "SELECT pid FROM pg_stat_activity WHERE query LIKE %s AND state = 'idle'"
        ((process,),) = db.execute(asked, ("%FOR UPDATE%",)).fetchall()
        with suspended(process):
            writing = asyncio.create_task(journal.record(sending("a")))
            await asyncio.sleep(0)  # it is passed to the thread
            await journal.close()
            await writing
    async with PostgresJournal(batch_url, read_only=True) as reader:
        assert [move.state for move in await reader.history("a")][:2] == [S.PLANNED, S.SUBMITTING]


async def test_no_server(batch_url: str) -> None:
    """Without a server opening raises at once, without the password."""
    proxy = LossyProxy(batch_url)
    proxy.closed = True
    async with proxy.open() as url:
        with pytest.raises(
            JournalError, match=r"cannot be reached .*check that the server"
        ) as raised:
            await PostgresJournal(url).__aenter__()
    assert PASSWORD not in str(raised.value)


async def test_a_server_that_goes_away_at_once(batch_url: str) -> None:
    """A connection that is lost before the journal is open is an error."""
    proxy = LossyProxy(batch_url)
    async with proxy.open() as url:
        proxy.cut_before = b"synchronous_commit"
        with pytest.raises(JournalError, match="cannot be reached"):
            await PostgresJournal(url).__aenter__()
    assert proxy.cuts == 1


@pytest.mark.parametrize("use", ["journal_at('postgresql://h/db')", "Batch(None, journal=URL)"])
def test_without_the_driver(use: str) -> None:
    """Without the driver the error says how to install it; a file needs no driver."""
    program = f"""
        import sys
        sys.modules["psycopg"] = None
        from kling_async import Batch, MissingExtraError
        from kling_async.journal.opening import journal_at
        URL = "postgres://h/db"
        journal_at("run.sqlite")
        try:
            {use}
        except MissingExtraError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], check=True, capture_output=True, text=True
    )
    assert install_command("postgres") in done.stdout


async def test_a_wrong_password(batch_url: str) -> None:
    """The error has the server's message, and not the password."""
    url = batch_url.replace(PASSWORD, "guessed-w0rd")
    with pytest.raises(JournalError, match="password authentication failed") as raised:
        await PostgresJournal(url).__aenter__()
    assert "guessed-w0rd" not in str(raised.value)


def test_a_url_that_libpq_cannot_read() -> None:
    """What libpq does not understand is refused, without the password."""
    with pytest.raises(ConfigurationError, match="invalid postgresql:// URL") as raised:
        PostgresJournal("postgresql://me:s3cret@h/db?colour=blue")
    assert "s3cret" not in str(raised.value)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DROP TABLE kling_async_history", "has lost a table .*backup"),
        ("ALTER TABLE kling_async_items DROP COLUMN input", "cannot be used .*input"),
        ("ALTER TABLE kling_async_items ADD CHECK (state <> 'submitting')", "cannot be used"),
    ],
)
async def test_errors_of_the_server(postgres_url: str, statement: str, words: str) -> None:
    """The error has the server's message, and what to do where that is known."""
    async with PostgresJournal(postgres_url) as journal:
        await journal.plan([Planned("a", {})])
        with psycopg.connect(postgres_url, autocommit=True) as db:
            db.execute(statement.encode())
        answers = await asyncio.gather(
            journal.record(sending("a")), journal.release("a"), return_exceptions=True
        )
        assert any(isinstance(answer, JournalError) for answer in answers)
        with pytest.raises(JournalError, match=words):
            await journal.record(sending("a"))
