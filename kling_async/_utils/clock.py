"""The clock of durations."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def find_clock() -> Callable[[], float]:
    """Return the clock of the running loop, if it has one of asyncio's, else Python's.

    It may be read outside the loop, where the clock of uvloop stops while that loop waits.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return time.monotonic
    return loop.time if isinstance(loop, asyncio.BaseEventLoop) else time.monotonic
