"""A RabbitMQ for the tests, of their own: it ends with them, however they end.

The server is the system's program, not its service: it has a node, a cookie, a port mapper and
folders of its own. There is no wheel of it, so tests are skipped where it is not installed.
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
from typing import TYPE_CHECKING

import pytest

from tests.engines.ports import held
from tests.patience import STARTS

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["program", "rabbitmq_url", "serving"]


# Ends the server, and what it has started, as soon as the pipe is closed: by us, or by the system
# when it has killed us. The server's own script starts others: they are a group, in a session.
# Signals that are sent to all of us must not end it before its work is done.
KEEPER = """
trap '' HUP INT TERM
"$1" -port "$ERL_EPMD_PORT" </dev/null >/dev/null 2>&1 & mapper=$!
setsid "$2" </dev/null >"$3/log" 2>&1 & server=$!
read -r _
kill -KILL -$server; kill -KILL $mapper; wait $server $mapper 2>/dev/null
rm -rf "$3"
"""


def program() -> Path | None:
    """Find a server. Debian's own script would have it run as another user: it is passed by."""
    places = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin"), reverse=True)
    found = shutil.which("rabbitmq-server", path=os.pathsep.join(map(str, places)) or None)
    return Path(found) if found and shutil.which("epmd") else None


@contextmanager
def serving() -> Iterator[str]:
    """Run a server; give its URL."""
    found = program()
    if found is None:
        pytest.skip("NO RABBITMQ: install rabbitmq-server to test with it")
    with held() as port, held() as distribution, held() as mapper:
        yield from _run(found, port, distribution, mapper)


def _run(found: Path, port: int, distribution: int, mapper: int) -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="kling-rabbitmq-")
    named = {
        "HOME": folder,
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(mapper),
        "RABBITMQ_NODENAME": "kling@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_LOGS": "-",
        # One thread, which does not spin while it waits.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none"
        " -kernel inet_dist_use_interface {127,0,0,1}",
    }
    for name in ("MNESIA_BASE", "LOG_BASE", "SCHEMA_DIR", "GENERATED_CONFIG_DIR"):
        named[f"RABBITMQ_{name}"] = f"{folder}/{name.lower()}"
    for name in ("ENABLED_PLUGINS_FILE", "CONFIG_FILE", "ADVANCED_CONFIG_FILE", "CONF_ENV_FILE"):
        named[f"RABBITMQ_{name}"] = f"{folder}/no_{name.lower()}"
    keep = ["/bin/sh", "-c", KEEPER, "sh", str(shutil.which("epmd")), str(found), folder]
    environment = {"PATH": os.environ["PATH"], **named}
    with subprocess.Popen(keep, stdin=subprocess.PIPE, env=environment) as keeper:
        try:
            assert _answers(port), Path(folder, "log").read_text()
            yield f"amqp://guest:guest@127.0.0.1:{port}/"
        finally:
            keeper.communicate()


def _answers(port: int) -> bool:
    end = time.monotonic() + STARTS
    while time.monotonic() < end:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
                line.sendall(b"AMQP\x00\x00\x09\x01")
                if line.recv(1) == b"\x01":  # the kind of its first frame
                    return True
        except OSError:
            time.sleep(0.05)
    return False


@pytest.fixture
def rabbitmq_url() -> Iterator[str]:
    """Run a RabbitMQ for one test."""
    with serving() as url:
        yield url
