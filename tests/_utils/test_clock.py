from __future__ import annotations

import asyncio
import time

import pytest

from kling_async._utils.clock import find_clock


@pytest.mark.virtual_time
async def test_clock_of_the_loop() -> None:
    """On virtual time, the clock is the loop's."""
    assert find_clock() == asyncio.get_running_loop().time


def test_clock_without_a_loop() -> None:
    """Without a loop, the clock is Python's."""
    assert find_clock() is time.monotonic
