from __future__ import annotations

from tests.cli.conftest import (
    emulate as emulate_process,  # noqa: F401 - a fixture
)
from tests.cli.conftest import (
    pytest_asyncio_loop_factories,  # noqa: F401 - used by name
    start,  # noqa: F401 - a fixture
)
