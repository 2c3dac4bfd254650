"""The thread that writes a journal."""

from __future__ import annotations

import asyncio

import pytest

from kling_async.journal.writer import GroupWriter


class OddError(Exception):
    """One of somebody else's classes: it cannot be copied."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code


async def test_whatever_goes_wrong_is_told_to_all() -> None:
    """Nobody waits for ever for a commit that failed with an error which cannot be copied."""

    def commit(calls: list[int]) -> list[object]:
        raise OddError(len(calls), "the driver stumbled")

    writer = GroupWriter("j", commit, most=10)
    await writer.start(lambda: None, lambda: None)
    try:
        async with asyncio.timeout(10):
            told = await asyncio.gather(*map(writer.write, range(3)), return_exceptions=True)
    finally:
        await writer.stop(lambda: None)
    assert [str(error) for error in told] == ["the driver stumbled"] * 3


async def test_each_is_told_with_an_error_of_its_own() -> None:
    """What one caller adds to the error of a commit that was all of theirs, others do not see."""

    def commit(_: list[int]) -> list[object]:
        raise ValueError("the disk is full")

    writer = GroupWriter("j", commit, most=10)
    await writer.start(lambda: None, lambda: None)
    first = asyncio.ensure_future(writer.write(0))
    told = await asyncio.gather(*map(writer.write, (1, 2)), return_exceptions=True)
    with pytest.raises(ValueError, match="full"):
        await first
    await writer.stop(lambda: None)
    assert told[0] is not told[1]
