from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import AsyncExitStack, ExitStack
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeVar

import pytest
from aiohttp import web
from attrs import frozen

from kling_async.cli import arguments
from kling_async.cli.main import run
from kling_async.testing import Emulator, Scenario
from kling_async.testing.clock import VirtualLoop
from kling_async.testing.sample_files import FOLDER
from tests.processes import unmeasured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from pathlib import Path

_Rows = TypeVar("_Rows")

KEY = "a-secret-key-of-the-tests"
# Without "-X dev": a loop in debug mode reports on stderr that a machine is slow.
COMMAND = (sys.executable, "-W", "error", "-m", "kling_async")


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the tests here on virtual time, where nothing waits; but not if servers are to answer."""
    if item.get_closest_marker("real_time"):
        return {"real": asyncio.SelectorEventLoop}
    return {"virtual": VirtualLoop}


def read_file(read: Callable[[Path, IO[bytes]], Iterable[_Rows]], path: Path) -> list[_Rows]:
    """Return all that a function yields of a file."""
    with path.open("rb") as file:
        return list(read(path, file))


@frozen
class Ended:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """What stdout holds, read as JSON Lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def errors(self) -> list[dict[str, Any]]:
        """What stderr holds, read as JSON Lines."""
        return [json.loads(line) for line in self.err.splitlines()]


class Command(Protocol):
    async def __call__(self, *argv: object) -> Ended: ...


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command line on the test's own loop."""

    async def command(*argv: object) -> Ended:
        code = await run(arguments.parse([str(arg) for arg in argv]))
        return Ended(code, *capsys.readouterr())

    return command


class Serve(Protocol):
    async def __call__(self, *rules: str, **options: Any) -> Emulator: ...  # noqa: ANN401


@pytest.fixture
async def serve(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serve]:
    """Start an emulator and let the environment name it; a video takes 60 s in it."""
    async with AsyncExitStack() as stack:

        async def serve(*rules: str, **options: Any) -> Emulator:  # noqa: ANN401
            defaults = {
                "video": "small",
                "duration": (60.0, 60.0),
                "api_key": KEY,
                "samples": FOLDER,
            }
            emulator = Emulator(scenario=Scenario.parse(rules), **{**defaults, **options})
            await stack.enter_async_context(emulator)
            monkeypatch.setenv("APIXO_API_KEY", KEY)
            monkeypatch.setenv("APIXO_BASE_URL", emulator.origin)
            return emulator

        yield serve


@pytest.fixture
async def serve_large() -> AsyncIterator[str]:
    """Serve a picture of one byte more than 10 MB; give its URL."""

    async def large(_request: web.Request) -> web.Response:
        return web.Response(body=b"\xff\xd8\xff" + bytes(10 * 1024 * 1024 - 2))

    app = web.Application()
    app.router.add_get("/large.jpg", large)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/large.jpg"
    await runner.cleanup()


class Start(Protocol):
    def __call__(self, *argv: str, **options: Any) -> subprocess.Popen[str]: ...  # noqa: ANN401


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a command as a process of its own; what still runs at the end is ended."""
    with ExitStack() as stack:

        def start(*argv: str, **options: Any) -> subprocess.Popen[str]:  # noqa: ANN401
            return _start(stack, *argv, **options)

        yield start


def _start(stack: ExitStack, *argv: str, **options: Any) -> subprocess.Popen[str]:  # noqa: ANN401
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen((*COMMAND, *argv), **{**pipes, **options})
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


class Execute(Protocol):
    def __call__(self, *argv: str, env: dict[str, str] | None = None) -> Ended: ...


@pytest.fixture
def execute() -> Execute:
    """Run a command as a process of its own, to its end."""

    def execute(*argv: str, env: dict[str, str] | None = None) -> Ended:
        done = subprocess.run(
            (*COMMAND, *argv), env=env, capture_output=True, text=True, check=False
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return execute


class Emulate(Protocol):
    def __call__(self, *options: str) -> dict[str, str]: ...


def start_emulator(stack: ExitStack, *options: str) -> dict[str, str]:
    """Start `kling-async emulate` until the stack is left; return the environment for clients."""
    argv = ("emulate", "--port", "0", "--video", "small", *options)
    process = _start(stack, *argv, env=unmeasured())
    env = dict(os.environ)
    for _ in range(2):
        assert process.stdout is not None
        name, _, value = process.stdout.readline().removeprefix("export ").partition("=")
        env[name] = value.strip()
    return env


@pytest.fixture
def emulate() -> Iterator[Emulate]:
    """Start `kling-async emulate` with options; give the environment for its clients."""
    with ExitStack() as stack:
        yield lambda *options: start_emulator(stack, *options)
