"""Addresses of servers that processes share."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from kling_async import ConfigurationError
from kling_async._utils.backends import answer_timeout, load_backend, shut_down_socket


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://cache", "the cat can be at redis://, .*; not at http://"),
        ("me:word@cache:6379", "not at anything else"),
        ("me:word://cache", "not at anything else"),
        ("", "not at anything else"),
    ],
)
def test_addresses_of_no_known_kind(url: str, told: str) -> None:
    """An address that nothing here can speak to is refused; what may be secret is not told."""
    with pytest.raises(ConfigurationError, match=told) as caught:
        load_backend(url, "kling_async.limits.shared.{}", "the cat")
    assert "word" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("valkeys://cache", "kling_async.limits.shared.redis"),
        ("postgres://", "kling_async.limits.shared.postgres"),
    ],
)
def test_who_speaks_to_them(url: str, name: str) -> None:
    """The scheme of an address says which module is loaded."""
    assert load_backend(url, "kling_async.limits.shared.{}", "the cat").__name__ == name


def test_cut() -> None:
    """Who waits for the other side hears at once that it is gone; a second time does no harm."""
    here, there = socket.socketpair()
    with here, there:
        shut_down_socket(here.fileno())
        assert here.recv(1) == there.recv(1) == b""
        there.close()
        shut_down_socket(here.fileno())


async def test_an_answer_that_came_while_we_stood_still() -> None:
    """It is in time, however late it is read, also if the server stood still as long."""
    here, there = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=here)

    def stand_still() -> None:
        time.sleep(0.3)
        asyncio.get_running_loop().call_later(0.02, there.send, b"yes")

    with there:
        async with answer_timeout(0.2):
            asyncio.get_running_loop().call_soon(stand_still)
            assert await reader.read(3) == b"yes"
    writer.close()
    await writer.wait_closed()


@pytest.mark.virtual_time
async def test_no_answer() -> None:
    """Who does not answer is given up; what was in time is left alone afterwards."""
    begun = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        async with answer_timeout(5):
            await asyncio.sleep(60)
    assert asyncio.get_running_loop().time() - begun == pytest.approx(5)
    async with answer_timeout(5):
        await asyncio.sleep(4)
    await asyncio.sleep(60)
