from __future__ import annotations

import asyncio
import os
import signal
import sys
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from tests.images.pictures import picture
from tests.processes import unmeasured

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Emulate

CAT = picture()
SHA = sha256(CAT).hexdigest()

SCRIPT = """
import asyncio, sys
from kling_async import Batch, Item, KlingClient, Polling, StandardImageToVideo
from pathlib import Path

url, key, store, journal, image, hang = sys.argv[1:]

class Hanging:
    async def put(self, image):
        print(image.name, flush=True)
        await asyncio.sleep(1000)

async def main():
    fast = Polling(first=0.02, shortest=0.02, longest=0.1)
    images = Hanging() if hang == "hang" else store
    async with (
        KlingClient(key, base_url=url, image_store=images, polling=fast) as kling,
        Batch(kling, journal=journal) as batch,
    ):
        async for outcome in batch.run([StandardImageToVideo("pan", Path(image))]):
            print(outcome.task_ref, outcome.error, flush=True)

asyncio.run(main())
"""


@pytest.mark.slow
async def test_killed_during_an_upload(emulate: Emulate, tmp_path: Path) -> None:
    """A process that is killed during an upload has paid for nothing; the next pays once."""
    emulator = await emulate(uploads=True, speed=1000.0)
    arguments = [emulator.base_url, emulator.key, emulator.image_store, str(tmp_path / "j.sqlite")]
    command = [sys.executable, "-c", SCRIPT, *arguments, str(tmp_path / "cat.jpg")]
    (tmp_path / "cat.jpg").write_bytes(CAT)
    for hang, lines in (("hang", f"{SHA}.jpg"), ("", "None"), ("", "None")):
        process = await asyncio.create_subprocess_exec(
            *command, hang, stdout=asyncio.subprocess.PIPE, env=unmeasured()
        )
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode().strip()
        if hang:
            assert line == lines
            os.kill(process.pid, signal.SIGKILL)
            assert not emulator.ledger
        else:
            assert line == f"kling-2-1/{emulator.ledger[0].task_id} None"
        await process.wait()
    assert len(emulator.ledger) == 1
