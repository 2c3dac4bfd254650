from __future__ import annotations

import re
import socket

import pytest

from kling_async._network.local_address import _address_towards, reachable_origin


@pytest.mark.parametrize("origin", ["http://127.0.0.1:5", "http://[::1]:5", "http://emulator:8080"])
def test_addresses_of_one_interface(origin: str) -> None:
    """An origin without a wildcard stays as it is."""
    assert reachable_origin(origin) == origin


def test_wildcards() -> None:
    """A wildcard is replaced by an address; one of version 6 is put in brackets."""
    assert re.fullmatch(r"http://[0-9.]+:5", reachable_origin("http://0.0.0.0:5"))
    assert re.fullmatch(r"http://\[[0-9a-f:]+\]:5", reachable_origin("http://[::]:5"))


def test_no_network() -> None:
    """Without a route to the other address, it is the loopback address."""
    nowhere = (socket.AF_INET, "255.255.255.255", "127.0.0.1")
    assert _address_towards(*nowhere) == "127.0.0.1"
