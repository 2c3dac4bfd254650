"""The clock of durations."""

from __future__ import annotations

import asyncio
import time


def read_clock() -> float:
    """Return the time of the running event loop, or outside of a loop what one would read.

    A task may be attached outside an event loop.
    """
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()
