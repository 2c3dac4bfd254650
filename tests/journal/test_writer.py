"""The thread that writes a journal, and its commits."""

from __future__ import annotations

import asyncio

import pytest

from kling_async.journal.writer import GroupWriter


class OddError(Exception):
    """An error of another library that cannot be copied."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code


async def test_an_error_for_all() -> None:
    """Every caller gets an error that cannot be copied."""

    def commit(calls: list[int]) -> list[object]:
        raise OddError(len(calls), "the driver stumbled")

    writer = GroupWriter("j", commit, most=10)
    await writer.start(lambda: None, lambda: None)
    try:
        async with asyncio.timeout(10):
            answers = await asyncio.gather(*map(writer.write, range(3)), return_exceptions=True)
    finally:
        await writer.stop(lambda: None)
    assert [str(error) for error in answers] == ["the driver stumbled"] * 3


async def test_a_copy_for_each() -> None:
    """What one caller adds to the error of a shared commit is not in the others' errors."""

    def commit(_: list[int]) -> list[object]:
        raise ValueError("the disk is full")

    writer = GroupWriter("j", commit, most=10)
    await writer.start(lambda: None, lambda: None)
    first = asyncio.ensure_future(writer.write(0))
    answers = await asyncio.gather(*map(writer.write, (1, 2)), return_exceptions=True)
    with pytest.raises(ValueError, match="full"):
        await first
    await writer.stop(lambda: None)
    assert answers[0] is not answers[1]
