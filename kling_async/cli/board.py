"""How far a batch is: a line now and then, or a block that moves on a terminal.

It goes to stderr, so that stdout holds results alone.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from kling_async.cli.output import printable, write
from kling_async.cli.progress import is_live

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from kling_async.cli.counts import Tally

# Seconds between two lines, or two pictures.
_LINES = 30.0
_PICTURES = 0.5


@asynccontextmanager
async def board(tally: Tally, label: str, *, silent: bool = False) -> AsyncIterator[None]:
    """Show how far a batch is, until this is left.

    Args:
        tally: What knows it.
        label: What it is.
        silent: Show nothing at all, for programs that read stderr.
    """
    if silent:
        yield
    elif is_live():
        from kling_async.cli.live import Block

        with Block(printable(label)) as block:
            async with _again(lambda: block.show(tally.share(), tally.words()), _PICTURES):
                yield
    else:
        async with _again(lambda: write(sys.stderr, printable(tally.words())), _LINES):
            yield


@asynccontextmanager
async def _again(show: Callable[[], object], pause: float) -> AsyncIterator[None]:
    async def go_on() -> None:
        while True:
            await asyncio.sleep(pause)
            show()

    showing = asyncio.create_task(go_on())
    try:
        yield
    finally:
        showing.cancel()
        with suppress(asyncio.CancelledError):
            await showing
        show()
