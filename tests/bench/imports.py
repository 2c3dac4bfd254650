"""What ``import kling_async`` costs beside ``import aiohttp``, above a bare interpreter."""

import asyncio
import subprocess
import sys
import time
from functools import partial
from statistics import median

from tests.bench import figures

ROUNDS = 15


async def start(code: str) -> float:
    """Return the seconds that an interpreter takes to run one line."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - begun


def main() -> None:
    """Print the ratio."""
    lines = {"bare": "pass", "aiohttp": "import aiohttp", "ours": "import kling_async"}
    runs = {name: partial(start, code) for name, code in lines.items()}
    taken = asyncio.run(figures.take_turns(runs, ROUNDS))
    bare = median(taken["bare"])
    aiohttp, ours = (median(taken[name]) - bare for name in ("aiohttp", "ours"))
    figures.title(f"Import: medians of {ROUNDS} starts, less a bare one of {bare * 1000:.0f} ms")
    figures.row("import aiohttp", f"{aiohttp * 1000:.0f} ms")
    figures.row("import kling_async", f"{ours * 1000:.1f} ms", f"ratio {ours / aiohttp:.2f}")


if __name__ == "__main__":
    main()
