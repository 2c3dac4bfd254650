from __future__ import annotations

import asyncio

from kling_async.testing.emulator.background import Background


async def test_close_ends_everything() -> None:
    """Closing cancels what runs and waits until it has cleaned up."""
    log: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(1)
            log.append("cleaned")

    background = Background()
    background.start(work())
    await asyncio.sleep(0)
    await background.close()
    assert log == ["cleaned"]
    assert asyncio.get_running_loop().time() < 1000


async def test_finished_work_is_let_go() -> None:
    """What has ended by itself leaves nothing to close."""

    async def work() -> None:
        await asyncio.sleep(1)

    background = Background()
    background.start(work())
    await asyncio.sleep(2)
    assert len(asyncio.all_tasks()) == 1
    await background.close()
