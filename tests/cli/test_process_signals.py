from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from kling_async.cli.process import call_on_signals
from tests.patience import HANGS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Emulate, Start

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP"),
    pytest.mark.slow,  # each test starts two or three processes
]


@pytest.fixture
def hangup_by_default() -> Iterator[None]:
    """Let SIGHUP be as a terminal leaves it, whatever this process was started with."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def _reference(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.readline().removeprefix("submitted ").strip()


def test_hangup_names_what_still_runs(
    emulate: Emulate, start: Start, hangup_by_default: None
) -> None:
    """A hangup ends a command as SIGTERM does: with 130, and the reference of the task."""
    process = start("generate", "a fox", env=emulate("--fault", "task:*=stuck"))
    ref = _reference(process)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate()
    assert process.returncode == 130
    assert f"To continue: kling-async wait {ref}\n" in err
    assert "Traceback" not in err


def test_hangup_waits_for_a_submit(start: Start, hangup_by_default: None) -> None:
    """Two hangups, as a shell and the kernel send them, do not cut off a submit under way."""
    answer = b'{"code": 200, "message": "success", "data": {"taskId": "task_12345678"}}'
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(answer)}\r\n"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        env = {"APIXO_API_KEY": "a-key", "APIXO_BASE_URL": f"http://127.0.0.1:{port}"}
        process = start("generate", "a fox", "--json", env={**os.environ, **env})
        connection, _ = server.accept()
        with connection:
            connection.recv(65_536)
            for _ in range(2):
                process.send_signal(signal.SIGHUP)
                time.sleep(0.2)
            connection.sendall(head.encode() + b"\r\n" + answer)
            _, err = process.communicate()
    assert process.returncode == 130
    assert json.loads(err)["running"] == ["kling-2-1/task_12345678"]


def test_ignored_hangup_stays_ignored(emulate: Emulate, start: Start, tmp_path: Path) -> None:
    """Under nohup a command continues."""
    env = emulate("--speed", "1000")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start("generate", "a fox", "--first-poll", "1.5", env=env)
    finally:
        signal.signal(signal.SIGHUP, before)
    _reference(process)
    process.send_signal(signal.SIGHUP)
    out, _ = process.communicate()
    assert (process.returncode, out[:7]) == (0, "http://")


def test_terminal_that_is_closed(emulate: Emulate, hangup_by_default: None) -> None:
    """When the terminal is gone, with it stdout and stderr, a command ends with its code."""
    env = emulate("--fault", "task:*=stuck")
    master, slave = os.openpty()
    script = (
        "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        " import kling_async.cli.main as cli; code = cli.main(['generate', 'a fox']);"
        " open(sys.argv[1], 'w').write(str(code))"
    )
    reader, writer = os.pipe()
    process = subprocess.Popen(
        (sys.executable, "-c", script, f"/dev/fd/{writer}"),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        pass_fds=(writer,),
        start_new_session=True,
        env={**env, "TERM": "xterm"},
    )
    os.close(slave)
    os.close(writer)
    seen = b""
    while b"task_" not in seen:
        seen += os.read(master, 1024)
    os.close(master)
    process.wait(timeout=HANGS)
    assert os.read(reader, 10) == b"130"
    os.close(reader)


@pytest.mark.real_time
async def test_hangup_counts_once() -> None:
    """SIGTERM stops each time; a hangup only if nothing else has."""
    stops: list[int] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    loop = asyncio.get_running_loop()
    try:
        call_on_signals(lambda: stops.append(1), interrupt=True)
        lines = (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
        for number, count in zip(lines, (1, 1, 2, 2, 3), strict=True):
            signal.raise_signal(number)
            await asyncio.sleep(0.01)
            assert len(stops) == count
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
        signal.signal(signal.SIGHUP, before)
        signal.signal(signal.SIGINT, signal.default_int_handler)
