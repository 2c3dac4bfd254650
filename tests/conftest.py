from __future__ import annotations

import asyncio
import inspect
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from aiohttp import web
from hypothesis import settings

import kling_async
from kling_async import KlingClient
from kling_async.testing import Emulator, Scenario
from tests.engines.nats import nats_url  # noqa: F401 - a fixture
from tests.engines.pgbouncer import pooled_port  # noqa: F401 - a fixture
from tests.engines.postgres import (  # noqa: F401 - fixtures
    batch_url,
    journal_database,
    postgres_server,
    postgres_url,
)
from tests.engines.rabbitmq import rabbitmq_url  # noqa: F401 - a fixture
from tests.engines.redis import redis_server, redis_url  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator


# No test depends on how fast the machine is.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


# The fixtures that start a server or a browser; the parameters that stand for one of them.
SERVERS = {"redis_server", "postgres_server", "nats_url", "rabbitmq_url", "browser"}
ENGINES = {"redis", "postgres", "nats", "rabbitmq"}


def pytest_configure(config: pytest.Config) -> None:
    """Let the workers run as strictly as the process that starts them, and nothing else.

    But for the guards around C's memory: nothing here is written in C, and they take a sixth of
    the time.
    """
    # A shell starts what is in its background with SIGINT ignored, and children inherit that: a
    # child that is to be interrupted would never end.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    strict = {"PYTHONDEVMODE": "1", "PYTHONMALLOC": "default"}
    if hasattr(config, "workerinput"):
        for name in strict:
            os.environ.pop(name, None)
    elif sys.flags.dev_mode and config.getoption("numprocesses", default=None):
        os.environ.update(strict)


def pytest_xdist_auto_num_workers() -> int:
    """Run more tests at once than there are cores: many wait for servers and processes.

    Not many more: each worker imports and collects all tests for itself.
    """
    cores = os.cpu_count() or 1
    return cores + (cores + 1) // 2


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what starts a server or a browser: ``-m ""`` runs it, too."""
    callspec = getattr(item, "callspec", None)
    named = {one for one in callspec.params.values() if isinstance(one, str)} if callspec else set()
    if SERVERS.intersection(getattr(item, "fixturenames", ())) or ENGINES & named:
        item.add_marker("slow")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Leave what is marked as repeating out of the coverage.

    Python runs two to four times slower while its lines are measured.
    """
    tracer = sys.gettrace() if item.get_closest_marker("repeating") else None
    if tracer is None:
        return (yield)
    sys.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(tracer)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests have measured."""
    figures = [
        str(value)
        for outcome in ("passed", "failed", "xfailed", "xpassed")
        for report in terminalreporter.stats.get(outcome, ())
        for name, value in report.user_properties
        if name == "figure"
    ]
    if figures:
        terminalreporter.section("figures")
        for each in figures:
            terminalreporter.line(each)


class Figure(Protocol):
    def __call__(self, text: str) -> None: ...


class Emulate(Protocol):
    async def __call__(self, *rules: str, **options: Any) -> Emulator: ...  # noqa: ANN401


class Connect(Protocol):
    async def __call__(self, emulator: Emulator, **options: Any) -> KlingClient: ...  # noqa: ANN401


class ServeRaw(Protocol):
    async def __call__(
        self, talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ) -> str: ...


class ServeApp(Protocol):
    async def __call__(
        self, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> str: ...


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figure:
    """Report a figure that a test has measured; pytest prints it after the tests."""

    def figure(text: str) -> None:
        record_property("figure", text)

    return figure


@pytest.fixture
def leftovers() -> Callable[[], set[str]]:
    """Name what the library still runs on the loop; the emulator does not count."""
    home = Path(inspect.getfile(kling_async)).parent

    def leftovers() -> set[str]:
        coroutines = [task.get_coro() for task in asyncio.all_tasks()]
        return {
            coroutine.__qualname__
            for coroutine in coroutines
            if inspect.iscoroutine(coroutine)
            and home in (path := Path(coroutine.cr_code.co_filename)).parents
            and home / "testing" not in path.parents
        }

    return leftovers


@pytest.fixture
async def emulate() -> AsyncIterator[Emulate]:
    """Start an emulator with rules and options; a video takes 60 s in it."""
    async with AsyncExitStack() as stack:

        async def emulate(*rules: str, **options: Any) -> Emulator:  # noqa: ANN401
            defaults = {"video": "small", "duration": (60.0, 60.0)}
            emulator = Emulator(scenario=Scenario.parse(rules), **{**defaults, **options})
            return await stack.enter_async_context(emulator)

        yield emulate


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Make a client of an emulator; it is closed at the end."""
    async with AsyncExitStack() as stack:

        async def connect(emulator: Emulator, **options: Any) -> KlingClient:  # noqa: ANN401
            defaults = {"api_key": emulator.key, "base_url": emulator.base_url}
            return await stack.enter_async_context(KlingClient(**{**defaults, **options}))

        yield connect


@pytest.fixture
async def serve_raw() -> AsyncIterator[ServeRaw]:
    """Start a server that speaks bytes; every connection is closed at the end."""
    async with AsyncExitStack() as stack:

        async def serve(
            talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
        ) -> str:
            talks: set[asyncio.Task[None]] = set()

            async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                try:
                    await talk(reader, writer)
                except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                    pass  # the other side has gone, or the test has
                finally:
                    writer.close()

            def start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = asyncio.create_task(run(reader, writer))
                talks.add(task)
                task.add_done_callback(talks.discard)

            async def stop() -> None:
                server.close()
                for task in talks:
                    task.cancel()
                await asyncio.gather(*talks)
                await asyncio.sleep(0)

            server = await asyncio.start_server(start, "127.0.0.1", 0)
            stack.push_async_callback(stop)
            return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

        yield serve


@pytest.fixture
async def serve_app() -> AsyncIterator[ServeApp]:
    """Start a web server in which one handler answers everything."""
    async with AsyncExitStack() as stack:

        async def serve(
            handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
        ) -> str:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", handler)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            return f"http://127.0.0.1:{runner.addresses[0][1]}"

        yield serve
