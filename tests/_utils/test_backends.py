"""Servers that several processes share."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from kling_async import ConfigurationError, MissingExtraError
from kling_async._utils.backends import answer_timeout, load_backend, shut_down_socket


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://cache", "the cat can be at redis://, .*; not at http://"),
        ("me:word@cache:6379", "not at anything else"),
        ("me:word://cache", "not at anything else"),
        ("", "not at anything else"),
    ],
)
def test_addresses_of_no_known_kind(url: str, message: str) -> None:
    """A URL with an unknown scheme raises an error that shows nothing secret."""
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_backend(url, "kling_async.limits.shared.{}", "the cat")
    assert "word" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("valkeys://cache", "kling_async.limits.shared.redis"),
        ("postgres://", "kling_async.limits.shared.postgres"),
    ],
)
def test_modules(url: str, name: str) -> None:
    """The scheme of the URL selects the module."""
    assert load_backend(url, "kling_async.limits.shared.{}", "the cat").__name__ == name


def test_cut() -> None:
    """Both sides read the end of the data; a second call has no effect."""
    here, there = socket.socketpair()
    with here, there:
        shut_down_socket(here.fileno())
        assert here.recv(1) == there.recv(1) == b""
        there.close()
        shut_down_socket(here.fileno())


async def test_an_answer_while_the_loop_was_blocked() -> None:
    """Time in which the event loop was blocked does not count."""
    here, there = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=here)

    def block() -> None:
        time.sleep(0.3)
        asyncio.get_running_loop().call_later(0.02, there.send, b"yes")

    with there:
        async with answer_timeout(0.2):
            asyncio.get_running_loop().call_soon(block)
            assert await reader.read(3) == b"yes"
    writer.close()
    await writer.wait_closed()


@pytest.mark.virtual_time
async def test_no_answer() -> None:
    """Without an answer, TimeoutError is raised; after the block, nothing is cancelled."""
    begun = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        async with answer_timeout(5):
            await asyncio.sleep(60)
    assert asyncio.get_running_loop().time() - begun == pytest.approx(5)
    async with answer_timeout(5):
        await asyncio.sleep(4)
    await asyncio.sleep(60)


async def test_without_a_limit() -> None:
    """None waits without a limit."""
    async with answer_timeout(None):
        await asyncio.sleep(0)


def test_a_missing_driver() -> None:
    """If the module cannot be imported, the error names the extra to install."""
    with pytest.raises(MissingExtraError, match=r"the cat at redis:// needs .*\[redis\]"):
        load_backend("redis://cache", "kling_async.limits.no_{}", "the cat")
