"""The guide's application, under a threaded WSGI server, with the emulator in a thread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

import pytest

from kling_async.testing import Emulator
from tests.processes import unmeasured

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "synchronous"

SERVE = """
import socketserver, sys
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from app import app, kling
class Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
class Quiet(WSGIRequestHandler):
    def log_message(self, *args): pass
server = Server(("127.0.0.1", 0), Quiet)
server.set_app(app)
print(server.server_port, flush=True)
import threading
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
kling.close()
print("closed", flush=True)
"""


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """Run an emulator on a loop in a thread of its own."""
    with Emulator(speed=1000, video="small") as emulator:
        yield emulator


@pytest.mark.slow
def test_threads_share_one_client(emulator: Emulator) -> None:
    """Views on many threads submit and ask through one client, and closing ends its thread."""
    environ = {
        **unmeasured(),
        "APIXO_API_KEY": emulator.key,
        "APIXO_BASE_URL": emulator.origin,
        "PYTHONPATH": os.pathsep.join([str(EXAMPLES), *sys.path]),
    }
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SERVE],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url = f"http://127.0.0.1:{process.stdout.readline().strip()}"

        def generate(number: int) -> str:
            post = Request(f"{url}/?prompt=fox%20{number}", method="POST")  # noqa: S310 - our own
            ref = json.load(urlopen(post))["ref"]  # noqa: S310 - as above
            while (found := json.load(urlopen(f"{url}/?ref={ref}")))["state"] != "success":  # noqa: S310
                pass
            return str(found["result_urls"][0])

        with ThreadPoolExecutor(8) as pool:
            urls = list(pool.map(generate, range(16)))
        process.stdin.close()
        assert process.stdout.read() == "closed\n"
    assert process.returncode == 0
    assert len(set(urls)) == 16
    assert len(emulator.ledger) == 16
