"""One emulator for all tests, started before the application is imported."""

import os
from collections.abc import Iterator
from unittest import mock

import pytest

from kling_async.testing import Emulator


@pytest.fixture(scope="session", autouse=True)
def emulator() -> Iterator[Emulator]:
    with Emulator(speed=1000) as emulator, mock.patch.dict(os.environ, emulator.environment):
        yield emulator


@pytest.fixture(autouse=True)
def no_faults(emulator: Emulator) -> Iterator[None]:
    yield
    emulator.clear_faults()
