from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kling_async.media import inspect_video
from kling_async.testing.sample_files import FOLDER
from tests.processes import unmeasured

if TYPE_CHECKING:
    from tests.conftest import Emulate

GUIDE = Path(__file__).parents[2] / "docs/guides/chains.md"

# The guide's program, in a process that stops at one point: before or after a file is written.
PROGRAM = """
import asyncio, sys
from pathlib import Path
from kling_async import media

program, stop = sys.argv[1:]

def stopping(write):
    async def stopped(source, target, **options):
        await reach(f"before {Path(target).name}")
        await write(source, target, **options)
        await reach(f"after {Path(target).name}")
    return stopped

async def reach(point):
    if point == stop:
        print(point, flush=True)
        await asyncio.sleep(1000)

media.save_frame = stopping(media.save_frame)
media.join_videos = stopping(media.join_videos)
exec(program)
print("done", flush=True)
"""


@pytest.mark.slow
async def test_killed_between_clips(emulate: Emulate, tmp_path: Path) -> None:
    """A chain that is killed between clips continues, and each of its clips is paid once."""
    emulator = await emulate(uploads=True, speed=1000.0, video="small")
    found = re.search(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    shutil.copy(FOLDER / "fox.jpg", tmp_path)
    environment = {
        **unmeasured(),
        "APIXO_API_KEY": emulator.key,
        "APIXO_BASE_URL": emulator.base_url,
        "KLING_IMAGE_STORE": emulator.image_store,
        "KLING_FIRST_POLL": "0.05",
    }
    points = ["before clip-1.png", "after clip-1.png", "before clip-2.png", "before fox.mp4", ""]
    paid = [1, 1, 2, 3, 3]
    for point, number in zip(points, paid, strict=True):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAM, found[1], point),
            cwd=tmp_path,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert (await process.stdout.readline()).decode().strip() == (point or "done")
        if point:
            os.kill(process.pid, signal.SIGKILL)
        await process.communicate()
        assert len(emulator.ledger) == number
    images = ["fox.jpg", "fox/clip-1.png", "fox/clip-2.png"]
    for submission, image in zip(emulator.ledger, images, strict=True):
        checksum = sha256((tmp_path / image).read_bytes()).hexdigest()
        assert checksum in str(submission.input["image_urls"])
    assert (await inspect_video(tmp_path / "fox.mp4")).duration == 9.0
