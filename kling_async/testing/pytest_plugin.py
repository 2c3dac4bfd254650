"""Fixtures for tests of code that uses this package: an emulator, a client, virtual time.

pytest loads this plugin wherever the package is installed. The fixtures need
pytest-asyncio (``pip install "kling-async[pytest]"``); they are:

- ``kling_emulator``: an :class:`~kling_async.testing.Emulator` of its own for each test;
- ``kling_client``: a :class:`~kling_async.KlingClient` for it;
- ``kling_emulator_options`` and ``kling_client_options``: dictionaries of keyword arguments
  for the two; override them to change something.

A test marked ``@pytest.mark.virtual_time`` runs on a loop where waiting costs nothing, and
so does every test when the ini option ``kling_virtual_time`` is true.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from kling_async._utils.extras import missing_extra

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator

    from kling_async import KlingClient
    from kling_async.testing import Emulator

_Factories = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]

_MARKER = "virtual_time"
_INI = "kling_virtual_time"


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
    """Keyword arguments for the emulator; override it to change something."""
    return {}


@pytest.fixture
def kling_client_options() -> Mapping[str, object]:
    """Keyword arguments for the client; override it to change something."""
    return {}


async def _emulator(kling_emulator_options: Mapping[str, object]) -> AsyncIterator[Emulator]:
    from kling_async.testing import Emulator

    async with Emulator(**kling_emulator_options) as emulator:  # type: ignore[arg-type]  # the user's
        yield emulator


async def _client(
    kling_emulator: Emulator, kling_client_options: Mapping[str, object]
) -> AsyncIterator[KlingClient]:
    from kling_async import KlingClient

    options = {
        "api_key": kling_emulator.key,
        "base_url": kling_emulator.base_url,
        **kling_client_options,
    }
    async with KlingClient(**options) as client:  # type: ignore[arg-type]  # the user's
        yield client


def _needs_extra() -> None:
    raise missing_extra("pytest", "the kling fixtures need pytest-asyncio")


# Their types are pytest's own.
kling_emulator: object
kling_client: object

if find_spec("pytest_asyncio"):
    import pytest_asyncio

    kling_emulator = pytest_asyncio.fixture(name="kling_emulator")(_emulator)
    kling_client = pytest_asyncio.fixture(name="kling_client")(_client)
else:
    kling_emulator = pytest.fixture(name="kling_emulator")(_needs_extra)
    kling_client = pytest.fixture(name="kling_client")(_needs_extra)
