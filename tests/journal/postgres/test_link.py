"""A PostgreSQL journal and what may happen to its server, and on the way there."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest

from kling_async._utils.extras import install_command
from kling_async.errors import ConfigurationError, JournalError
from kling_async.journal.address import Address
from kling_async.journal.base import ItemState, Planned, Transition
from kling_async.journal.postgres._link import Link
from kling_async.journal.postgres._schema import LOCK, SCHEMA
from kling_async.journal.postgres.journal import PostgresJournal
from tests.engines.postgres import PASSWORD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from kling_async.journal.postgres._link import Connection

S = ItemState
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def sending(key: str) -> Transition:
    """Give the first move of an item."""
    return Transition(key, S.SUBMITTING, NOW)


class Way:
    """The way to the server, which may be cut.

    Attributes:
        cut_before: What is not let through to the server: the connection is cut instead.
        cut_after: What is let through, while the answer is not.
        closed: Nobody comes in.
        cuts: How often it was cut.
        refused: How often somebody came while it was closed.
        trips: How often something was sent to the server after it had answered.
        was_cut: It was cut after an answer had come, which was not let through.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._server = parts.hostname, parts.port
        self._url = url
        self.cut_before = self.cut_after = b""
        self.closed = False
        self.cuts = self.refused = self.trips = 0
        self._answered = False
        self.was_cut = asyncio.Event()
        self._talks: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Let clients in; give the URL."""
        door = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        port = door.sockets[0].getsockname()[1]
        async with door:
            yield self._url.replace(f":{self._server[1]}/", f":{port}/")
            self.cut()
        await asyncio.sleep(0.01)

    def cut(self) -> None:
        """Cut all connections."""
        for writer in self._talks:
            writer.close()

    async def _talk(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        if self.closed:
            self.refused += 1
            answer.close()
            return
        server, ask = await asyncio.open_connection(*self._server)
        self._talks |= {answer, ask}
        back = asyncio.create_task(self._carry_back(server, answer))
        while data := await client.read(65536):
            if self.cut_before and self.cut_before in data:
                self.cut_before = b""
                self.cuts += 1
                break
            if self.cut_after and self.cut_after in data:
                self.cut_after = b""
                self.cuts += 1
                back.cancel()
                await asyncio.wait((back,))
                ask.write(data)
                asking = asyncio.create_task(self._let_through(client, ask))
                await server.read(65536)
                asking.cancel()
                await asyncio.wait((asking,))
                self.was_cut.set()
                break
            self.trips += self._answered
            self._answered = False
            ask.write(data)
        for writer in (answer, ask):
            writer.close()
            self._talks.discard(writer)
        await asyncio.wait((back,))

    async def _let_through(self, client: asyncio.StreamReader, ask: asyncio.StreamWriter) -> None:
        while data := await client.read(65536):
            ask.write(data)

    async def _carry_back(self, server: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        while data := await server.read(65536):
            self._answered = True
            answer.write(data)
        answer.close()


async def test_a_connection_that_is_lost(batch_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Between two calls another one is made, and neither the caller nor the log mentions it."""
    way = Way(batch_url)
    async with way.open() as url, PostgresJournal(url) as journal:
        await journal.plan([Planned("a", {})])
        way.cut()
        await journal.record(sending("a"))
        way.cut()
        assert [entry.state async for entry in journal.entries()] == [S.SUBMITTING]
        assert len(await journal.workers()) == 1
    assert [record.name for record in caplog.records if record.name == "psycopg"] == []


async def test_two_round_trips(batch_url: str) -> None:
    """A write of any number of calls asks the server twice."""
    way = Way(batch_url)
    async with way.open() as url, PostgresJournal(url) as journal:
        await journal.plan([Planned(key, {}) for key in "abc"])
        before = way.trips
        await journal.record(*map(sending, "abc"))
        assert way.trips == before + 2


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize("words", [b"COMMIT\0", b"FOR UPDATE"])
async def test_a_write_whose_answer_is_lost(batch_url: str, words: bytes, *, arrives: bool) -> None:
    """Whether it was committed or not: it is written once, and the caller hears that it is."""
    way = Way(batch_url)
    async with way.open() as url, PostgresJournal(url) as journal:
        (entry,) = await journal.plan([Planned("a", {})])
        setattr(way, "cut_after" if arrives else "cut_before", words)
        await journal.record(sending("a"))
        assert way.cuts == 1
        assert [move.state for move in await journal.history("a")] == [S.PLANNED, S.SUBMITTING]
        assert (await journal.plan([Planned("a", {})]))[0].state is S.SUBMITTING
        assert (await journal.claim(entry))[0].entry.state is S.SUBMITTING


async def test_a_plan_whose_answer_is_lost(batch_url: str) -> None:
    """It is planned once."""
    way = Way(batch_url)
    async with way.open() as url, PostgresJournal(url) as journal:
        way.cut_after = b"COMMIT\0"
        first = await journal.plan([Planned("a", {}), Planned("b", {})])
        assert way.cuts == 1
        assert await journal.plan([Planned("a", {}), Planned("b", {})]) == first
        assert len(await journal.history("a")) == 1


async def test_taken_over_while_the_answer_was_lost(batch_url: str) -> None:
    """Who was taken for dead meanwhile is told so, though what it wrote may stand."""
    way = Way(batch_url)
    async with way.open() as url, PostgresJournal(url) as journal:
        await journal.plan([Planned("a", {})])
        with psycopg.connect(batch_url.partition("?")[0], autocommit=True) as db:
            way.cut_after = b"COMMIT\0"
            way.closed = True
            writing = asyncio.create_task(journal.record(sending("a")))
            await way.was_cut.wait()
            db.execute("UPDATE kling_async_workers SET id = DEFAULT")
            way.closed = False
            with pytest.raises(JournalError, match="not heard of"):
                await writing


async def test_a_server_that_goes_away(batch_url: str) -> None:
    """After half the lease everybody is told, then at once; when it is back it goes on."""
    way = Way(batch_url)
    async with way.open() as url, PostgresJournal(url, lease=1.0) as journal:
        await journal.plan([Planned("a", {})])
        way.closed = True
        way.cut()
        for once in (False, True):
            before = way.refused
            with pytest.raises(JournalError, match="cannot be reached") as raised:
                await journal.record(sending("a"))
            assert PASSWORD not in str(raised.value)
            assert (way.refused == before + 1) is once
        way.closed = False
        assert [entry.state async for entry in journal.entries()] == [S.PLANNED]


async def test_closing_without_a_server(batch_url: str) -> None:
    """Who cannot say farewell closes all the same."""
    way = Way(batch_url)
    async with way.open() as url, PostgresJournal(url, lease=1.0) as journal:
        await journal.plan([Planned("a", {})])
        way.closed = True
        way.cut()


def linked(url: str, patience: float, longest: float) -> closing[Link]:
    """Make a connection of its own."""
    address = Address.parse(url)
    return closing(Link(address, read_only=False, patience=patience, longest=longest))


def backend(db: Connection) -> int:
    """Say which process of the server answers."""
    return db.info.backend_pid


@contextmanager
def standing_still(process: int) -> Iterator[None]:
    """Let one process of the server do nothing for a while."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def test_who_stands_still_in_a_transaction(batch_url: str) -> None:
    """The server knows that it waits for us, and for how long: less than others do for a lock."""
    with (
        linked(batch_url, 1.0, 60.0) as link,
        psycopg.connect(batch_url.partition("?")[0], autocommit=True) as other,
    ):

        def job(db: Connection) -> tuple[object, ...]:
            first, second = db.execute("SELECT 1"), db.execute("SELECT 2")
            assert (first.fetchone(), second.fetchall()) == ((1,), [(2,)])
            state = other.execute(
                "SELECT state FROM pg_stat_activity WHERE pid = %s", (backend(db),)
            )
            told = "SELECT current_setting(%s)::interval < current_setting(%s)::interval"
            less = db.execute(told, ("idle_in_transaction_session_timeout", "lock_timeout"))
            alive = db.execute("SHOW tcp_keepalives_idle")
            return *(state.fetchone() or ()), *(less.fetchone() or ()), *(alive.fetchone() or ())

        assert link.do(job) == ("idle in transaction", True, "10")


def test_a_server_that_hangs(batch_url: str) -> None:
    """A server that does not answer is as good as away: another connection is made."""
    with linked(batch_url, 60.0, 0.5) as link:
        process = link.do(backend)
        with standing_still(process):
            assert link.do(backend) != process


def test_a_server_that_never_answers(batch_url: str) -> None:
    """Where no other connection is to be made, everybody is told that there was no answer."""
    with linked(batch_url, 0.0, 0.2) as link:
        link.do(backend)
        with pytest.raises(JournalError, match=r"cannot be reached \(no answer in 0.2 s\)"):
            link.do(lambda db: db.execute("SELECT pg_sleep(5)").fetchall())


async def test_closing_while_the_server_hangs(batch_url: str) -> None:
    """Who closes waits no longer than a few seconds, and what was handed in is written."""
    with psycopg.connect(batch_url.partition("?")[0], autocommit=True) as db:
        journal = await PostgresJournal(batch_url, lease=600.0).__aenter__()
        await journal.plan([Planned("a", {})])
        asked = "SELECT pid FROM pg_stat_activity WHERE query = 'COMMIT' AND state = 'idle'"
        ((process,),) = db.execute(asked).fetchall()
        with standing_still(process):
            writing = asyncio.create_task(journal.record(sending("a")))
            await asyncio.sleep(0)  # it is handed in
            await journal.close()
            await writing
    async with PostgresJournal(batch_url, read_only=True) as reader:
        assert [move.state for move in await reader.history("a")][:2] == [S.PLANNED, S.SUBMITTING]


async def test_no_server(batch_url: str) -> None:
    """Where there is none, opening says so at once, without the password."""
    way = Way(batch_url)
    way.closed = True
    async with way.open() as url:
        with pytest.raises(
            JournalError, match=r"cannot be reached .*see that the server"
        ) as raised:
            await PostgresJournal(url).__aenter__()
    assert PASSWORD not in str(raised.value)


async def test_a_server_that_goes_away_at_once(batch_url: str) -> None:
    """A connection that is lost before it is set up is closed, and told."""
    way = Way(batch_url)
    async with way.open() as url:
        way.cut_before = b"idle_in_transaction"
        with pytest.raises(JournalError, match="cannot be reached"):
            await PostgresJournal(url).__aenter__()
    assert way.cuts == 1


@pytest.mark.parametrize("use", ["journal_at('postgresql://h/db')", "Batch(None, journal=URL)"])
def test_without_the_driver(use: str) -> None:
    """Without the package the way to have it is told; files need none of it."""
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
    told = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], check=True, capture_output=True, text=True
    )
    assert install_command("postgres") in told.stdout


async def test_a_wrong_password(batch_url: str) -> None:
    """The server's own words are told, and not the password."""
    url = batch_url.replace(PASSWORD, "guessed-w0rd")
    with pytest.raises(JournalError, match="password authentication failed") as raised:
        await PostgresJournal(url).__aenter__()
    assert "guessed-w0rd" not in str(raised.value)


def test_a_url_that_libpq_cannot_read() -> None:
    """What libpq does not understand is refused, without the password."""
    with pytest.raises(ConfigurationError, match="not a URL that libpq can read") as raised:
        PostgresJournal("postgresql://me:s3cret@h/db?colour=blue")
    assert "s3cret" not in str(raised.value)
    assert raised.value.__cause__ is None


async def test_many_make_the_tables(postgres_url: str) -> None:
    """Workers that all find no tables make them once between them."""
    journals = [PostgresJournal(postgres_url) for _ in range(6)]
    await asyncio.gather(*(journal.__aenter__() for journal in journals))
    assert len(await journals[0].workers()) == 6
    await asyncio.gather(*(journal.close() for journal in journals))


async def test_another_makes_the_tables(postgres_url: str) -> None:
    """Who has waited while another made the tables finds them."""
    async with await psycopg.AsyncConnection.connect(postgres_url) as db:
        await db.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        opening = asyncio.create_task(PostgresJournal(postgres_url).__aenter__())
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while await (await db.execute(waiting)).fetchall() != [(1,)]:
            assert not opening.done()
        await db.execute(SCHEMA.encode())
    journal = await opening
    assert len(await journal.workers()) == 1
    await journal.close()


async def test_another_format(postgres_url: str) -> None:
    """A journal of a newer version is left alone."""
    async with PostgresJournal(postgres_url):
        pass
    with psycopg.connect(postgres_url, autocommit=True) as db:
        db.execute("UPDATE kling_async_journal SET format = 2")
    for read_only in (False, True):
        with pytest.raises(JournalError, match=r"has format 2.*install a newer one"):
            await PostgresJournal(postgres_url, read_only=read_only).__aenter__()


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DROP TABLE kling_async_history", "has lost a table .*backup"),
        ("ALTER TABLE kling_async_items DROP COLUMN input", "cannot be used .*input"),
        ("ALTER TABLE kling_async_items ADD CHECK (state <> 'submitting')", "cannot be used"),
    ],
)
async def test_what_the_server_complains_of(postgres_url: str, statement: str, words: str) -> None:
    """What the server says is told, with what to do where that is known."""
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


@pytest.mark.parametrize(("times", "written"), [(1, True), (5, True), (6, False)])
async def test_what_is_undone_for_another(postgres_url: str, times: int, *, written: bool) -> None:
    """What the server has undone because of somebody else is done again, a few times."""
    async with PostgresJournal(postgres_url) as journal:
        await journal.plan([Planned("a", {})])
        with psycopg.connect(postgres_url, autocommit=True) as db:
            db.execute("CREATE SEQUENCE tries")  # which nothing undoes
            db.execute(
                "CREATE FUNCTION deadlock() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                f" IF nextval('tries') <= {times} THEN RAISE USING ERRCODE = '40P01'; END IF;"
                " RETURN NEW; END $$".encode()
            )
            db.execute(
                "CREATE TRIGGER deadlock BEFORE UPDATE ON kling_async_items"
                " FOR EACH ROW EXECUTE FUNCTION deadlock()"
            )
        if written:
            await journal.record(sending("a"))
        else:
            with pytest.raises(JournalError, match="cannot be used"):
                await journal.record(sending("a"))
        assert len(await journal.history("a")) == 1 + written


async def test_no_rights(postgres_url: str) -> None:
    """Who may not make the tables is told that this is it."""
    with psycopg.connect(postgres_url, autocommit=True) as db:
        db.execute("DROP ROLE IF EXISTS guest")
        db.execute("CREATE ROLE guest LOGIN PASSWORD 'welcome-1n'")
    parts = urlsplit(postgres_url)
    url = postgres_url.replace(parts.netloc, f"guest:welcome-1n@{parts.hostname}:{parts.port}")
    with pytest.raises(JournalError, match="grant the user that right"):
        await PostgresJournal(url).__aenter__()


async def test_a_server_that_only_reads(postgres_url: str) -> None:
    """A server that only reads is none for a batch, and good enough for a reader."""
    async with PostgresJournal(postgres_url):
        pass
    only = f"{postgres_url}?options=-c%20default_transaction_read_only%3Don"
    with pytest.raises(JournalError, match="read-only"):
        await PostgresJournal(only).__aenter__()
    async with PostgresJournal(only, read_only=True) as reader:
        assert [entry async for entry in reader.entries()] == []
    with pytest.raises(JournalError, match="give the one that writes"):
        await PostgresJournal(f"{only}&target_session_attrs=any").__aenter__()
