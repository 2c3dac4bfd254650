"""A PgBouncer for the tests, which pools by transaction; it ends with them, however they end.

There is no wheel of it, so tests are skipped where it is not installed.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.engines.ports import held
from tests.engines.postgres import PASSWORD, UNPRIVILEGED
from tests.patience import STARTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.engines.postgres import Server

__all__ = ["pooled_port", "serving"]


# So few connections that several clients have to share them.
SETTINGS = """
[databases]
* = host={host} port={server} user=postgres password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
"""

# Ends the program as soon as the pipe is closed: by us, or by the system when it has killed us.
# Signals that are sent to all of us must not end it before its work is done.
KEEPER = """
trap '' HUP INT TERM
"$1" "$2" </dev/null >log 2>&1 & server=$!
read -r _
kill -KILL $server; wait $server 2>/dev/null
"""


@contextmanager
def serving(server: Server) -> Iterator[int]:
    """Run a PgBouncer before a server; give its port."""
    found = shutil.which("pgbouncer", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    if found is None:
        pytest.skip("NO PGBOUNCER: install pgbouncer to test with it")
    who: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="kling-pgbouncer-") as made, held() as port:
        folder = Path(made)
        file = folder / "settings"
        file.write_text(
            SETTINGS.format(host=server.host, server=server.port, password=PASSWORD, port=port)
        )
        if os.geteuid() == 0:
            who = {"user": UNPRIVILEGED, "group": UNPRIVILEGED, "extra_groups": ()}
            for path in (folder, file):
                os.chown(path, UNPRIVILEGED, UNPRIVILEGED)
        keep = ["/bin/sh", "-c", KEEPER, "sh", found, str(file)]
        with subprocess.Popen(keep, stdin=subprocess.PIPE, cwd=folder, **who):
            assert _answers(port), (folder / "log").read_text()
            yield port


def _answers(port: int) -> bool:
    end = time.monotonic() + STARTS
    while time.monotonic() < end:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return True
        except OSError:
            time.sleep(0.01)
    return False


@pytest.fixture(scope="session")
def pooled_port(postgres_server: Server) -> Iterator[int]:
    """Run one PgBouncer for all tests of this process that ask for it."""
    with serving(postgres_server) as port:
        yield port
