"""Constants and helpers for the tests of the client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kling_async import MasterTextToVideo

if TYPE_CHECKING:
    from kling_async.testing import Emulator

FOX = MasterTextToVideo("a fox in fresh snow")

KEY = "sk-very-secret-key-0123456789"


def now() -> float:
    """Give the loop's time."""
    return asyncio.get_running_loop().time()


def posts(emulator: Emulator) -> int:
    """Count the submits that arrived."""
    return sum(arrival.method == "POST" for arrival in emulator.requests)


async def settle() -> None:
    """Let what has been cancelled come to its end."""
    await asyncio.sleep(0.01)
