from __future__ import annotations

from tests.cli.conftest import emulate, pytest_asyncio_loop_factories, start  # noqa: F401 - used by name
