from __future__ import annotations

import asyncio
import time

import pytest

from kling_async.telemetry.clock import read_clock


@pytest.mark.virtual_time
async def test_in_a_loop() -> None:
    """It is the loop's time, which may be virtual."""
    before = read_clock()
    await asyncio.sleep(1000)
    assert read_clock() - before == pytest.approx(1000, abs=1)


def test_without_a_loop() -> None:
    """Without a loop it is the clock of asyncio's own loops."""
    before = time.monotonic()
    assert before <= read_clock() <= time.monotonic()
