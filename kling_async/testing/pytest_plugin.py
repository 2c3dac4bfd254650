"""Fixtures for tests of code that uses this package: an emulator, a client, virtual time.

pytest loads this plugin wherever the package is installed. The fixtures are:

- ``kling_emulator``: an :class:`~kling_async.testing.Emulator` of its own for each test;
- ``kling_client``: a :class:`~kling_async.KlingClient` for it;
- ``kling_emulator_options`` and ``kling_client_options``: dictionaries of keyword arguments
  for the two; override them to change something.

In a test that pytest-asyncio runs, the emulator runs on the loop of the test. Such a test, if it is
marked ``@pytest.mark.virtual_time``, runs on a loop where waiting costs nothing, and so does every
one when the ini option ``kling_virtual_time`` is true.

In any other test (a plain ``def``, a ``unittest.TestCase``, a coroutine that anyio's plugin runs),
the emulator runs in a thread of its own, on real time, and a video takes less than 0.1 s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, get_args

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator

    from kling_async import KlingClient
    from kling_async.testing import Emulator

_Factories = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]

_MARKER = "virtual_time"
_INI = "kling_virtual_time"

# Real time: 60 to 120 s of the service are 0.06 to 0.12 s.
_THREAD_SPEED = 1000.0
_Scope = Literal["function", "class", "module", "package", "session"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini option that runs every test on virtual time."""
    parser.addini(_INI, "run every asynchronous test on virtual time", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers", f"{_MARKER}: run this asynchronous test on virtual time (kling_async)"
    )


# A wrapper, so that all other tests get the loop that their own conftest configures; optional,
# because the hook is pytest-asyncio's, which may not be there.
@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Generator[None, _Factories | None, _Factories]:
    """Run marked tests on virtual time."""
    factories = yield
    if config.getini(_INI) or item.get_closest_marker(_MARKER) is not None:
        from kling_async.testing.clock import VirtualLoop

        return {"virtual": VirtualLoop}
    # pytest-asyncio accepts no None from a hook: return its own default.
    return factories or {"default": asyncio.new_event_loop}


@pytest.fixture
def kling_emulator_options() -> Mapping[str, object]:
    """Keyword arguments for `kling_emulator`: override it to change something.

    For example `return {"concurrent_tasks": 3, "video": "small"}`.
    """
    return {}


@pytest.fixture
def kling_client_options() -> Mapping[str, object]:
    """Keyword arguments for `kling_client`: override it to change something.

    For example `return {"retry": Retry(attempts=1)}`.
    """
    return {}


@pytest.fixture
def kling_emulator(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    """An emulator of the service for this test: its `ledger` has every task that was paid.

    In a test that pytest-asyncio runs, it is on the test's loop, also if time is virtual. In any
    other test it is in a thread of its own, with a speed of 1000: a video takes less than 0.1 s.
    """
    scope = _loop_scope(request.node)
    if scope is not None:
        yield request.getfixturevalue(f"_kling_emulator_on_{scope}_loop")
        return
    from kling_async.testing import Emulator

    options = request.getfixturevalue("kling_emulator_options")
    with Emulator(**{"speed": _THREAD_SPEED, **options}) as emulator:
        yield emulator


@pytest.fixture
def kling_client(request: pytest.FixtureRequest) -> KlingClient:
    """An asynchronous client of `kling_emulator`.

    In a test that pytest-asyncio runs, it is closed after the test. In any other test, what opens
    it closes it, such as the lifespan of the application.
    """
    scope = _loop_scope(request.node)
    if scope is not None:
        client: KlingClient = request.getfixturevalue(f"_kling_client_on_{scope}_loop")
        return client
    return _client(
        request.getfixturevalue("kling_emulator"), request.getfixturevalue("kling_client_options")
    )


def _loop_scope(test: pytest.Item) -> str | None:
    """Return the scope of the loop on which pytest-asyncio runs a test; None: it does not."""
    if not find_spec("pytest_asyncio"):
        return None
    from pytest_asyncio import is_async_test

    marker = test.get_closest_marker("asyncio")
    # anyio's plugin takes a test with its marker, also one that pytest-asyncio would run.
    if marker is None or not is_async_test(test) or test.get_closest_marker("anyio"):
        return None
    default = test.config.getini("asyncio_default_test_loop_scope")
    return str(marker.kwargs.get("loop_scope") or marker.kwargs.get("scope") or default)


def _client(emulator: Emulator, options: Mapping[str, object]) -> KlingClient:
    from kling_async import KlingClient
    from kling_async.policy.scaled_polling import scaled_polling

    first = emulator.environment.get("KLING_FIRST_POLL")
    given = {
        "api_key": emulator.key,
        "base_url": emulator.base_url,
        "polling": scaled_polling(float(first)) if first else None,
        **options,
    }
    return KlingClient(**given)  # type: ignore[arg-type]  # the user's


def _fixtures_on_loop(scope: _Scope) -> dict[str, object]:
    """Return the fixtures for tests whose loop has a scope: a fixture belongs to one loop."""
    import pytest_asyncio

    names = f"_kling_emulator_on_{scope}_loop", f"_kling_client_on_{scope}_loop"

    @pytest_asyncio.fixture(name=names[0], loop_scope=scope)
    async def emulator(kling_emulator_options: Mapping[str, object]) -> AsyncIterator[Emulator]:
        from kling_async.testing import Emulator

        async with Emulator(**kling_emulator_options) as emulator:  # type: ignore[arg-type]  # the user's
            yield emulator

    @pytest_asyncio.fixture(name=names[1], loop_scope=scope)
    async def client(
        kling_emulator: Emulator, kling_client_options: Mapping[str, object]
    ) -> AsyncIterator[KlingClient]:
        async with _client(kling_emulator, kling_client_options) as client:
            yield client

    return dict(zip(names, (emulator, client), strict=True))


if find_spec("pytest_asyncio"):
    for _scope in get_args(_Scope):
        globals().update(_fixtures_on_loop(_scope))
