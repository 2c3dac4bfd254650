from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
import pytest

from kling_async.cli import arguments
from kling_async.cli.main import run
from kling_async.protocol.callbacks import write_token
from kling_async.testing import Emulator, Scenario

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.cli.conftest import Command, Start

TOKEN = write_token("kling-2-1", "nonce-of-sixteen", b"a secret of ours")
GOOD = {
    "code": 200,
    "message": "success",
    "data": {
        "taskId": "task_1",
        "state": "success",
        "resultJson": '{"resultUrls": ["https://example.com/1.mp4"]}',
    },
}


class Listening(Protocol):
    async def __call__(self, *options: str) -> tuple[asyncio.Task[int], str]: ...


@pytest.fixture
async def listening(capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Listening]:
    """Run `listen` on a free port in the background; give its task and its address."""
    tasks: list[asyncio.Task[int]] = []

    async def listening(*options: str) -> tuple[asyncio.Task[int], str]:
        argv = ["listen", "--port", "0", *options]
        tasks.append(asyncio.create_task(run(arguments.parse(argv))))
        said = ""
        while "http://" not in said:
            assert not tasks[-1].done()
            await asyncio.sleep(0.01)
            said += "".join(capsys.readouterr())
        found = re.search(r"http://[\w.\[\]:]+:\d+", said)
        assert found is not None
        return tasks[-1], found[0]

    yield listening
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def objects(out: str) -> list[dict[str, Any]]:
    """Read JSON Lines."""
    return [json.loads(line) for line in out.splitlines()]


async def post(url: str, body: object) -> int:
    """Post JSON; give the status of the answer."""
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
        return response.status


async def test_lines_for_scripts(listening: Listening, capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe there is a line of five columns for each arrival, and nothing on stderr."""
    task, origin = await listening("--count", "1")
    async with aiohttp.ClientSession() as session, session.get(origin) as response:
        assert response.status == 405
        assert await response.text() == "kling-async listen: not a POST; callbacks are POSTs\n"
    assert not task.done()
    assert await post(f"{origin}/kling/{TOKEN}", GOOD) == 200
    assert await task == 0
    out, err = capsys.readouterr()
    assert err == ""
    first, second = (line.split("\t") for line in out.splitlines())
    assert first[1:] == [
        "-",
        "no callback",
        "not a POST; callbacks are POSTs",
        "0 bytes, GET /, answered 405",
    ]
    size = len(json.dumps(GOOD))
    assert second[1:] == [
        "task_1",
        "success",
        "https://example.com/1.mp4",
        f"{size} bytes, POST /kling/kling-2-1~nonc…, answered 200",
    ]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", second[0])


async def test_json_lines(listening: Listening, capsys: pytest.CaptureFixture[str]) -> None:
    """With --json there is an object for each arrival, in ASCII."""
    task, origin = await listening("--json", "--count", "2", "--answer", "503")
    assert await post(f"{origin}/{TOKEN}", GOOD) == 503
    bad = {**GOOD, "data": {"taskId": "t\x9b1m\x1b", "state": "failed", "failMsg": "\x9b1m…"}}
    assert await post(f"{origin}/x", bad) == 400
    failed = {**GOOD, "data": {"taskId": "é", "state": "failed", "failCode": "NSFW"}}
    assert await post(f"{origin}/x", failed) == 503
    assert await task == 0
    out, err = capsys.readouterr()
    assert out.isascii()
    assert err == ""
    first, second, third = objects(out)
    assert (first["ref"], first["answered"]) == ("kling-2-1/task_1", 503)
    assert first["path"] == "/kling-2-1~nonc…"
    assert (second["answered"], "names no task" in second["problem"]) == (400, True)
    assert (third["task_id"], third["fail_code"], third["reason"]) == ("é", "NSFW", "content")


async def test_the_address_of_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json, the first object is the address; that of IPv6 is written as URLs have it."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("there is no IPv6 here")
    argv = ["listen", "--port", "0", "--json", "--host", "::1"]
    task = asyncio.create_task(run(arguments.parse(argv)))
    await asyncio.sleep(1)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    (first,) = objects(capsys.readouterr().out)
    assert re.fullmatch(r"http://\[::1\]:\d+", first["listening"])


async def test_callbacks_of_the_emulator(
    listening: Listening, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused callbacks come again as documented, and are counted."""
    task, origin = await listening("--json", "--count", "4", "--answer", "500")
    body = {
        "request_type": "callback",
        "callback_url": f"{origin}/{TOKEN}",
        "input": {"mode": "master-text-to-video", "prompt": "a fox"},
    }
    scenario = Scenario().on("task", 1, "fail:NSFW")
    async with Emulator(scenario=scenario) as emulator, aiohttp.ClientSession() as session:
        session.headers["Authorization"] = f"Bearer {emulator.key}"
        async with session.post(f"{emulator.base_url}/generateTask/kling-2-1", json=body):
            assert await task == 0
    arrivals = objects(capsys.readouterr().out)
    assert [arrival["times"] for arrival in arrivals] == [1, 2, 3, 4]
    assert {arrival["fail_code"] for arrival in arrivals} == {"NSFW"}
    assert [sent.status for sent in emulator.deliveries][:3] == [500, 500, 500]


async def test_a_port_that_is_taken(command: Command) -> None:
    """A port in use is one sentence and code 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = await command("listen", "--port", port)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"kling-async: cannot listen on 127.0.0.1 port {port}: ")
    assert len(ended.err.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_in_peace(start: Start, number: int) -> None:
    """Ctrl-C and SIGTERM are how it is meant to end: code 0, and nothing said."""
    process = start("listen", "--port", "0")
    assert process.stderr is not None
    assert process.stderr.readline().startswith("Listening on http://127.0.0.1:")
    process.send_signal(number)
    assert process.communicate() == ("", "")
    assert process.returncode == 0


def test_a_closed_pipe(start: Start) -> None:
    """If its lines cannot be written any more, it ends."""
    process = start("listen", "--port", "0")
    assert process.stderr is not None
    assert process.stdout is not None
    port = re.findall(r":(\d+) ", process.stderr.readline())[0]
    process.stdout.close()
    with socket.create_connection(("127.0.0.1", int(port))) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert process.stderr.read().endswith("written to stdout: Broken pipe\n")
    assert process.wait() == 7


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_lines_for_the_eye(start: Start, variables: dict[str, str]) -> None:
    """On a terminal the time is the clock's, and the state has a colour where that is wanted."""
    ours, theirs = os.openpty()
    env = {**os.environ, "TERM": "xterm", **variables}
    if not variables:
        env.pop("NO_COLOR", None)
    process = start("listen", "--port", "0", "--count", "2", stdout=theirs, env=env)
    os.close(theirs)
    assert process.stderr is not None
    port = int(re.findall(r":(\d+) ", process.stderr.readline())[0])
    failed = {**GOOD, "data": {"taskId": "task_2", "state": "failed", "failCode": "\x1b[2J"}}
    for body in (json.dumps(GOOD), "", json.dumps(failed)):
        head = f"POST /{TOKEN} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(f"{head}{body}".encode())
            assert connection.recv(20).startswith(b"HTTP/1.1 ")
    assert process.wait() == 0
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    green, yellow, red, end = ("\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[0m")
    if variables:
        green = yellow = red = end = ""
        assert "\x1b" not in shown
    first, second, third = shown.splitlines()
    size = len(json.dumps(GOOD))
    rest = f"({size} bytes, POST /kling-2-1~nonc…, answered 200)"
    assert re.fullmatch(r"\d\d:\d\d:\d\d", first[:8])
    assert first[8:] == f"  task_1  {green}success{end}  https://example.com/1.mp4  {rest}"
    assert second[8:].startswith(f"  {yellow}no callback{end}  the body is empty  (0 bytes, ")
    assert third[8:].startswith(f"  task_2  {red}failed{end}   [2J  (")
