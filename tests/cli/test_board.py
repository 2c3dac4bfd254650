from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from kling_async.cli.board import board
from kling_async.cli.counts import Tally
from kling_async.journal.base import ItemState

Capture = pytest.CaptureFixture[str]


def _tally() -> Tally:
    clock = asyncio.get_running_loop().time
    tally = Tally(4, saving=False, expected=60.0, clock=clock)
    tally.counts = lambda: Counter({ItemState.FINISHED: 1, ItemState.SUBMITTED: 3})
    return tally


async def test_a_line_now_and_then(capsys: Capture) -> None:
    """Where stderr is no terminal, there is a line every half minute, and one at the end."""
    async with board(_tally(), "clips.jsonl"):
        await asyncio.sleep(29)
        assert capsys.readouterr() == ("", "")
        await asyncio.sleep(32)
        (first, _) = capsys.readouterr().err.splitlines()
    assert first == "1 of 4 done, 3 running, 0 queued, 0 failed, 0 unsure, about 30 s left"
    assert capsys.readouterr().err.startswith("1 of 4 done")


async def test_silence(capsys: Capture) -> None:
    """Silent, there is nothing."""
    async with board(_tally(), "clips.jsonl", silent=True):
        await asyncio.sleep(100)
    assert capsys.readouterr() == ("", "")


async def test_errors_pass_through() -> None:
    """What goes wrong meanwhile is not hidden, and nothing is left running."""

    async def fail() -> None:
        async with board(_tally(), "clips.jsonl"):
            await asyncio.sleep(1)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await fail()
    assert len(asyncio.all_tasks()) == 1
